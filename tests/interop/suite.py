"""The interop suite. Each check is a function; run with names to pick some."""
import glob, json, os, shutil, signal, subprocess, sys, time, traceback

import requests
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from harness import BIN, ROOT, Server, Weed, cleanup, free_port, kill_children

HERE = os.path.dirname(os.path.abspath(__file__))


def sdk(server, protocol, service, gzip="plain"):
    endpoint = f"http://127.0.0.1:{server.grpc if protocol == 'grpc' else server.otlp}"
    out = subprocess.run([sys.executable, os.path.join(HERE, "otel.py"), protocol, endpoint, service, gzip], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0 and "Failed" not in out.stderr and "rror" not in out.stderr, out.stderr
    return json.loads(out.stdout)


def normal(traces):
    """Spans by id with attributes sorted, grouped by resource and scope."""
    def attrs(a):
        return sorted((kv.SerializeToString(deterministic=True) for kv in a))
    out = []
    for rs in traces.resource_spans:
        for ss in rs.scope_spans:
            for s in ss.spans:
                key = (attrs(rs.resource.attributes), rs.schema_url, ss.scope.name, ss.scope.version, attrs(ss.scope.attributes), ss.schema_url)
                c = type(s)()
                c.CopyFrom(s)
                del c.attributes[:]
                for e in c.events:
                    e.attributes.sort(key=lambda kv: kv.key)
                for l in c.links:
                    l.attributes.sort(key=lambda kv: kv.key)
                out.append((key, attrs(s.attributes), c.SerializeToString(deterministic=True)))
    return sorted(out)


def trace_v1(server, tid):
    r = requests.get(f"{server.url}/api/traces/{tid}", headers={"Accept": "application/protobuf"})
    assert r.status_code == 200, (r.status_code, r.text)
    t = TracesData()
    t.ParseFromString(r.content)
    return t


def check_answers(server, ids):
    for service, i in ids.items():
        job = f'job="shop/{service}"'
        assert server.value(f'app_requests_total{{{job}}}') == 60, server.query("app_requests_total")
        assert server.value(f'rate(app_requests_total{{{job}}}[5m]) > 0') > 0
        assert server.value(f'app_temperature_celsius{{{job}}}') == 25.5
        assert server.value(f'app_latency_seconds_count{{{job}}}') == 6
        assert 0 < server.value(f'histogram_quantile(0.5, sum by (le) (app_latency_seconds_bucket{{{job}}}))') <= 5
        assert server.value(f'target_info{{{job}}}') == 1
        now = time.time()
        r = requests.get(server.url + "/api/v1/query_range", params={"query": f"rate(app_requests_total{{{job}}}[5m])", "start": now - 60, "end": now, "step": 5})
        assert r.status_code == 200 and r.json()["data"]["result"], r.text
        spans = [s for rs in trace_v1(server, i["trace_id"]).resource_spans for ss in rs.scope_spans for s in ss.spans]
        assert sorted(s.name for s in spans) == ["child", "root"], spans
        root = next(s for s in spans if s.name == "root")
        kinds = {kv.key: kv.value.WhichOneof("value") for kv in root.attributes}
        assert kinds == {"http.route": "string_value", "count": "int_value", "ratio": "double_value", "ok": "bool_value", "list": "array_value",
                         "ints": "array_value", "floats": "array_value", "bools": "array_value"}, kinds
        child = next(s for s in spans if s.name == "child")
        assert child.status.code == 2 and child.status.message == "broken" and len(child.links) == 1 and child.events[0].name == "exception"
        v2 = requests.get(f"{server.url}/api/v2/traces/{i['trace_id']}").json()
        assert len(v2["trace"]["resourceSpans"]) >= 1, v2
        found = requests.get(server.url + "/api/search", params={"q": f'{{ resource.service.name = "{service}" && name = "root" }}'}).json()
        assert [t["traceID"].zfill(32) for t in found["traces"]] == [i["trace_id"]], found


def first_light():
    """SDKs in, kill -9, everything still there; flush, promtool, DuckDB."""
    s = Server("first").start()
    text = s.text()
    for word in (f"127.0.0.1:{s.http}", f"127.0.0.1:{s.grpc}", f"127.0.0.1:{s.otlp}", "data in", "memory limit", "retention"):
        assert word in text, (word, text)
    ids = {"py-grpc": sdk(s, "grpc", "py-grpc"), "py-http": sdk(s, "http", "py-http"), "py-gzip": sdk(s, "grpc", "py-gzip", "gzip"),
           "py-hgzip": sdk(s, "http", "py-hgzip", "gzip")}
    check_answers(s, ids)
    s.kill()
    s.start()
    check_answers(s, ids)
    s.flush()
    check_answers(s, ids)
    s.kill()
    s.start()
    check_answers(s, ids)
    promtool(os.path.join(s.dir, "bucket", "metrics", "anonymous"))
    import duckdb
    files = glob.glob(os.path.join(s.dir, "bucket", "traces", "anonymous", "*", "spans.parquet"))
    assert files
    rows = duckdb.sql(f"""select span_attributes."http.route"::varchar as route, count(*) from read_parquet({files!r}) group by 1 order by 1""").fetchall()
    assert ("/x", len(ids)) in rows, rows
    code, took = s.stop()
    assert code == 0 and took < 5, (code, took)


def promtool(folder):
    copy = os.path.join(ROOT, "promtool")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    os.makedirs(os.path.join(copy, "wal"), exist_ok=True)
    for cmd in (["list", "-r", copy], ["analyze", copy], ["dump", copy]):
        out = subprocess.run(["promtool", "tsdb", *cmd], capture_output=True, text=True)
        assert out.returncode == 0 and out.stdout.strip() and "err" not in out.stderr.lower(), (cmd, out.stderr)


def otlp_in_is_otlp_out():
    """A request with everything in it comes back equal; sent twice it changes nothing."""
    s = Server("roundtrip").start()
    now = time.time_ns()
    req = ExportTraceServiceRequest()
    rs = req.resource_spans.add(schema_url="https://example.com/r")
    a = rs.resource.attributes.add(key="service.name")
    a.value.string_value = "all"
    rs.resource.dropped_attributes_count = 2
    ss = rs.scope_spans.add(schema_url="https://example.com/s")
    ss.scope.name, ss.scope.version, ss.scope.dropped_attributes_count = "lib", "9", 1
    span = ss.spans.add(trace_id=bytes(range(1, 17)), span_id=bytes(range(1, 9)), trace_state="a=b", name="everything", kind=3, flags=1,
                        start_time_unix_nano=now - 5_000_000, end_time_unix_nano=now, dropped_attributes_count=3, dropped_events_count=4, dropped_links_count=5)
    span.status.code, span.status.message = 2, "bad"
    for key, set_value in {
        "s": lambda v: setattr(v, "string_value", "x"), "b": lambda v: setattr(v, "bool_value", False), "i": lambda v: setattr(v, "int_value", -(2**62)),
        "d": lambda v: setattr(v, "double_value", -0.0), "bytes": lambda v: setattr(v, "bytes_value", b"\x00\xff"),
        "list": lambda v: [v.array_value.values.add(int_value=1), v.array_value.values.add(string_value="y")],
        "map": lambda v: v.kvlist_value.values.add(key="k").value.kvlist_value.values.add(key="deep").value.CopyFrom(type(v)(int_value=3)),
        "Case": lambda v: setattr(v, "string_value", "1"), "case": lambda v: setattr(v, "string_value", "2"), "": lambda v: setattr(v, "string_value", "empty key"),
    }.items():
        set_value(span.attributes.add(key=key).value)
    e = span.events.add(time_unix_nano=now - 1000, name="ev", dropped_attributes_count=6)
    e.attributes.add(key="e").value.int_value = 1
    l = span.links.add(trace_id=b"\x01" * 16, span_id=b"\x02" * 8, trace_state="c=d", dropped_attributes_count=7, flags=256)
    l.attributes.add(key="l").value.bool_value = True
    for _ in range(2):
        r = requests.post(f"http://127.0.0.1:{s.otlp}/v1/traces", data=req.SerializeToString(), headers={"Content-Type": "application/x-protobuf"})
        assert r.status_code == 200 and r.content == b"", (r.status_code, r.content)
    want = TracesData()
    want.ParseFromString(req.SerializeToString())
    tid = bytes(range(1, 17)).hex()
    assert normal(trace_v1(s, tid)) == normal(want)
    s.flush()
    assert normal(trace_v1(s, tid)) == normal(want)
    s.kill()
    s.start()
    assert normal(trace_v1(s, tid)) == normal(want)
    s.stop()


def bad_input():
    """Refused alone, or refused plainly."""
    s = Server("bad").start()
    base = f"http://127.0.0.1:{s.otlp}"
    pb = {"Content-Type": "application/x-protobuf"}
    for path in ("/v1/metrics", "/v1/traces"):
        r = requests.post(base + path, data=b"\xff\xff\xff", headers=pb)
        assert r.status_code == 400 and b"protobuf" in r.content, (r.status_code, r.content)
    r = requests.post(base + "/v1/traces", data="{", headers={"Content-Type": "application/json"})
    assert r.status_code == 400, r.text
    req = ExportTraceServiceRequest()
    ss = req.resource_spans.add().scope_spans.add()
    now = time.time_ns()
    ss.spans.add(trace_id=b"\x01" * 16, span_id=b"\x02" * 8, name="good", start_time_unix_nano=now, end_time_unix_nano=now + 1)
    ss.spans.add(trace_id=b"\x01" * 3, span_id=b"\x03" * 8, name="short id", start_time_unix_nano=now, end_time_unix_nano=now + 1)
    r = requests.post(base + "/v1/traces", data=req.SerializeToString(), headers=pb)
    answer = ExportTraceServiceResponse()
    answer.ParseFromString(r.content)
    assert r.status_code == 200 and answer.partial_success.rejected_spans == 1 and answer.partial_success.error_message, answer
    r = requests.post(base + "/v1/traces", data=b"\0" * (65 << 20), headers=pb)
    assert r.status_code == 413, r.status_code
    import gzip
    bomb = gzip.compress(b"\0" * (80 << 20))
    r = requests.post(base + "/v1/traces", data=bomb, headers={**pb, "Content-Encoding": "gzip"})
    assert r.status_code == 413, r.status_code
    import grpc
    channel = grpc.insecure_channel(f"127.0.0.1:{s.grpc}", options=[("grpc.max_send_message_length", -1)])
    call = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
    for body, code in ((b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT), (b"\0" * (66 << 20), grpc.StatusCode.INVALID_ARGUMENT)):
        try:
            call(body, timeout=20)
            raise AssertionError("accepted")
        except grpc.RpcError as e:
            assert e.code() == code, (e.code(), e.details())
    call(b"\x0a\x00" + b"", timeout=5)
    r = requests.get(s.url + "/api/v1/query", params={"query": "sum(("})
    assert r.status_code == 400 and r.json()["errorType"] == "bad_data" and "1:" in r.json()["error"], r.text
    r = requests.get(s.url + "/api/search", params={"q": "{ .a = }"})
    assert r.status_code == 400 and "1:" in r.text, r.text
    logs = channel.unary_unary("/opentelemetry.proto.collector.logs.v1.LogsService/Export")
    assert b"not stored" in logs(b"\x0a\x06\x12\x04\x12\x02\x2a\x00", timeout=5)
    # The same folder, the same port.
    other = Server("bad-second", data=s.dir).start(wait=False)
    assert other.p.wait(10) == 1 and "in use by another process" in other.text(), other.text()
    busy = Server("bad-port")
    busy.http = s.http
    busy.start(wait=False)
    assert busy.p.wait(10) == 1 and "--listen" in busy.text(), busy.text()
    # Just below the limit: taken, whole, by both transports.
    big = ExportTraceServiceRequest()
    spans = big.resource_spans.add().scope_spans.add().spans
    for i in range(1000):
        x = spans.add(trace_id=b"\x07" * 16, span_id=(i + 1).to_bytes(8, "big"), name="big", start_time_unix_nano=now, end_time_unix_nano=now + 1)
        x.attributes.add(key="payload").value.string_value = "x" * 62_000
    body = big.SerializeToString()
    assert 58 << 20 < len(body) < 64 << 20
    r = requests.post(base + "/v1/traces", data=body, headers=pb)
    assert r.status_code == 200 and not r.content, (r.status_code, r.content)
    assert channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")(body, timeout=30) == b""
    code, took = s.stop(signal.SIGINT)
    assert code == 0 and took < 5, (code, took)


def metrics_sent_twice():
    """An OTLP metrics export repeated, cumulative and delta, changes no answer."""
    s = Server("twice").start()
    now = time.time_ns()
    req = ExportMetricsServiceRequest()
    ms = req.resource_metrics.add().scope_metrics.add().metrics
    for name, temporality in (("orders", 2), ("increase", 1)):
        m = ms.add(name=name)
        m.sum.aggregation_temporality, m.sum.is_monotonic = temporality, True
        for k in range(5):
            m.sum.data_points.add(time_unix_nano=now - (5 - k) * 10**9, as_int=3 * (k + 1) if temporality == 2 else 3)
    for _ in range(2):
        r = requests.post(f"http://127.0.0.1:{s.otlp}/v1/metrics", data=req.SerializeToString(), headers={"Content-Type": "application/x-protobuf"})
        assert r.status_code == 200 and not r.content, (r.status_code, r.content)
        for q in ("orders_total", "increase_total"):
            assert s.value(q) == 15 and s.value(f"count_over_time({q}[1m])") == 5, (q, s.query(q))
    s.stop()


def s3():
    """Blocks in an S3 server; a fresh folder finds them; the bucket may be away."""
    weed = Weed("weed").start()
    try:
        bucket = ["--bucket", f"s3://{weed.bucket}/some/prefix"]
        s = Server("s3", *bucket, env=weed.env()).start()
        ids = {"s3svc": sdk(s, "grpc", "s3svc")}
        s.flush()
        check_answers(s, ids)
        s.kill()
        fresh = Server("s3-fresh", *bucket, env=weed.env()).start().whole()
        check_answers(fresh, ids)
        # The bucket goes away: ingest goes on, what needs it fails or comes from the cache, SIGTERM ends in time.
        weed.stop()
        more = {"away": sdk(fresh, "grpc", "away")}
        r = requests.get(fresh.url + "/api/v1/query", params={"query": 'app_requests_total{job="shop/away"}'}, timeout=120)
        assert r.status_code == 503 or float(r.json()["data"]["result"][0]["value"][1]) == 60, (r.status_code, r.text)
        r = requests.post(fresh.url + "/api/v1/admin/flush", timeout=120)
        assert r.status_code in (400, 503), (r.status_code, r.text)
        code, took = fresh.stop()
        assert code == 0 and took < 5, (code, took)
        weed.start()
        fresh.start()
        fresh.flush(patience_s=60)
        fresh.whole()
        check_answers(fresh, {**ids, **more})
        fresh.stop()
        # Blocks in a bucket, as Thanos and Mimir keep them, are taken over from there.
        data, place = os.path.join(ROOT, "s3-import"), f"s3://{weed.bucket}/some/prefix/metrics"
        take = lambda at: subprocess.run([BIN, "import", at, "--endpoint", f"http://127.0.0.1:{weed.port}", "--data-dir", data],
                                         capture_output=True, text=True, env={**os.environ, **weed.env(), "STRANDLINE_BUCKET_ENDPOINT": ""})
        out = take(place)
        assert out.returncode == 1 and "below it are anonymous" in out.stderr, (out.stdout, out.stderr)
        out = take(place + "/anonymous")
        assert out.returncode == 0 and "imported" in out.stdout, (out.stdout, out.stderr)
        assert "is here already" in take(place + "/anonymous").stdout
        taken = Server("s3-import", data=data).start()
        assert taken.value('app_requests_total{job="shop/away"}') == 60
        taken.stop()
        wrong = Server("s3-wrong", *bucket, env=weed.env(secret="nope")).start()
        assert "secret key is wrong" in wrong.text() or "access denied" in wrong.text(), wrong.text()
        wrong.stop()
        none = Server("s3-nokeys", *bucket, env={**weed.env(), "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}).start(wait=False)
        assert none.p.wait(10) == 1 and "no keys" in none.text(), none.text()
        missing = Server("s3-missing", "--bucket", "s3://nosuchbucket/x", env=weed.env()).start()
        time.sleep(0.5)
        r = requests.post(missing.url + "/api/v1/admin/flush", timeout=60)
        assert r.status_code == 204 or "bucket" in r.text.lower(), (r.status_code, r.text)
        missing.stop()
    finally:
        weed.stop()


CHECKS = [first_light, otlp_in_is_otlp_out, bad_input, metrics_sent_twice, s3]


def main():
    from blocks import CHECKS as BLOCKS
    from clients import CHECKS as CLIENTS
    from deploy import CHECKS as DEPLOY
    from faults import CHECKS as FAULTS
    from hostile import CHECKS as HOSTILE
    from load import CHECKS as LOAD
    from more import CHECKS as MORE
    from promql import promql_differential
    from promql3 import promql_differential_3
    from rules import CHECKS as RULES
    from wire import CHECKS as WIRE
    wanted = sys.argv[1:]
    passed = failed = 0
    for check in CHECKS + MORE + HOSTILE + CLIENTS + RULES + DEPLOY + LOAD + FAULTS + WIRE + BLOCKS + [promql_differential, promql_differential_3]:
        # Overload is measured, which a debug build is no use for: `.ci/run` asks for it by name, of a release build.
        if check.__name__ not in wanted if wanted else check.__name__ == "overload":
            continue
        t = time.time()
        try:
            check()
            passed += 1
            print(f"ok    {check.__name__} ({time.time() - t:.1f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL  {check.__name__}", flush=True)
            traceback.print_exc()
            kill_children()
    if not failed:
        cleanup()
    print(f"interop: {passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
