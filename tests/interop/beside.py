"""A real Prometheus beside ours, and what the two hold, compared."""
import http.server, json, os, subprocess, threading, time

import requests

from harness import ROOT, free_port

BIN3 = os.environ.get("PROMETHEUS3", "")
class Prometheus:
    """The Prometheus on the path, Debian's 2, with its remote write receiver on."""

    BINARY, FEATURES = "prometheus", ""

    def __init__(self, name, config="global: {}\n", features=None, data=None, flags=()):
        self.dir = os.path.join(ROOT, name)
        os.makedirs(self.dir, exist_ok=True)
        self.conf = os.path.join(self.dir, "prometheus.yml")
        open(self.conf, "w").write(config)
        self.data = data or os.path.join(self.dir, "data")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.features, self.flags, self.log = self.FEATURES if features is None else features, flags, os.path.join(self.dir, "log")

    def start(self):
        cmd = [self.BINARY, f"--config.file={self.conf}", f"--storage.tsdb.path={self.data}",
               f"--web.listen-address=127.0.0.1:{self.port}", "--web.enable-remote-write-receiver",
               "--web.enable-admin-api", "--log.level=warn", *([f"--enable-feature={self.features}"] if self.features else []), *self.flags]
        self.p = subprocess.Popen(cmd, stdout=open(self.log, "ab"), stderr=subprocess.STDOUT)
        until = time.time() + 60
        while time.time() < until and self.p.poll() is None:
            try:
                if requests.get(self.url + "/-/ready", timeout=1).status_code == 200:
                    return self
            except requests.RequestException:
                pass
            time.sleep(0.05)
        raise AssertionError(open(self.log).read())

    def stop(self):
        self.p.terminate()
        self.p.wait(20)


class Prometheus3(Prometheus):
    """Prometheus 3 with every receiver on."""

    BINARY, FEATURES = os.path.join(BIN3, "prometheus"), "exemplar-storage,native-histograms"


def promtool3(*args, **kw):
    return subprocess.run([os.path.join(BIN3, "promtool"), *args], capture_output=True, text=True, **kw)


def get(server, path, **params):
    r = requests.get(f"{server.url}/api/v1/{path}", params=params, timeout=60)
    assert r.status_code == 200, (path, params, r.text)
    return r.json()["data"]


def name_of(metric):
    return json.dumps(metric, sort_keys=True, ensure_ascii=False)


def samples(server, selector, at_s, window="1h"):
    """Every sample as stored, by series: {time: value or histogram}."""
    out = {}
    for r in get(server, "query", query=f"{selector}[{window}]", time=at_s)["result"]:
        of = out.setdefault(name_of(r["metric"]), {})
        for t, v in r.get("values", []):
            of[t] = v
        for t, h in r.get("histograms", []):
            of[t] = json.dumps(h, sort_keys=True)
    return out


def present(server, selector, at_s):
    """The series that a query at that time sees: those not stale."""
    return {name_of(r["metric"]) for r in get(server, "query", query=selector, time=at_s)["result"]}


def metadata(server):
    return {k: sorted((m["type"], m["help"], m["unit"]) for m in v) for k, v in get(server, "metadata").items()}


def exemplars(server, query, from_s, to_s):
    out = {}
    for r in get(server, "query_exemplars", query=query, start=from_s, end=to_s):
        out[name_of(r["seriesLabels"])] = sorted((e["timestamp"], e["value"], name_of(e["labels"])) for e in r["exemplars"])
    return out


def differences(theirs, ours):
    """What differs, in lines."""
    lines = []
    for k in sorted(set(theirs) | set(ours), key=str):
        if theirs.get(k) != ours.get(k):
            lines.append(f"{k}\n    theirs {theirs.get(k)}\n    ours   {ours.get(k)}")
    return lines


class Page:
    """An exporter: serves whatever its `body` is, by `kind`; `None` answers 500."""

    OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    TEXT = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, body, kind=TEXT):
        self.body, self.kind, self.asked = body, kind, []
        page = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                page.asked.append(dict(self.headers))
                body = page.body(page) if callable(page.body) else page.body
                self.send_response(200 if body is not None else 500)
                self.send_header("Content-Type", page.kind)
                self.end_headers()
                try:
                    self.wfile.write(b"" if body is None else body if isinstance(body, bytes) else body.encode())
                except OSError:
                    pass  # Who asked is gone.

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
