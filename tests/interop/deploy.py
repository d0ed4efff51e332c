"""What lies in deploy/: parsed, and run as far as it can be without Docker and Grafana."""
import glob, json, os, re, shutil, subprocess, time

import requests
import yaml

from harness import BIN, ROOT, Server, free_port
from load import Load

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
DEPLOY = os.path.join(TOP, "deploy")


def final_stage():
    """Instructions of the Dockerfile's last stage, as words."""
    text = open(os.path.join(DEPLOY, "Dockerfile")).read()
    stage = []
    for line in text.splitlines():
        words = line.split(maxsplit=1)
        if not words or words[0].startswith("#"):
            continue
        stage = [] if words[0] == "FROM" else stage + [words]
    return stage


def image_root(root):
    """The image's file system by the Dockerfile's own COPY list; in the place of its base, what the binary is linked to."""
    uid = None
    for word, rest in final_stage():
        if word == "USER":
            uid = int(rest.split(":")[0])
        if word != "COPY":
            continue
        flags, paths = [w for w in rest.split() if w.startswith("--")], [w for w in rest.split() if not w.startswith("--")]
        source, target = paths
        to = root + target
        os.makedirs(os.path.dirname(to), exist_ok=True)
        if source.endswith("/strandline"):
            shutil.copy(BIN, to)
        elif source == "/empty":
            os.makedirs(to)
        else:
            shutil.copy(os.path.join(TOP, source), to)
        for f in flags:
            if f.startswith("--chown="):
                os.chown(to, *map(int, f[len("--chown="):].split(":")))
    for lib in re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", BIN], capture_output=True, text=True, check=True).stdout):
        os.makedirs(root + os.path.dirname(lib), exist_ok=True)
        shutil.copy(lib, root + lib)
    return uid


def image():
    """The binary runs in the image's root, as its user, on empty volumes, and its health check passes."""
    root = os.path.join(ROOT, "image")
    os.makedirs(root)
    uid = image_root(root)
    assert uid, "the image runs as root"
    get = lambda word: [rest for w, rest in final_stage() if w == word]
    env = dict(pair.split("=", 1) for pair in get("ENV"))
    entry = json.loads(get("ENTRYPOINT")[0])
    health = json.loads(get("HEALTHCHECK")[0].split("CMD", 1)[1])
    ports = [free_port() for _ in range(3)]
    # Ports of our own; the addresses are the image's.
    env |= dict(zip(("STRANDLINE_SERVER_LISTEN", "STRANDLINE_SERVER_OTLP_GRPC", "STRANDLINE_SERVER_OTLP_HTTP"), (f"0.0.0.0:{p}" for p in ports)))
    chroot = [shutil.which("chroot"), f"--userspec={uid}:{uid}", root]
    log = open(os.path.join(ROOT, "image.log"), "ab")
    p = subprocess.Popen([*chroot, *entry], env=env, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{ports[0]}"
        until = time.time() + 20
        while (said := subprocess.run([*chroot, *health, "--url", url], env={}, capture_output=True, text=True)).returncode != 0:
            assert p.poll() is None and time.time() < until, (said.stderr, open(log.name).read())
            time.sleep(0.1)
        r = requests.post(url + "/api/v1/admin/flush")
        # Not by its own name or address: refused only beyond loopback.
        assert r.status_code == 204, r.text
        assert os.stat(root + "/var/lib/strandline/VERSION").st_uid == uid
    finally:
        p.terminate()
        assert p.wait(10) == 0


def files():
    """Every file parses; the unit is one that systemd takes; Compose publishes on this machine only."""
    for f in glob.glob(DEPLOY + "/**/*", recursive=True):
        if f.endswith((".yaml", ".yml")):
            yaml.safe_load(open(f))
        if f.endswith(".json"):
            json.load(open(f))
    for service in yaml.safe_load(open(DEPLOY + "/compose.yaml"))["services"].values():
        assert all(p.startswith("127.0.0.1:") for p in service.get("ports", [])), service
    out = subprocess.run([BIN, "check-config", DEPLOY + "/strandline.toml"], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    if shutil.which("systemd-analyze"):
        unit = os.path.join(ROOT, "strandline.service")
        text = open(DEPLOY + "/strandline.service").read()
        open(unit, "w").write(text.replace("/usr/bin/strandline", os.path.abspath(BIN)))
        out = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
        said = [l for l in out.stderr.splitlines() if "strandline.service" in l]
        assert not said, said


def dashboard():
    """Every query of the dashboard and of the links between the data sources is answered, and not emptily, by data of `load`."""
    s = Server("dashboard").start()
    Load("dashboard", s, "--rate", "150", "--interval-ms", "200", "--duration", "5s", "--seed", "4").run()
    board = json.load(open(DEPLOY + "/grafana/dashboards/services.json"))
    sources = {d["uid"]: d for d in yaml.safe_load(open(DEPLOY + "/grafana/provisioning/datasources/strandline.yaml"))["datasources"]}
    now = time.time()
    fill = lambda q: q.replace("$__rate_interval", "20s").replace("$service", ".*").replace("$$__tags", 'service_name="gateway"').replace("$$__rate_interval", "20s")

    def prom(q):
        r = requests.get(s.url + "/api/v1/query_range", params={"query": fill(q), "start": now - 10, "end": now, "step": 1})
        assert r.status_code == 200 and r.json()["data"]["result"], (q, r.text)
        assert any(v[1] != "NaN" for x in r.json()["data"]["result"] for v in x.get("values", [])), (q, r.text)

    asked = 0
    for t in (t for p in board["panels"] for t in p["targets"]):
        assert t["datasource"]["uid"] in sources, t
        asked += 1
        if "expr" in t:
            prom(t["expr"])
        elif "| rate()" in t["query"]:
            r = requests.get(s.url + "/api/metrics/query_range", params={"q": t["query"], "start": int(now - 60), "end": int(now + 1), "step": "5s"})
            assert r.status_code == 200 and r.json()["series"], r.text
        else:
            r = requests.get(s.url + "/api/search", params={"q": t["query"], "limit": 20})
            assert r.status_code == 200 and r.json()["traces"], r.text
    assert asked >= 12
    for q in sources["strandline-traces"]["jsonData"]["tracesToMetrics"]["queries"]:
        prom(q["query"].replace("$$__rate_interval", "20s"))
    for v in board["templating"]["list"]:
        metric, label = re.match(r"label_values\((\w+), (\w+)\)", v["query"]["query"]).groups()
        r = requests.get(f"{s.url}/api/v1/label/{label}/values", params={"match[]": metric})
        assert len(r.json()["data"]) == 6, r.text
    # An exemplar leads to its trace.
    r = requests.get(s.url + "/api/v1/query_exemplars", params={"query": "http_server_request_duration_seconds_bucket", "start": now - 60, "end": now})
    link = sources["strandline-metrics"]["jsonData"]["exemplarTraceIdDestinations"][0]
    trace = r.json()["data"][0]["exemplars"][0]["labels"][link["name"]]
    assert requests.get(f"{s.url}/api/traces/{trace}").status_code == 200 and link["datasourceUid"] in sources
    s.stop()


CHECKS = [files, image, dashboard]
