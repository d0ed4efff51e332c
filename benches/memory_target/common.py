"""What the measurements of memory share: protobuf by hand, and a server whose anonymous memory is watched."""
import contextlib
import http.client
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time

PORT, GRPC, OTLP = 19490, 14487, 14488


def varint(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def number(n, v):
    return varint(n << 3) + varint(v)


def fixed(n, v):
    return varint(n << 3 | 1) + struct.pack("<Q", v)


def ready():
    try:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
        connection.request("GET", "/-/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False


def anonymous_mib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Watched:
    """A server in a folder of its own, and what it took, twenty times a second."""

    def __init__(self, process):
        self.process, self.seen, self.stop = process, [], threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.stop.wait(0.05):
            with contextlib.suppress(OSError):
                self.seen.append(anonymous_mib(self.process.pid))

    def most_mib(self):
        seen = sorted(self.seen)
        most, p95, half = seen[-1], seen[len(seen) * 95 // 100], seen[len(seen) // 2]
        print(f"anonymous memory: at most {most:.0f} MiB, 95 % {p95:.0f} MiB, median {half:.0f} MiB, at the end {self.seen[-1]:.0f} MiB")
        return most


@contextlib.contextmanager
def server(limit):
    """Starts the binary that STRANDLINE names (target/release/strandline) and gives it once it is ready."""
    with tempfile.TemporaryDirectory() as folder:
        command = [os.environ.get("STRANDLINE", "target/release/strandline"), "serve", "--data-dir", folder + "/data"]
        command += ["--listen", f"127.0.0.1:{PORT}", "--otlp-grpc", f"127.0.0.1:{GRPC}", "--otlp-http", f"127.0.0.1:{OTLP}"]
        with open(folder + "/log", "wb") as log:
            process = subprocess.Popen(command, env={**os.environ, "STRANDLINE_MEMORY_LIMIT": limit}, stdout=log, stderr=log)
        watched = Watched(process)
        try:
            for _ in range(300):
                if ready():
                    break
                time.sleep(0.1)
            yield watched
            if process.poll() is not None:
                sys.exit("the server ended: " + open(folder + "/log").read()[-2000:])
        finally:
            watched.stop.set()
            process.terminate()
            process.wait(60)
