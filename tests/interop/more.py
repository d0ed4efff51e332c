"""Checks beside Prometheus itself."""
import os, random, re, subprocess, sys, time

import requests

import rw
from beside import Prometheus
from harness import BIN, ROOT, Server, Weed, free_port


def push(server, series):
    """`series`: list of (labels, [(ms, value)])."""
    return rw.post(server, rw.v1([{"labels": labels, "samples": samples} for labels, samples in series]))


def remote_write():
    """A real Prometheus scrapes a real node_exporter and remote-writes here, through a restart and a kill -9 of ours."""
    exporter_port = free_port()
    exporter = subprocess.Popen(["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{exporter_port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    s = Server("rw").start()
    p = Prometheus("rw-prom", f"""
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: node
  static_configs: [{{targets: ['127.0.0.1:{exporter_port}']}}]
remote_write:
- url: {s.url}/api/v1/write
  queue_config: {{min_backoff: 100ms, max_backoff: 1s, batch_send_deadline: 1s}}
""").start()
    try:
        time.sleep(10)
        s.kill()
        time.sleep(3)
        s.start()
        time.sleep(6)
        s.stop()
        time.sleep(3)
        s.start()
        # Another sender goes on with its own series meanwhile.
        for k in range(8):
            assert push(s, [({"__name__": "other", "job": "x"}, [(int(time.time() * 1000), k)])]).status_code == 204
            time.sleep(1)
        end = int(time.time()) - 4
        time.sleep(6)
        # Raw samples, to the millisecond; half a second off, since 2.42 counts a window's left end in.
        q = {"query": '{job="node"}[25s]', "time": end + 0.5}
        raw = lambda url: {frozenset(r["metric"].items()): r["values"] for r in requests.get(url + "/api/v1/query", params=q).json()["data"]["result"]}
        theirs, ours = raw(p.url), raw(s.url)
        assert len(theirs) > 200
        missing = {k: (v, ours.get(k)) for k, v in theirs.items() if ours.get(k) != v}
        assert not missing, (len(missing), len(theirs), list(missing.items())[:1])
        for q in ('sum by (mode) (node_cpu_seconds_total)', 'node_load1', 'up{job="node"}', 'count({__name__=~"node_.*"})'):
            a = requests.get(p.url + "/api/v1/query", params={"query": q, "time": end}).json()["data"]["result"]
            b = requests.get(s.url + "/api/v1/query", params={"query": q, "time": end}).json()["data"]["result"]
            key = lambda r: sorted(r["metric"].items())
            assert sorted(a, key=key) == sorted(b, key=key), (q, a[:2], b[:2])
    finally:
        exporter.kill()
        p.stop()
        s.stop()


def remote_read():
    """A Prometheus without data of its own asks ours for every sample, in one answer of some megabytes."""
    s = Server("rr").start()
    end = int(time.time()) // 10 * 10
    for part in range(2):
        for j in range(0, 6000, 500):
            series = [({"__name__": "wide", "i": str(i), "where": "a label of some length, for there to be much to send"},
                       [((end - 400 + part * 200 + k * 10) * 1000, float(i * k)) for k in range(20)]) for i in range(j, j + 500)]
            assert push(s, series).status_code == 204
        if part == 0:
            s.flush()
    p = Prometheus("rr-prom", f"global: {{}}\nremote_read: [{{url: '{s.url}/api/v1/read', read_recent: true}}]\n").start()
    try:
        for q in ("count(wide)", "sum(wide)", "sum(count_over_time(wide[10m]))", "sum(sum_over_time(wide[10m]))", "sum(rate(wide[5m]))"):
            # Half a second off, since 2.42 counts a window's left end in.
            a, b = (requests.get(x.url + "/api/v1/query", params={"query": q, "time": end + 0.5}).json()["data"]["result"] for x in (p, s))
            a, b = float(a[0]["value"][1]), float(b[0]["value"][1])
            assert abs(a - b) <= 1e-9 * abs(b) and b > 0, (q, a, b)
        assert s.value("sum(count_over_time(wide[10m]))", end) == 6000 * 40
    finally:
        p.stop()
        s.stop()


def blocks_in_prometheus():
    """A Prometheus pointed at a copy of our block answers the same; its own data folder imports here."""
    s = Server("pblocks").start()
    rng = random.Random(7)
    now = int(time.time() * 1000) - 3_600_000
    for step in range(0, 240, 40):
        series = []
        for i in range(30):
            labels = {"__name__": "m_total" if i % 2 else "g", "i": str(i), "job": f"j{i % 3}"}
            series.append((labels, [(now + (step + k) * 15000, float(rng.randrange(1000)) if i % 2 == 0 else (step + k) * i * 1.5) for k in range(40)]))
        assert push(s, series).status_code == 204
    s.flush()
    # The folder is read while the server writes it: flushed data, and what is in the log alone.
    assert push(s, [({"__name__": "fresh"}, [(now + 3_000_000, 42.0)])]).status_code == 204
    cli = lambda *a: subprocess.run([BIN, *a, "--data-dir", s.dir], capture_output=True, text=True, check=True).stdout
    at = str((now + 3_000_000) / 1000)
    assert "42.0" in cli("query", "fresh", "--time", at) and "30.0" in cli("query", "count({__name__=~'m_total|g'})", "--time", str((now + 900_000) / 1000))
    assert '"traces": []' in cli("query", "--traceql", "{}")
    listed = cli("blocks", "list")
    assert re.search(r"level 1  \d{4}-\d\d-\d\dT[\d:]{8}Z \.\. .*bucket, metrics/anonymous/", listed), listed
    assert "fine" in cli("blocks", "verify")
    p = Prometheus("pblocks-prom")
    data = os.path.join(p.dir, "data")
    subprocess.run(["cp", "-r", os.path.join(s.dir, "bucket", "metrics", "anonymous"), data], check=True)
    p.start()
    queries = ["sum by (job) (rate(m_total[5m]))", "g", "max_over_time(g[10m])", "count(m_total) by (job)", "quantile(0.9, g)"]
    try:
        for q in queries:
            params = {"query": q, "start": (now + 607_000) / 1000, "end": (now + 3_000_000) / 1000, "step": 60}
            a = requests.get(p.url + "/api/v1/query_range", params=params).json()["data"]["result"]
            b = requests.get(s.url + "/api/v1/query_range", params=params).json()["data"]["result"]
            assert a and len(a) == len(b), (q, len(a), len(b))
            for x, y in zip(sorted(a, key=lambda r: sorted(r["metric"].items())), sorted(b, key=lambda r: sorted(r["metric"].items()))):
                assert x["metric"] == y["metric"] and len(x["values"]) == len(y["values"]), q
                for (t1, v1), (t2, v2) in zip(x["values"], y["values"]):
                    assert t1 == t2 and abs(float(v1) - float(v2)) <= 1e-9 * max(1, abs(float(v1))), (q, v1, v2)
        want = b
        # And back: import what Prometheus has (our block among it, under our own writer again).
        fresh = os.path.join(ROOT, "pimport")
        out = subprocess.run([BIN, "import", data, "--data-dir", fresh], capture_output=True, text=True)
        assert out.returncode == 0 and "imported" in out.stdout, (out.stdout, out.stderr)
        f = Server("pimport", data=fresh).start()
        got = requests.get(f.url + "/api/v1/query_range", params=params).json()["data"]["result"]
        assert got == want
        f.stop()
        out = subprocess.run([BIN, "export", os.path.join(ROOT, "pexport"), "--data-dir", fresh], capture_output=True, text=True)
        assert out.returncode == 0, out.stderr
        out = subprocess.run(["promtool", "tsdb", "list", os.path.join(ROOT, "pexport")], capture_output=True, text=True)
        assert out.returncode == 0 and len(out.stdout.splitlines()) >= 2, (out.stdout, out.stderr)
        for args in (["blocks", "list"], ["blocks", "verify"]):
            out = subprocess.run([BIN, *args, "--data-dir", fresh], capture_output=True, text=True)
            assert out.returncode == 0 and out.stdout.strip(), (args, out.stderr)
    finally:
        p.stop()
        s.stop()


def sql_over_blocks():
    """Six SQL queries in DuckDB over more than twenty span blocks, in a folder and in S3, checked against TraceQL."""
    s = Server("sql", env={"STRANDLINE_COMPACTION_ENABLED": "false"}).start()
    sql_over(s, os.path.join(s.dir, "bucket", "traces", "anonymous"))
    weed = Weed("sql-weed").start()
    try:
        s = Server("sql-s3", "--bucket", f"s3://{weed.bucket}/sql", env={**weed.env(), "STRANDLINE_COMPACTION_ENABLED": "false"}).start()
        keys = ["--s3", f"127.0.0.1:{weed.port}", "--key", weed.KEY, "--secret", weed.SECRET]
        sql_over(s, f"s3://{weed.bucket}/sql/traces/anonymous", *keys)
    finally:
        weed.stop()


def sql_over(s, blocks, *options):
    """Fills a server with blocks that differ in what they shred, and compares."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    rng = random.Random(5)
    now = time.time_ns()
    for block in range(22):
        req = ExportTraceServiceRequest()
        for service in ("gateway", "orchestrator", "records"):
            rs = req.resource_spans.add()
            rs.resource.attributes.add(key="service.name").value.string_value = service
            spans = rs.scope_spans.add().spans
            for _ in range(40):
                start = now - rng.randrange(600) * 10**9
                x = spans.add(trace_id=rng.randbytes(16), span_id=rng.randbytes(8), name="op", kind=2, start_time_unix_nano=start,
                              end_time_unix_nano=start + rng.randrange(10**6, 10**9))
                x.status.code = 2 if rng.random() < 0.1 else 0
                put = lambda k, **v: [setattr(x.attributes.add(key=k).value, n, z) for n, z in v.items()]
                what = rng.randrange(3)
                if what == 0:
                    put("http.route", string_value=rng.choice(["/a", "/b", "/c"]))
                    code = rng.choice([200, 404, 500, 503])
                    # Integers in some blocks, text in others; absent from a few.
                    if block % 3 == 0:
                        put("http.response.status_code", string_value=str(code))
                    elif block % 3 == 1:
                        put("http.response.status_code", int_value=code)
                elif what == 1:
                    put("db.system.name", string_value=rng.choice(["postgresql", "redis"]))
                else:
                    put("gen_ai.request.model", string_value=rng.choice(["m1", "m2"]))
                    put("gen_ai.usage.input_tokens", int_value=rng.randrange(4000))
        r = requests.post(f"http://127.0.0.1:{s.otlp}/v1/traces", data=req.SerializeToString(), headers={"Content-Type": "application/x-protobuf"})
        assert r.status_code == 200 and not r.content, r.content
        s.flush()
    here = os.path.dirname(os.path.abspath(__file__))
    command = [sys.executable, os.path.join(here, "sql.py"), blocks, s.url, "--min-blocks", "20", *options]
    out = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert out.returncode == 0, out.stdout + out.stderr
    s.stop()


CHECKS = [blocks_in_prometheus, remote_write, remote_read, sql_over_blocks]
