"""Starting and stopping the real binary and its peers."""
import json, os, shutil, signal, socket, subprocess, tempfile, time

import requests

BIN = os.environ["INTEROP_BIN"]
ROOT = tempfile.mkdtemp(prefix="strandline-interop-")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """One strandline process on ports of its own."""

    def __init__(self, name, *flags, env=None, data=None):
        self.dir = data or os.path.join(ROOT, name)
        self.http, self.grpc, self.otlp = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http}"
        self.flags = list(flags)
        self.env = {**os.environ, **(env or {})}
        self.log = os.path.join(ROOT, name + ".log")
        self.p = None

    def command(self):
        return [BIN, "serve", "--data-dir", self.dir, "--listen", f"127.0.0.1:{self.http}",
                "--otlp-grpc", f"127.0.0.1:{self.grpc}", "--otlp-http", f"127.0.0.1:{self.otlp}", *self.flags]

    def start(self, wait=True):
        self.p = subprocess.Popen(self.command(), stdout=subprocess.DEVNULL, stderr=open(self.log, "ab"), env=self.env)
        if wait:
            until = time.time() + 60
            while time.time() < until:
                try:
                    if requests.get(self.url + "/-/ready", timeout=2).status_code == 200:
                        return self
                except requests.RequestException:
                    pass
                if self.p.poll() is not None:
                    break
                time.sleep(0.05)
            raise AssertionError(f"{self.command()} is not ready:\n{self.text()}")
        return self

    def text(self):
        return open(self.log).read()

    def whole(self):
        """Waits until it knows all blocks: a bucket that has just come back may fail some calls, and is asked again."""
        until = time.time() + 60
        while "answers_incomplete{tenant=\"anonymous\"} 0" not in requests.get(self.url + "/metrics", timeout=10).text:
            assert time.time() < until, self.text()
            time.sleep(0.1)
        return self

    def kill(self):
        self.p.send_signal(signal.SIGKILL)
        self.p.wait()

    def stop(self, sig=signal.SIGTERM):
        t = time.time()
        self.p.send_signal(sig)
        code = self.p.wait(20)
        return code, time.time() - t

    def query(self, q, at=None):
        r = requests.get(self.url + "/api/v1/query", params={"query": q, **({"time": at} if at else {})})
        assert r.status_code == 200, r.text
        return r.json()["data"]["result"]

    def value(self, q, at=None):
        got = self.query(q, at)
        assert len(got) == 1, (q, got)
        return float(got[0]["value"][1])

    def flush(self, patience_s=0):
        """Flushes and uploads. A bucket that has just come back may fail some calls."""
        until = time.time() + patience_s
        while True:
            r = requests.post(self.url + "/api/v1/admin/flush", timeout=60)
            if r.status_code == 204:
                return
            assert time.time() < until, (r.status_code, r.text)
            time.sleep(0.2)


class Weed:
    """An S3 server: SeaweedFS."""

    KEY, SECRET = "strandkey", "strandsecret"

    def __init__(self, name, bucket="blocks"):
        self.dir = os.path.join(ROOT, name)
        os.makedirs(self.dir, exist_ok=True)
        self.port, self.bucket = free_port(), bucket
        self.conf = os.path.join(self.dir, "s3.json")
        who = {"name": "a", "credentials": [{"accessKey": self.KEY, "secretKey": self.SECRET}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        json.dump({"identities": [who]}, open(self.conf, "w"))
        self.p = None
        self.ports = {k: free_port() for k in ("master", "volume", "filer")}

    def start(self):
        weed = shutil.which("weed", path=os.path.join(os.path.dirname(__import__("sys").executable)) + os.pathsep + os.environ["PATH"])
        cmd = [weed, "mini", f"-dir={self.dir}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-webdav=false",
               "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-bucket={self.bucket}", f"-s3.config={self.conf}", f"-s3.port={self.port}"]
        self.p = subprocess.Popen(cmd, stdout=open(self.dir + ".log", "ab"), stderr=subprocess.STDOUT)
        until = time.time() + 40
        while time.time() < until:
            try:
                if requests.get(f"http://127.0.0.1:{self.port}/{self.bucket}", timeout=2).status_code in (200, 403):
                    # The bucket is made a moment after the port opens.
                    time.sleep(1.5)
                    return self
            except requests.RequestException:
                time.sleep(0.1)
        raise AssertionError("the S3 server did not start: " + open(self.dir + ".log").read()[-2000:])

    def stop(self):
        self.p.kill()
        self.p.wait()

    def env(self, secret=None):
        return {"STRANDLINE_BUCKET_ENDPOINT": f"http://127.0.0.1:{self.port}", "AWS_ACCESS_KEY_ID": self.KEY,
                "AWS_SECRET_ACCESS_KEY": secret or self.SECRET}


def kill_children():
    """Ends what a failed check has left running: it would slow down those that follow."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1]
            if int(parent) == os.getpid():
                os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass


def cleanup():
    shutil.rmtree(ROOT, ignore_errors=True)
