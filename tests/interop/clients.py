"""Stock SDKs as people run them: set up by environment variables, nothing else."""
import glob, itertools, json, os, shutil, socket, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor

import requests
from grpc import Compression, GenericRpcHandler, RpcError, StatusCode, unary_unary_rpc_method_handler
from grpc import insecure_channel as grpc_channel, server as grpc_server

from harness import BIN, ROOT, Server, free_port

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clients")


def environment(server, protocol, service):
    endpoint = f"http://127.0.0.1:{server.grpc if protocol == 'grpc' else server.otlp}"
    return {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_SERVICE_NAME": service,
            "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={service}-1", "OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp"}


def there(server, service, trace_id, names=("checkout", "pay")):
    assert server.value(f'orders_total{{job="{service}",http_route="/cart"}}') == 10, server.query("orders_total")
    r = requests.get(f"{server.url}/api/v2/traces/{trace_id}")
    spans = [s["name"] for rs in r.json()["trace"]["resourceSpans"] for ss in rs["scopeSpans"] for s in ss["spans"]]
    assert sorted(spans) == list(names), r.text


def node_modules():
    """A folder with the programs and what they need from npm."""
    modules = os.path.join(os.path.dirname(HERE), "..", "..", "target", "interop-node")
    os.makedirs(modules, exist_ok=True)
    for f in ("package.json", "shop.js", "shop.deno.js"):
        shutil.copy(os.path.join(HERE, f), modules)
    if not all(os.path.exists(os.path.join(modules, "node_modules", *p)) for p in (("@opentelemetry", "sdk-node"), ("deno",))):
        subprocess.run(["npm", "install", "--no-fund", "--no-audit", "--ignore-scripts", "--silent"], cwd=modules, check=True, timeout=300)
    return modules


def node_sdk():
    """npm's @opentelemetry/sdk-node, by gRPC, by HTTP and in JSON."""
    modules = node_modules()
    s = Server("node").start()
    for protocol in ("grpc", "http/protobuf", "http/json"):
        service = "node-" + protocol.replace("/", "-")
        out = subprocess.run(["node", "shop.js"], cwd=modules, env=environment(s, protocol, service), capture_output=True, text=True, timeout=60)
        assert out.returncode == 0 and "rror" not in out.stderr, (out.stdout, out.stderr)
        there(s, service, json.loads(out.stdout.splitlines()[-1])["trace_id"])
    s.stop()


def deno():
    """Deno's built-in exporter, in each protocol: its server's spans join the program's, and its logs are refused in words."""
    modules = node_modules()
    program = glob.glob(os.path.join(modules, "node_modules", "@deno", "*", "deno"))[0]
    s = Server("deno").start()
    for protocol in ("grpc", "http/protobuf", "http/json"):
        service = "deno-" + protocol.replace("/", "-")
        env = {**environment(s, protocol, service), "OTEL_DENO": "true", "DENO_DIR": os.path.join(ROOT, "deno"), "DENO_NO_UPDATE_CHECK": "1"}
        out = subprocess.run([program, "run", "-A", "--node-modules-dir=manual", "shop.deno.js"], cwd=modules, env=env,
                             capture_output=True, text=True, timeout=60)
        noise = [l for l in out.stderr.splitlines() if "logs are not stored" not in l]
        assert out.returncode == 0 and not noise, (out.stdout, out.stderr)
        there(s, service, json.loads(out.stdout.splitlines()[-1])["trace_id"], ["GET", "GET", "checkout"])
        assert s.value(f'http_server_request_duration_seconds_count{{job="{service}"}}') == 5
        assert s.value(f'target_info{{job="{service}",telemetry_sdk_language="deno-rust"}}') == 1, s.query("target_info")
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


def proxy(port):
    """A port that passes gRPC calls on, as a load balancer does: a connection that broke is UNAVAILABLE to the client,
    and so is every fifth answer, of which we believe that it was heard."""
    to = grpc_channel(f"127.0.0.1:{port}", compression=Compression.Gzip)
    calls = itertools.count(1)

    def pass_on(method):
        def call(request, context):
            try:
                answer = to.unary_unary(method)(request, timeout=5)
            except RpcError as e:
                context.abort(e.code(), e.details())
            if next(calls) % 5 == 0:
                context.abort(StatusCode.UNAVAILABLE, "the answer was lost")
            return answer
        return call

    class Any(GenericRpcHandler):
        def service(self, details):
            return unary_unary_rpc_method_handler(pass_on(details.method))

    server = grpc_server(ThreadPoolExecutor(8), handlers=[Any()])
    there = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, there


def collector():
    """A collector (Rotel) between an SDK and us, over kills and lost answers: requests are sent again in another order, and all adds up.

    It tries again what is UNAVAILABLE, and drops what met a broken connection, so that a proxy stands before us."""
    import rotel
    s = Server("collector").start()
    balancer, behind = proxy(s.grpc)
    grpc, http, log = free_port(), free_port(), os.path.join(ROOT, "rotel.log")
    env = {**os.environ, "ROTEL_OTLP_EXPORTER_RETRY_INITIAL_BACKOFF": "300ms", "ROTEL_OTLP_EXPORTER_RETRY_MAX_BACKOFF": "2s"}
    cmd = [os.path.join(os.path.dirname(rotel.__file__), "rotel-agent"), "start", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}",
           "--otlp-http-endpoint", f"127.0.0.1:{http}", "--exporter", "otlp", "--otlp-exporter-endpoint", f"http://127.0.0.1:{behind}",
           "--otlp-exporter-protocol", "grpc", "--otlp-exporter-compression", "gzip"]
    agent = subprocess.Popen(cmd, env=env, stdin=subprocess.DEVNULL, stdout=open(log, "ab"), stderr=subprocess.STDOUT)
    until_open(grpc, agent)

    def count(endpoint, seconds):
        return subprocess.Popen([sys.executable, os.path.join(HERE, "increases.py"), endpoint, str(seconds)], stdout=subprocess.PIPE, text=True)

    def counted(program):
        return json.loads(program.communicate(timeout=60)[0])["counted"]

    program = count(f"http://127.0.0.1:{grpc}", 6)
    for _ in range(3):
        time.sleep(1.2)
        s.kill()
        time.sleep(0.5)
        s.start()
    total, until = counted(program), time.time() + 30
    names = ("orders_total", "took_seconds_count", 'took_seconds_bucket{le="+Inf"}')
    while True:
        # What came late shows from the next increase on.
        total += counted(count(f"http://127.0.0.1:{s.grpc}", 0.2))
        got = [s.value(n) for n in names]
        if got == [total] * 3:
            break
        assert time.time() < until, (total, got, open(log).read()[-2000:])
    assert s.value("resets(orders_total[5m]) + on (job) resets(took_seconds_count[5m])") == 0, (s.query("orders_total[5m]"), s.query("took_seconds_count[5m]"))
    agent.terminate()
    assert agent.wait(20) == 0, open(log).read()[-2000:]
    assert "dropping data" not in open(log).read(), open(log).read()[-2000:]
    balancer.stop(0)
    s.stop()


def exporters():
    """`[[scrape]]`: a page of prometheus_client's, and a Pushgateway's groups with labels of their own."""
    page, gateway = free_port(), free_port()
    conf = os.path.join(ROOT, "scrape.toml")
    open(conf, "w").write("version = 1\n" + "".join(
        f'[[scrape]]\njob = "{job}"\ntargets = ["127.0.0.1:{port}"]\ninterval = "1s"\ntimeout = "1s"\nhonor_labels = {honor}\n'
        for job, port, honor in (("shop", page, "false"), ("gateway", gateway, "true"))))
    program = subprocess.Popen([sys.executable, os.path.join(HERE, "exporter.py"), str(page)], stdout=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "listening\n"
    push = subprocess.Popen(["prometheus-pushgateway", f"--web.listen-address=127.0.0.1:{gateway}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until_up(f"http://127.0.0.1:{gateway}/-/ready", push)
    nightly = '# TYPE saved gauge\nsaved 5\n# TYPE size histogram\nsize_bucket{le="1"} 1\nsize_bucket{le="+Inf"} 2\nsize_sum 3\nsize_count 2\n'
    for group in ("job/backup", "job/backup/instance/db1"):
        assert requests.put(f"http://127.0.0.1:{gateway}/metrics/{group}", data=nightly).status_code == 200
    s = Server("exporters", "--config", conf).start()
    until = time.time() + 20
    while len(s.query("scrape_samples_scraped > 0")) < 2:
        assert time.time() < until, s.text()
        time.sleep(0.1)
    labels = lambda q: sorted(json.dumps(r["metric"], sort_keys=True) for r in s.query(q))
    assert s.value('orders_total{job="shop",path="a,b=\\"c\\" # \\\\ é\\n"}') == 7, labels("orders_total")
    assert s.value('{"oven.heat"}') == -2.5
    assert s.value('took_seconds_bucket{le="2.5"}') == 1 and s.value('took_seconds_bucket{le="1.0"}') == 0
    assert s.value('waited_sum') == 3 and s.value('build_info{version="1.2"}') == 1
    help_text = requests.get(s.url + "/api/v1/metadata", params={"metric": "orders"}).json()["data"]["orders"][0]
    assert (help_text["type"], help_text["help"]) == ("counter", 'orders \\ "taken"\nhere'), help_text
    found = requests.get(s.url + "/api/v1/query_exemplars", params={"query": "orders_total", "start": time.time() - 60, "end": time.time() + 60}).json()
    assert found["data"][0]["exemplars"][0]["labels"]["trace_id"] == "0af7651916cd43dd8448eb211c80319c", found
    # A group without an instance has none: the gateway's own is no instance of what was pushed.
    assert labels("saved") == ['{"__name__": "saved", "instance": "db1", "job": "backup"}', '{"__name__": "saved", "job": "backup"}'], labels("saved")
    assert len(s.query('size_bucket{job="backup",le="1.0"}')) == 2
    push.kill()
    program.kill()
    s.stop()


def until_open(port, process):
    until = time.time() + 20
    while process.poll() is None and time.time() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")


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


CHECKS = [node_sdk, deno, go_sdk, collector, exporters, python_distro, two_writers]
