"""Limits and mischief: each is refused plainly, costs little, and the rest goes on."""
import gzip, os, socket, subprocess, time

import grpc
import requests
import snappy
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest, ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

from harness import BIN, ROOT, Server
from load import anon_mib
from more import push

PB = {"Content-Type": "application/x-protobuf"}


def grpc_export(s, request):
    channel = grpc.insecure_channel(f"127.0.0.1:{s.grpc}")
    return channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")(request, timeout=5)


def grpc_says_later(s, request):
    """Spans over gRPC are refused for now, as OTLP clients understand it."""
    try:
        grpc_export(s, request)
        raise AssertionError("taken")
    except grpc.RpcError as e:
        details = dict(e.trailing_metadata())
        assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and b"RetryInfo" in details["grpc-status-details-bin"], (e.code(), details)


def gauges(names):
    req = ExportMetricsServiceRequest()
    rm = req.resource_metrics.add()
    rm.resource.attributes.add(key="service.name").value.string_value = "limits"
    rm.resource.attributes.add(key="service.instance.id").value.string_value = "1"
    metrics = rm.scope_metrics.add().metrics
    for name, n in names.items():
        m = metrics.add(name=name)
        for i in range(n):
            p = m.gauge.data_points.add(time_unix_nano=time.time_ns(), as_double=i)
            p.attributes.add(key="i").value.string_value = str(i)
    return req.SerializeToString()


def spans(n, **attributes):
    req = ExportTraceServiceRequest()
    out = req.resource_spans.add().scope_spans.add().spans
    now = time.time_ns()
    for i in range(n):
        s = out.add(trace_id=os.urandom(16), span_id=os.urandom(8), name="x", start_time_unix_nano=now, end_time_unix_nano=now + 1)
        for k, v in attributes.items():
            s.attributes.add(key=k).value.string_value = v
    return req.SerializeToString()


def otlp(server, what, body):
    r = requests.post(f"http://127.0.0.1:{server.otlp}/v1/{what}", data=body, headers=PB)
    answer = ExportMetricsServiceResponse() if what == "metrics" else ExportTraceServiceResponse()
    if r.status_code == 200:
        answer.ParseFromString(r.content)
    return r, answer.partial_success


def series_limit():
    """At the limit series that are there go on, new ones are refused, and who made them is told."""
    s = Server("limit", env={"STRANDLINE_LIMITS_MAX_SERIES": "60"}).start()
    r, partial = otlp(s, "metrics", gauges({"greedy": 50, "modest": 5}))
    assert r.status_code == 200 and partial.rejected_data_points == 0, partial
    r, partial = otlp(s, "metrics", gauges({"greedy": 80}))
    assert r.status_code == 200 and 20 <= partial.rejected_data_points <= 30, partial
    assert "greedy (5" in partial.error_message and "60 active series" in partial.error_message, partial
    assert "greedy (5" in s.text(), s.text()
    now = int(time.time() * 1000)
    r = push(s, [({"__name__": "modest", "instance": "1", "i": "0", "job": "limits", "service_instance_id": "1", "service_name": "limits"}, [(now, 7)]),
                     ({"__name__": "brand_new"}, [(now, 1)])])
    assert r.status_code == 400 and "greedy (" in r.text and "1 stored" in r.text, r.text
    assert s.value('modest{i="0"}') == 7
    top = requests.get(s.url + "/api/v1/status/tsdb").json()["data"]["seriesCountByMetricName"][0]
    assert top["name"] == "greedy" and top["value"] >= 50, top
    s.stop()


def memory_for_series():
    """More series than memory_limit has room for: new ones are refused in words, those that are there go on, and queries answer."""
    s = Server("series-memory", env={"STRANDLINE_MEMORY_LIMIT": "32MiB"}).start()
    room = 32 * 2**20 // 100 * 45 // 300
    now = int(time.time() * 1000) - 60_000
    batch = lambda first, t: [({"__name__": "wide", "i": str(i), "pod": f"pod-{i // 50}"}, [(t, i)]) for i in range(first, first + 2000)]

    def send(first, t):
        for _ in range(100):
            r = push(s, batch(first, t))
            if r.status_code != 503:
                return r
            time.sleep(0.1)
        raise AssertionError(r.text)

    answers = [send(first, now) for first in range(0, 60_000, 2000)]
    assert [r.status_code for r in answers[:20]] == [204] * 20
    refused = [r for r in answers if r.status_code == 400]
    assert len(refused) >= 4 and f"room for {room} series" in refused[-1].text and "wide (" in refused[-1].text, answers[-1].text
    for k in range(1, 6):
        for first in range(0, 40_000, 2000):
            assert send(first, now + k * 10_000).status_code == 204
    assert s.value("sum(count_over_time(wide[5m]))", (now + 50_000) / 1000) >= 40_000 * 6
    assert s.value("count(wide)", (now + 50_000) / 1000) <= room
    assert f"room for {room} series" in s.text(), s.text()
    s.stop()


def other_limits():
    """Labels, spans, attributes, rates, tenants."""
    s = Server("limits", env={"STRANDLINE_LIMITS_MAX_LABELS": "8", "STRANDLINE_LIMITS_MAX_LABEL_VALUE": "100", "STRANDLINE_LIMITS_MAX_SPAN": "10KiB",
                              "STRANDLINE_LIMITS_MAX_LABEL_NAME": "50", "STRANDLINE_LIMITS_MAX_SPAN_ATTRIBUTES": "10", "STRANDLINE_LIMITS_MAX_SPAN_ATTRIBUTE": "1KiB",
                              "STRANDLINE_TENANTS_FROM_HEADER": "true", "STRANDLINE_TENANTS_MAX": "3", "STRANDLINE_LIMITS_SAMPLES_PER_SECOND": "500",
                              "STRANDLINE_LIMITS_SPANS_PER_SECOND": "50"}).start()
    now = int(time.time() * 1000)
    for labels, word in (({f"l{i}": "x" for i in range(9)}, "labels are more than 8"), ({"l": "x" * 101}, "101 bytes"), ({"l" * 51: "x"}, "51 bytes")):
        r = push(s, [({"__name__": "m", **labels}, [(now, 1)]), ({"__name__": "fine"}, [(now, 1)])])
        assert r.status_code == 400 and word in r.text and "1 stored" in r.text, (word, r.text)
    for attributes, word in (({f"a{i}": "x" for i in range(11)}, "11 attributes"), ({"a": "x" * 1100}, "1024 bytes"),
                             ({f"a{i}": "x" * 1020 for i in range(10)}, "10240")):
        r, partial = otlp(s, "traces", spans(1, **attributes))
        assert r.status_code == 200 and partial.rejected_spans == 1 and word in partial.error_message, (word, partial)
    # A burst passes; what comes right behind it is told to wait, and passes then.
    r, partial = otlp(s, "traces", spans(100))
    assert r.status_code == 200, r.text
    r, _ = otlp(s, "traces", spans(1))
    assert r.status_code == 503 and r.headers["Retry-After"] and b"spans_per_second = 50" in r.content, (r.status_code, r.content)
    assert push(s, [({"__name__": "m", "i": str(i)}, [(now, 1)]) for i in range(1000)]).status_code == 204
    r = push(s, [({"__name__": "m"}, [(now, 1)])])
    assert r.status_code == 503 and r.headers["Retry-After"] and "samples_per_second = 500" in r.text, r.text
    grpc_says_later(s, spans(1))
    until = time.time() + 20
    while otlp(s, "traces", spans(1))[0].status_code != 200:
        assert time.time() < until
        time.sleep(0.2)
    # Two more tenants fit; the third does not, and those that are there go on.
    ask = lambda tenant: requests.get(s.url + "/api/v1/query", params={"query": "m"}, headers={"X-Scope-OrgID": tenant})
    assert [ask(t).status_code for t in ("one", "two", "one")] == [200, 200, 200]
    r = ask("three")
    assert r.status_code == 503 and "tenants.max" in r.text, (r.status_code, r.text)
    assert ask("../x").status_code == 400
    s.stop()


def raw(port, data, wait_s):
    """What a socket that sends just this hears, and how long it is left open."""
    t = time.time()
    with socket.create_connection(("127.0.0.1", port)) as c:
        c.settimeout(wait_s)
        heard = b""
        try:
            c.sendall(data)
            while part := c.recv(65536):
                heard += part
        except socket.timeout:
            return heard, None
        except OSError:
            pass
        return heard, time.time() - t


def mischief():
    """Slow clients, bombs, floods of headers, other origins: refused, closed, bounded."""
    s = Server("mischief", env={"STRANDLINE_SERVER_READ_TIMEOUT": "1s"}).start()
    base = f"http://127.0.0.1:{s.otlp}"
    before = anon_mib(s)
    # A head that never ends, and a body that never comes.
    for port in (s.http, s.otlp, s.grpc):
        _, closed = raw(port, b"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\n", 8)
        assert closed is not None and closed < 6, (port, closed)
    heard, closed = raw(s.otlp, b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 100\r\n\r\nab", 8)
    assert b" 503 " in heard and b"read_timeout" in heard, heard
    # Headers without end.
    heard, closed = raw(s.otlp, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(2000)), 8)
    assert closed is not None and (b"431" in heard or not heard), (heard[:80], closed)
    # Bombs: a gibibyte of zeros in a few kilobytes; a snappy block that claims four gibibytes.
    import zstandard
    zeros = b"\0" * (1 << 20)
    bombs = {"gzip": gzip.compress(b"\0" * (256 << 20), 9), "zstd": None}
    z = zstandard.ZstdCompressor().compressobj()
    bombs["zstd"] = b"".join([z.compress(zeros) for _ in range(1024)] + [z.flush()])
    for encoding, body in bombs.items():
        r = requests.post(base + "/v1/traces", data=body, headers={**PB, "Content-Encoding": encoding})
        assert r.status_code == 413, (encoding, r.status_code)
    for path, body, headers in (("/v1/traces", b"\xff\xff\xff\xff\x0f" + b"\0" * 100, {**PB, "Content-Encoding": "snappy"}),):
        assert requests.post(base + path, data=body, headers=headers).status_code == 413
    r = requests.post(s.url + "/api/v1/write", data=b"\xff\xff\xff\xff\x0f" + b"\0" * 100, headers={**PB, "Content-Encoding": "snappy"})
    assert r.status_code == 413, (r.status_code, r.text)
    assert anon_mib(s) < before + 200, (before, anon_mib(s))
    # A page of another origin, and a name that was bent to this address.
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example:9090"}, {"Origin": f"http://127.0.0.1:{s.http + 1}"}):
        for method, path in (("POST", "/api/v1/admin/flush"), ("POST", "/api/v1/admin/tsdb/delete_series?match[]=up"), ("PUT", "/api/v1/admin/tsdb/snapshot"),
                             ("POST", "/api/v1/admin/tsdb/clean_tombstones")):
            r = requests.request(method, s.url + path, headers=headers)
            assert r.status_code == 403, (headers, path, r.status_code)
    r = requests.post(s.url + "/api/v1/admin/flush", headers={"Origin": s.url})
    assert r.status_code == 204, r.text
    assert otlp(s, "traces", spans(1))[0].status_code == 200
    s.stop()


def metric(s, name, **labels):
    """One of the server's own metrics."""
    want = name + ("{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else "") + " "
    lines = [line for line in requests.get(s.url + "/metrics").text.splitlines() if line.startswith(want)]
    assert len(lines) == 1, (want, lines)
    return float(lines[0].rsplit(" ", 1)[1])


def until(done):
    end = time.time() + 30
    while not done():
        assert time.time() < end, "not in half a minute"
        time.sleep(0.05)


def connections():
    """Silent, slow and too many connections on every listener, plain and by TLS, beside clients who get what they ask for."""
    cert, key = os.path.join(ROOT, "cert.pem"), os.path.join(ROOT, "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert,
                    "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)
    bounds = {"STRANDLINE_SERVER_MAX_CONNECTIONS": "40", "STRANDLINE_SERVER_READ_TIMEOUT": "2s", "STRANDLINE_SERVER_BODY_TIMEOUT": "3s",
              "STRANDLINE_SERVER_IDLE_TIMEOUT": "4s"}
    s = Server("connections", env=bounds).start()
    head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 100\r\n\r\n"
    for port in (s.http, s.otlp, s.grpc):
        assert raw(port, b"", 20)[1] is not None, "a silent one stays"
    # A byte a second is in time each, and not as a whole.
    with socket.create_connection(("127.0.0.1", s.otlp)) as c:
        c.settimeout(1)
        c.sendall(head)
        heard = b""
        end = time.time() + 30
        while not heard and time.time() < end:
            try:
                c.sendall(b"x")
                heard = c.recv(65536)
            except socket.timeout:
                pass
        assert b" 503 " in heard and b"body_timeout" in heard, heard
    # Who asked once may rest, and is closed in the end.
    assert raw(s.http, b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n", 20)[1] is not None
    assert metric(s, "strandline_connections_closed_total", reason="no_request") >= 3
    assert metric(s, "strandline_connections_closed_total", reason="idle") >= 1
    # A flood far above the limit, silent or with half a head, while a client goes on over its connection and others come.
    honest = requests.Session()
    channel = grpc.insecure_channel(f"127.0.0.1:{s.grpc}")
    export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
    flood = []
    for k in range(300):
        c = socket.create_connection(("127.0.0.1", (s.http, s.otlp, s.grpc)[k % 3]))
        c.sendall((b"", b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n")[k // 3 % 3])
        flood.append(c)
        if k % 25 == 0:
            assert honest.get(s.url + "/api/v1/query?query=1").status_code == 200
            assert requests.get(s.url + "/-/healthy").status_code == 200
            assert otlp(s, "traces", spans(1))[0].status_code == 200
            export(spans(1), timeout=10)
    closed = {why: metric(s, "strandline_connections_closed_total", reason=why) for why in ("displaced", "no_request")}
    assert closed["displaced"] > 0 and sum(closed.values()) >= 250, closed
    assert sum(metric(s, "strandline_connections", listener=name) for name in ("http", "otlp_grpc", "otlp_http")) <= 40
    for c in flood:
        c.close()
    # All at work: the next is told when to come again, over gRPC too, and then is served.
    busy, heard = [], b""
    while not heard:
        assert len(busy) < 200
        c = socket.create_connection(("127.0.0.1", s.otlp))
        c.sendall(head)
        c.settimeout(0.02)
        try:
            heard = c.recv(65536)
        except socket.timeout:
            busy.append(c)
    assert len(busy) >= 40 and b" 503 " in heard and b"Retry-After" in heard and b"max_connections" in heard, (len(busy), heard)
    # Over gRPC that is UNAVAILABLE, at once; the channel comes again by itself.
    late = grpc.insecure_channel(f"127.0.0.1:{s.grpc}", options=[("grpc.use_local_subchannel_pool", 1)])
    late_export = late.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
    try:
        late_export(spans(1), timeout=10)
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.UNAVAILABLE, e
    late_export(spans(1), timeout=20, wait_for_ready=True)
    assert metric(s, "strandline_connections_refused_total", reason="limit") >= 1
    assert otlp(s, "traces", spans(1))[0].status_code == 200
    s.stop()
    # TLS: a handshake that does not come, and one that does.
    s = Server("connections-tls", env={**bounds, "STRANDLINE_SERVER_TLS_CERT": cert, "STRANDLINE_SERVER_TLS_KEY": key}).start(wait=False)
    secure = f"https://127.0.0.1:{s.http}"

    def up():
        try:
            return requests.get(secure + "/-/ready", verify=cert).status_code == 200
        except requests.RequestException:
            return False

    until(up)
    for port in (s.http, s.otlp, s.grpc):
        for part in (b"", bytes([22, 3, 1, 2, 0])):
            assert raw(port, part, 20)[1] is not None
    page = requests.get(secure + "/metrics", verify=cert).text
    assert 'strandline_connections_closed_total{reason="handshake"} 6' in page, page
    r = requests.post(f"https://127.0.0.1:{s.otlp}/v1/traces", data=spans(1), headers=PB, verify=cert)
    assert r.status_code == 200, r.text
    channel = grpc.secure_channel(f"localhost:{s.grpc}", grpc.ssl_channel_credentials(open(cert, "rb").read()))
    channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")(spans(1), timeout=10)
    s.stop()


def in_flight():
    """More bytes at once than server.max_in_flight: told to come again in every protocol, counted, and nothing is lost."""
    s = Server("in-flight", env={"STRANDLINE_SERVER_MAX_IN_FLIGHT": "64KiB"}).start()
    body = gauges({"held": 3000})
    assert 64 << 10 < len(body) < 512 << 10, len(body)
    # One request that has sent most of itself holds the room.
    holder = socket.create_connection(("127.0.0.1", s.otlp))
    holder.sendall(b"POST /v1/metrics HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n" % len(body))
    holder.sendall(body[:-1])
    until(lambda: metric(s, "strandline_in_flight_bytes") >= len(body) - 1)
    r, _ = otlp(s, "metrics", gauges({"waits": 1}))
    assert r.status_code == 503 and r.headers["Retry-After"] and b"max_in_flight" in r.content, (r.status_code, r.content)
    now = int(time.time() * 1000)
    r = push(s, [({"__name__": "waits_too"}, [(now, 1)])])
    assert r.status_code == 503 and r.headers["Retry-After"] and "max_in_flight" in r.text, (r.status_code, r.text)
    grpc_says_later(s, spans(1))
    for protocol in ("otlp_http_requests", "remote_write_requests", "otlp_grpc_requests"):
        assert metric(s, "strandline_refused_total", protocol=protocol, reason="overloaded") == 1, protocol
    # A refusal of a body larger than the socket's buffers is heard by a client that reads only once it has sent all.
    r, _ = otlp(s, "metrics", gauges({"large": 20_000}))
    assert r.status_code == 503, r.status_code
    # The one that was there first is served, then all that were told to wait.
    holder.sendall(body[-1:])
    assert b" 200 " in holder.recv(65536)
    holder.close()
    until(lambda: metric(s, "strandline_in_flight_bytes") == 0)
    assert otlp(s, "metrics", gauges({"waits": 1}))[0].status_code == 200
    assert push(s, [({"__name__": "waits_too"}, [(now, 1)])]).status_code == 204
    grpc_export(s, spans(1))
    assert s.value("count(held)") == 3000 and s.value("count(waits)") == 1 and s.value("waits_too") == 1
    s.stop()


def rights():
    """Tokens and users: read, write and admin apart; a tenant only for who may name it."""
    hashed = lambda secret: subprocess.run([BIN, "hash-secret"], input=secret, capture_output=True, text=True, check=True).stdout.strip()
    entries = [("", "reader", '["read"]', False), ("", "writer", '["write"]', False), ("root", "secret", '["admin"]', True)]
    path = os.path.join(ROOT, "auth.toml")
    with open(path, "w") as f:
        for user, secret, may, any_tenant in entries:
            f.write(f'[[entry]]\nsecret = "{hashed(secret)}"\ntenant = "anonymous"\nrights = {may}\nany_tenant = {str(any_tenant).lower()}\n')
            f.write(f'user = "{user}"\n' if user else "")
    s = Server("rights", env={"STRANDLINE_AUTH_FILE": path}).start()
    bearer = lambda t: {"Authorization": f"Bearer {t}"}
    root = requests.auth.HTTPBasicAuth("root", "secret")

    def code(method, path, base=s.url, **kw):
        return requests.request(method, base + path, **kw).status_code

    for who, read, write, admin in ((dict(headers=bearer("reader")), 200, 403, 403), (dict(headers=bearer("writer")), 403, 200, 403),
                                    (dict(auth=root), 200, 200, 204), (dict(headers=bearer("nobody")), 401, 401, 401), ({}, 401, 401, 401)):
        for query in ("/api/v1/query?query=1", "/api/search?q={}", "/api/v1/labels", "/federate?match[]=up", "/api/v1/status/config",
                      "/api/v1/status/flags", "/api/v1/status/runtimeinfo", "/api/v1/targets"):
            assert code("GET", query, **who) == read, (who, query)
        headers = {**who.get("headers", {}), **PB}
        assert code("POST", "/v1/traces", f"http://127.0.0.1:{s.otlp}", data=spans(1), headers=headers, auth=who.get("auth")) == write, who
        assert code("POST", "/api/v1/admin/flush", **who) == admin, who
    assert code("GET", "/api/v1/query?query=1", headers={**bearer("reader"), "X-Scope-OrgID": "other"}) == 403
    assert code("GET", "/api/v1/query?query=1", headers={"X-Scope-OrgID": "other"}, auth=root) == 200
    channel = grpc.insecure_channel(f"127.0.0.1:{s.grpc}")
    export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
    for token, want in (("writer", None), ("reader", grpc.StatusCode.PERMISSION_DENIED), ("nobody", grpc.StatusCode.UNAUTHENTICATED)):
        try:
            export(spans(1), metadata=(("authorization", f"Bearer {token}"),), timeout=5)
            got = None
        except grpc.RpcError as e:
            got = e.code()
        assert got == want, (token, got)
    assert "secret" not in s.text() and "writer" not in s.text()
    s.stop()


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        b = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([b[0] ^ 4]))


def damage():
    """Bits flipped in files of a stopped server: what says what there is costs nothing; data that can't be read is never
    passed over in silence, and the rest is had by asking for it."""
    s = Server("damage").start()
    now = int(time.time() * 1000)
    assert push(s, [({"__name__": "m", "i": str(i)}, [(now, 1.0 + i)]) for i in range(3)]).status_code == 204
    span = {"traceId": "11" * 16, "spanId": "22" * 8, "name": "op", "startTimeUnixNano": str(now * 10**6), "endTimeUnixNano": str(now * 10**6 + 5)}
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    assert requests.post(f"http://127.0.0.1:{s.otlp}/v1/traces", json=body).status_code == 200
    s.flush()
    s.stop()
    files = {}
    for d, _, names in os.walk(s.dir):
        for n in names:
            files.setdefault(n, []).append(os.path.join(d, n))
    for n in ("manifest.json", "meta.json"):
        for f in files[n]:
            flip(f, os.path.getsize(f) // 2)
    s.start()
    assert len(s.query("m", now / 1000)) == 3
    trace = f"{s.url}/api/v2/traces/{'11' * 16}"
    assert requests.get(trace).json()["trace"]["resourceSpans"]
    said = s.text()
    assert "its copy counts" in said, said
    for how in ("it is written anew as it is remembered here", "it was made anew from its spans"):
        assert f"a block's description is damaged; {how}" in said, said
    s.stop()
    [index], [spans] = files["index"], files["spans.parquet"]
    flip(index, 60)
    flip(spans, 10)
    s.start()
    r = requests.get(s.url + "/api/v1/query", params={"query": "m", "time": now / 1000})
    assert r.status_code == 500 and os.path.basename(os.path.dirname(index)) in r.text, r.text
    r = requests.get(s.url + "/api/v1/query", params={"query": "m", "time": now / 1000, "partial_response": "true"})
    assert r.status_code == 200 and "could not be read" in r.json()["warnings"][0], r.text
    r = requests.get(trace)
    assert r.status_code == 500 and "spans.parquet" in r.text, r.text
    r = requests.get(trace, params={"partial_response": "true"}).json()
    assert r["status"] == "PARTIAL" and "spans.parquet" in r["message"], r
    r = requests.get(trace.replace("/v2/", "/"), params={"partial_response": "true"})
    assert r.status_code == 500 and "spans.parquet" in r.text, r.text
    r = requests.get(s.url + "/api/search", params={"q": "{}", "partial_response": "true"}).json()
    assert r["traces"] == [] and r["metrics"]["totalJobs"] > r["metrics"]["completedJobs"], r
    assert 'answers_incomplete{tenant="anonymous"} 0' in requests.get(s.url + "/metrics").text
    s.stop()
    flip(os.path.join(os.path.dirname(spans), "meta.json"), 40)
    s.start()
    assert 'answers_incomplete{tenant="anonymous"} 1' in requests.get(s.url + "/metrics").text
    assert "answers could miss data" in s.text() and "nor can it be made anew" in s.text(), s.text()
    assert len(s.query("vector(1)")) == 1
    # Also beside the running server, every one that is damaged, of metrics and of spans.
    out = subprocess.run([BIN, "blocks", "verify", "--data-dir", s.dir], capture_output=True, text=True)
    assert out.returncode == 1 and "2 damaged blocks" in out.stderr, (out.stdout, out.stderr)
    assert os.path.basename(os.path.dirname(index)) + "  DAMAGED" in out.stdout and "nor can it be made anew" in out.stdout, out.stdout
    s.stop()


CHECKS = [series_limit, memory_for_series, other_limits, mischief, connections, in_flight, rights, damage]
