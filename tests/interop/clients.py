"""Stock SDKs as people run them: set up by environment variables, nothing else."""
import json, os, shutil, subprocess, sys

import requests

from harness import BIN, ROOT, Server

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clients")


def environment(server, protocol, service):
    endpoint = f"http://127.0.0.1:{server.grpc if protocol == 'grpc' else server.otlp}"
    return {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_SERVICE_NAME": service,
            "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={service}-1", "OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp"}


def there(server, service, trace_id):
    assert server.value(f'orders_total{{job="{service}",http_route="/cart"}}') == 10, server.query("orders_total")
    r = requests.get(f"{server.url}/api/v2/traces/{trace_id}")
    spans = [s["name"] for rs in r.json()["trace"]["resourceSpans"] for ss in rs["scopeSpans"] for s in ss["spans"]]
    assert sorted(spans) == ["checkout", "pay"], r.text


def node_sdk():
    """npm's @opentelemetry/sdk-node, by gRPC and by HTTP."""
    modules = os.path.join(os.path.dirname(HERE), "..", "..", "target", "interop-node")
    os.makedirs(modules, exist_ok=True)
    for f in ("package.json", "shop.js"):
        shutil.copy(os.path.join(HERE, f), modules)
    if not os.path.exists(os.path.join(modules, "node_modules", "@opentelemetry", "sdk-node")):
        subprocess.run(["npm", "install", "--no-fund", "--no-audit", "--ignore-scripts", "--silent"], cwd=modules, check=True, timeout=300)
    s = Server("node").start()
    for protocol in ("grpc", "http/protobuf"):
        service = "node-" + protocol.split("/")[0]
        out = subprocess.run(["node", "shop.js"], cwd=modules, env=environment(s, protocol, service), capture_output=True, text=True, timeout=60)
        assert out.returncode == 0 and "rror" not in out.stderr, (out.stdout, out.stderr)
        there(s, service, json.loads(out.stdout.splitlines()[-1])["trace_id"])
    s.stop()


def python_distro():
    """`opentelemetry-instrument` with its defaults, logs exporter on: logs are refused in words, and nothing is spammed."""
    s = Server("distro").start()
    instrument = os.path.join(os.path.dirname(sys.executable), "opentelemetry-instrument")
    for protocol in ("grpc", "http/protobuf"):
        service = "distro-" + protocol.split("/")[0]
        env = {**environment(s, protocol, service), "OTEL_LOGS_EXPORTER": "otlp", "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": "true"}
        out = subprocess.run([instrument, sys.executable, os.path.join(HERE, "shop.py")], env=env, capture_output=True, text=True, timeout=60)
        noise = [l for l in out.stderr.splitlines() if "a log line of the program" not in l]
        assert out.returncode == 0 and not any("rror" in l or "ailed" in l or "etry" in l for l in noise), out.stderr
        there(s, service, json.loads(out.stdout.splitlines()[-1])["trace_id"])
    page = requests.get(s.url + "/metrics").text
    refused = next(l for l in page.splitlines() if l.startswith("strandline_log_records_refused_total "))
    assert float(refused.split()[-1]) >= 10, refused
    assert s.text().count("sends OTLP logs") == 1, s.text()
    s.stop()


def two_writers():
    """Two processes, one series: counted, said once, and doctor tells the way out. With instances of their own, nothing is said."""
    s = Server("twins").start()

    def turns(instances):
        twins = []
        for i in instances:
            twins.append(subprocess.Popen([sys.executable, os.path.join(HERE, "twin.py"), f"http://127.0.0.1:{s.otlp}", i],
                                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            assert twins[-1].stdout.readline() == "counting\n"
        for _ in range(3):
            for t in twins:
                t.stdin.write("go\n")
                t.stdin.flush()
                assert t.stdout.readline() == "sent\n"
        for t in twins:
            t.stdin.close()
            assert t.wait(30) == 0

    def clashes():
        lines = requests.get(s.url + "/metrics").text.splitlines()
        return sum(float(l.split()[-1]) for l in lines if l.startswith('strandline_second_writer_points_total{job="twins"}'))

    doctor = lambda: subprocess.run([BIN, "doctor", "--data-dir", s.dir, "--listen", f"127.0.0.1:{s.http}"], capture_output=True, text=True).stdout
    turns(["a", "b"])
    assert clashes() == 0 and "several processes" not in doctor(), doctor()
    turns(["", ""])
    assert clashes() >= 2, clashes()
    assert s.text().count("two processes write the same series") == 1, s.text()
    said = doctor()
    assert "several processes write the same series of job \"twins\"" in said and "service.instance.id" in said, said
    s.stop()


CHECKS = [node_sdk, python_distro, two_writers]
