"""Stock SDKs as people run them: set up by environment variables, nothing else."""
import json, os, shutil, subprocess, sys, time

import requests

from harness import BIN, ROOT, Server, free_port

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


def go_sdk():
    """The Go SDK as two programs carry it: Caddy sends traces by gRPC and HTTP, k6 metrics by gRPC, HTTP and remote write."""
    s = Server("go").start()
    bins = os.path.dirname(sys.executable)
    for exporter, protocol in (("grpc", "grpc"), ("http", "http/protobuf")):
        shop, trace_id = free_port(), os.urandom(16).hex()
        conf = os.path.join(ROOT, f"Caddyfile-{exporter}")
        open(conf, "w").write("{\n admin off\n auto_https off\n persist_config off\n}\n"
                              f"http://127.0.0.1:{shop} {{\n tracing {{\n  span checkout\n }}\n respond hello\n}}\n")
        caddy = subprocess.Popen([os.path.join(bins, "caddy"), "run", "--config", conf, "--adapter", "caddyfile"],
                                 env=environment(s, protocol, f"caddy-{exporter}"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        until_up(f"http://127.0.0.1:{shop}/cart", caddy)
        env = {**os.environ, "SHOP": f"http://127.0.0.1:{shop}", "TRACE_ID": trace_id, "K6_OTEL_SERVICE_NAME": f"k6-{exporter}", "K6_OTEL_EXPORTER_TYPE": exporter,
               "K6_OTEL_GRPC_EXPORTER_ENDPOINT": f"127.0.0.1:{s.grpc}", "K6_OTEL_HTTP_EXPORTER_ENDPOINT": f"127.0.0.1:{s.otlp}",
               "K6_OTEL_GRPC_EXPORTER_INSECURE": "true", "K6_OTEL_HTTP_EXPORTER_INSECURE": "true", "K6_OTEL_FLUSH_INTERVAL": "200ms",
               "K6_OTEL_EXPORT_INTERVAL": "500ms", "K6_PROMETHEUS_RW_SERVER_URL": f"{s.url}/api/v1/write", "K6_PROMETHEUS_RW_PUSH_INTERVAL": "500ms",
               "K6_PROMETHEUS_RW_TREND_AS_NATIVE_HISTOGRAM": "true"}
        out = subprocess.run([os.path.join(bins, "k6"), "run", "--no-usage-report", "--quiet", "--address", "", "-o", "experimental-opentelemetry",
                              "-o", "experimental-prometheus-rw", "--tag", f"run={exporter}", os.path.join(HERE, "shop.k6.js")],
                             env=env, capture_output=True, text=True, timeout=60)
        # Its last export may be cut short by its own end, which it says as an info.
        noise = [l for l in (out.stdout + out.stderr).splitlines() if "level=warn" in l or "level=error" in l]
        assert out.returncode == 0 and not noise, out.stdout + out.stderr
        caddy.terminate()
        said = caddy.communicate(timeout=20)[1]
        assert "traces export" not in said and '"level":"error"' not in said, said
        assert s.value(f'orders_total{{job="k6-{exporter}",shop="a"}}') == 80
        assert s.value(f'sum(http_req_duration_milliseconds_count{{job="k6-{exporter}"}})') == 40
        assert s.value(f'k6_orders_total{{run="{exporter}"}}') == 80
        assert s.value(f'histogram_count(sum(k6_http_req_duration_seconds{{run="{exporter}"}}))') == 40
        assert s.value(f'target_info{{job="k6-{exporter}",telemetry_sdk_language="go"}}') == 1
        r = requests.get(f"{s.url}/api/v2/traces/{trace_id}").json()["trace"]["resourceSpans"]
        spans = [x["name"] for rs in r for ss in rs["scopeSpans"] for x in ss["spans"]]
        assert spans == ["checkout"] * 40, spans
    s.stop()


def until_up(url, process):
    until = time.time() + 20
    while process.poll() is None and time.time() < until:
        try:
            return requests.get(url, timeout=2)
        except requests.RequestException:
            time.sleep(0.05)
    process.kill()
    raise AssertionError(f"nothing answers at {url}:\n{process.communicate()[1]}")


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


CHECKS = [node_sdk, go_sdk, python_distro, two_writers]
