"""What lies on disk, beside a real Prometheus 3 and its promtool: our blocks there, its blocks here, and back."""
import json, math, os, random, shutil, subprocess, time

import requests

import rw
from beside import Prometheus3, differences, get, present, promtool3, samples
from harness import BIN, ROOT, Server

EVERYTHING = '{__name__=~".+"}'
STEP_MS, TURNS, PART = 30_000, 360, 30
KINDS = ("integer", "float", "custom", "float custom", "gauge", "negative")
# Histograms whose bounds change are left to raw samples: 3.14 makes common ones of them where 3.5 counts a reset; so are rates
# near a start, which 3.14 takes no further back than to where a histogram was nothing.
QUERIES = ('sum by (i) (rate({__name__=~"f.*_total"}[5m]))', "max_over_time(g[10m])", "resets(h{kind!='custom'}[1h])", "changes(h[1h])", "histogram_count(h)", "histogram_sum(h)",
           "avg by (kind) (h)", "mixed", "histogram_quantile(0.9, h)", "histogram_fraction(0.3, 1.2, h{kind!~'.*custom'})", "count(h)", "histogram_quantile(0.5, sum_over_time(h{kind='gauge'}[10m]))")


def histogram(rng, kind, k, t):
    n = k // 3 + 1
    if k % 111 == 100:
        return dict(count=0, sum=rw.STALE, t=t, float="float" in kind, positive=([], []))
    if kind == "integer":
        counts = [rng.randrange(1, 5) + n for _ in range(3 + k // 50 % 4)]
        spans = [(k // 100, 2), (1 + k % 2, len(counts) - 2)]
        deltas = [counts[0]] + [b - a for a, b in zip(counts, counts[1:])]
        return dict(count=sum(counts) + 2, sum=n * 1.5, schema=k // 70 % 4, positive=(spans, deltas), zero=2, threshold=0.001, t=t)
    if kind == "float":
        counts = [rng.random() * 5 for _ in range(3)]
        return dict(float=True, count=sum(counts), sum=n * 1.5, schema=-1, positive=([(0, 2), (3, 1)], counts), threshold=0.5, t=t)
    if kind == "custom":
        counts = [k + 1, 2 * k + 1, 3 * k + 1]
        return dict(count=sum(counts), sum=1.0 * n, schema=-53, custom=[0.5, 1.0] if k < 200 else [0.25, 1.0], positive=([(0, 3)], [k + 1, k, k]), t=t)
    if kind == "float custom":
        return dict(float=True, count=3.0 * k, sum=1.0, schema=-53, custom=[0.1, 0.2, math.pi], positive=([(0, 1), (2, 1)], [1.0 * k, 2.0 * k]), t=t)
    if kind == "gauge":
        count = rng.randrange(1, 50)
        return dict(count=count, sum=n * 1.5, schema=8, positive=([(200, 1)], [count]), hint=3, t=t)
    return dict(count=3 * (k + 1), sum=-1.0, schema=3, negative=([(-5, 1)], [k + 1]), positive=([(7, 1)], [2 * (k + 1)]), threshold=2.938735877055719e-39, t=t)


def parts(start_ms, starts):
    """Requests one after another: floats with staleness markers, histograms of each kind, a series that is both in turn."""
    rng = random.Random(3)
    st = [start_ms - 5000] if starts else []
    for part in range(0, TURNS, PART):
        at = lambda k: start_ms + k * STEP_MS
        all_ = []
        for i in range(12):
            value = lambda k: rw.STALE if k % 97 == 50 and i % 3 == 0 else float(rng.randrange(1000)) if i % 2 == 0 else k * i * 1.5
            all_.append({"labels": {"__name__": f"f{i % 3}_total" if i % 2 else "g", "i": str(i), "é.x": 'ü\n"' if i % 5 == 0 else "a"},
                         "samples": [(at(k) + max(i - 6, 0), value(k), *st) for k in range(part, part + PART)]})
        for kind in KINDS:
            all_.append({"labels": {"__name__": "h", "kind": kind}, "histograms": [histogram(rng, kind, k, at(k)) for k in range(part, part + PART)]})
        half = part + PART // 2
        all_.append({"labels": {"__name__": "mixed"}, "samples": [(at(k), 1.0 * k) for k in range(part, half)], "histograms": [histogram(rng, "negative", k, at(k)) for k in range(half, part + PART)]})
        yield all_


def same(theirs, ours, start_ms, end, what):
    """Raw samples, what is stale when, and some queries."""
    a, b = (samples(x, EVERYTHING, end, "4h") for x in (theirs, ours))
    assert len(a) == 19 and a == b, (what, "\n".join(d[:3000] for d in differences(a, b)))
    for t in range(start_ms // 1000, int(end), 617):
        a, b = (present(x, EVERYTHING, t) for x in (theirs, ours))
        assert a == b, (what, t, a ^ b)
    for q in QUERIES:
        a, b = (get(x, "query_range", query=q, start=start_ms / 1000 + 600, end=end, step=127)["result"] for x in (theirs, ours))
        near(a, b, (what, q))


def near(a, b, where):
    """The same, but for the last digits of numbers: sums are made in another order."""
    if isinstance(a, str) and a != b:
        assert abs(float(a) - float(b)) <= 1e-12 * abs(float(a)), (where, a, b)
    elif isinstance(a, list):
        assert len(a) == len(b), (where, a, b)
        by = lambda r: json.dumps(r["metric"], sort_keys=True) if isinstance(r, dict) and "metric" in r else ""
        for x, y in zip(sorted(a, key=by), sorted(b, key=by)):
            near(x, y, where)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), (where, a, b)
        for k in a:
            near(a[k], b[k], (where, k))
    else:
        assert a == b, (where, a, b)


def cli(*args):
    out = subprocess.run([BIN, *args], capture_output=True, text=True)
    assert out.returncode == 0, (args, out.stdout, out.stderr)
    return out.stdout


def tools(folder):
    """promtool of 3.5 over a copy: it lists, analyses and dumps each block. The dump's lines."""
    copy = os.path.join(ROOT, "tools")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    os.makedirs(os.path.join(copy, "wal"), exist_ok=True)
    said = {}
    for args in (["list", "-r", copy], *(["analyze", "--extended", copy, u] for u in os.listdir(copy) if len(u) == 26), ["dump", copy], ["dump-openmetrics", copy]):
        out = promtool3("tsdb", *args)
        assert out.returncode == 0 and out.stdout.strip() and not out.stderr.strip(), (args, out.stderr)
        said[args[0]] = out.stdout
    assert "DAMAGED" not in said["list"] and len(said["list"].splitlines()) == len([u for u in os.listdir(copy) if len(u) == 26]) + 1, said["list"]
    return sorted(said["dump"].splitlines())


def blocks_beside_prometheus():
    """The same data remote-written into a Prometheus 3 and ours: floats, native histograms of each kind, staleness. They answer the
    same, ours before and after its flush; so does a Prometheus that reads ours remotely, one over a copy of our blocks, and
    one over our export; so does ours with its snapshot imported, and a Prometheus over the export of that. promtool reads all of it."""
    end_ms = int(time.time()) * 1000
    start_ms = end_ms - TURNS * STEP_MS
    end = end_ms / 1000
    s = Server("b-ours").start()
    p = Prometheus3("b-theirs", json.dumps({"storage": {"tsdb": {"out_of_order_time_window": "4h"}}})).start()
    for part in parts(start_ms, False):
        for x, body, kind in ((p, rw.v1(part), rw.V1), (s, rw.v2(part), rw.V2)):
            r = rw.post(x, body, kind)
            assert r.status_code == 204, r.text
    same(p, s, start_ms, end, "sent")
    s.flush()
    same(p, s, start_ms, end, "flushed")
    q = Prometheus3("b-remote", json.dumps({"remote_read": [{"url": s.url + "/api/v1/read", "read_recent": True}]})).start()
    same(p, q, start_ms, end, "read remotely")
    q.stop()
    blocks = os.path.join(s.dir, "bucket", "metrics", "anonymous")
    dump = tools(blocks)
    # Where a series' type changes the tool leaves samples out.
    assert len(dump) > 18 * (TURNS - 10), len(dump)
    copy = os.path.join(ROOT, "b-copy")
    shutil.copytree(blocks, copy)
    s.stop()
    exported = os.path.join(ROOT, "b-exported")
    cli("export", exported, "--data-dir", s.dir)
    name = requests.post(p.url + "/api/v1/admin/tsdb/snapshot", timeout=60).json()["data"]["name"]
    fresh = os.path.join(ROOT, "b-fresh")
    assert "imported" in cli("import", os.path.join(p.data, "snapshots", name), "--data-dir", fresh)
    f = Server("b-fresh", data=fresh).start()
    same(p, f, start_ms, end, "its snapshot imported")
    f.stop()
    back = os.path.join(ROOT, "b-back")
    cli("export", back, "--data-dir", fresh)
    assert tools(back) == dump
    for what, data in (("a copy of ours", copy), ("our export", exported), ("its snapshot, by way of ours", back)):
        q = Prometheus3("b-reader", data=data).start()
        same(p, q, start_ms, end, what)
        log = open(q.log).read()
        assert "level=ERROR" not in log and "orrupt" not in log, log
        q.stop()
    p.stop()


def deletes_beside_prometheus():
    """What a Prometheus 3 deleted from blocks (its tombstones) is deleted in ours that imports them, and what ours deletes is not in
    its export."""
    end_ms = int(time.time()) * 1000
    start_ms = end_ms - TURNS * STEP_MS
    s = Server("d-ours").start()
    for part in parts(start_ms, False):
        assert rw.post(s, rw.v2(part), rw.V2).status_code == 204
    s.flush()
    s.stop()
    data, fresh, back = (os.path.join(ROOT, n) for n in ("d-data", "d-fresh", "d-back"))
    cli("export", data, "--data-dir", s.dir)

    def delete(x, *which):
        for selector, a, b in which:
            params = {"match[]": selector, "start": (start_ms + a * STEP_MS) / 1000, "end": (start_ms + b * STEP_MS) / 1000}
            assert requests.post(x.url + "/api/v1/admin/tsdb/delete_series", params=params).status_code == 204

    p = Prometheus3("d-theirs", data=data).start()
    before = samples(p, EVERYTHING, end_ms / 1000, "4h")
    delete(p, ('g{i="0"}', 100, 200), ("h{kind='custom'}", 50, 120), ("mixed", 10, 60), ("f1_total", 0, TURNS))
    theirs = samples(p, EVERYTHING, end_ms / 1000, "4h")
    p.stop()
    count = lambda x: sum(len(v) for v in x.values())
    assert len(theirs) == len(before) - 2 and count(before) - count(theirs) > 900, (count(before), count(theirs))
    cli("import", data, "--data-dir", fresh)
    f = Server("d-fresh", data=fresh).start()
    ours = samples(f, EVERYTHING, end_ms / 1000, "4h")
    assert ours == theirs, differences(theirs, ours)[:2]
    delete(f, ('g{i="2"}', 100, 200), ("h{kind='float'}", 50, 120))
    ours = samples(f, EVERYTHING, end_ms / 1000, "4h")
    f.stop()
    cli("export", back, "--data-dir", fresh)
    p = Prometheus3("d-back", data=back).start()
    theirs = samples(p, EVERYTHING, end_ms / 1000, "4h")
    assert ours == theirs and count(theirs) < count(before) - 1000, differences(theirs, ours)[:2]
    p.stop()


def promtool_asks():
    """promtool's own client: it pushes a page of metrics, queries, lists and analyses, and makes blocks from rules; of ours it gets
    what it gets of a Prometheus 3."""
    end_ms = int(time.time()) * 1000
    start_ms = end_ms - TURNS * STEP_MS
    s = Server("a-ours").start()
    p = Prometheus3("a-theirs", json.dumps({"storage": {"tsdb": {"out_of_order_time_window": "4h"}}})).start()
    page, rules = os.path.join(ROOT, "pushed.txt"), os.path.join(ROOT, "pushed.yml")
    open(page, "w").write('# TYPE pushed counter\n# HELP pushed Pushed.\npushed_total{x="a b"} 5\n# TYPE ph histogram\nph_bucket{le="1"} 1\nph_bucket{le="+Inf"} 2\nph_sum 3\nph_count 2\n')
    json.dump({"groups": [{"name": "g", "interval": "1m", "rules": [
        {"record": "f:rate", "expr": "sum(rate(f1_total[5m]))"}, {"record": "h:sum", "expr": "sum(h{kind='integer'})"}]}]}, open(rules, "w"))
    for x in (p, s):
        for part in parts(start_ms, False):
            assert rw.post(x, rw.v1(part)).status_code == 204
        out = promtool3("push", "metrics", "--label", "job=pushed", x.url + "/api/v1/write", page)
        assert out.returncode == 0 and "SUCCESS" in out.stdout, (out.stdout, out.stderr)
    at = str(time.time())

    def asked(x, *args):
        out = promtool3("query", *[x.url if a == "URL" else a for a in args])
        assert out.returncode == 0 and out.stdout.strip(), (args, out.stderr)
        # The pushed samples have the time of their push.
        return sorted(line.split(" @")[0] for line in out.stdout.splitlines())

    for args in (("instant", "--time", at, "URL", '{job="pushed"}'), ("range", "--start", str(start_ms / 1000), "--end", str(end_ms / 1000), "--step", "10m", "URL", "sum(rate(f1_total[5m]))"),
                 ("series", "--match", "g", "URL"), ("labels", "URL", "__name__"), ("labels", "URL", "é.x"),
                 ("analyze", "--server", "URL", "--type", "histogram", "--match", "h", "--duration", "1h")):
        a, b = (asked(x, *args) for x in (p, s))
        assert a == b, (args, a, b)
    dumps = []
    for x, name in ((p, "a-rules-theirs"), (s, "a-rules-ours")):
        made = os.path.join(ROOT, name)
        out = promtool3("tsdb", "create-blocks-from", "rules", "--start", str(start_ms // 1000 + 600), "--end", str(end_ms // 1000), "--url", x.url, "--output-dir", made, rules)
        assert out.returncode == 0, out.stderr
        dumps.append(tools(made))
    assert dumps[0] == dumps[1] and len(dumps[0]) > 100, [d[:2] for d in dumps]
    p.stop()
    s.stop()


def openmetrics_blocks():
    """`promtool tsdb create-blocks-from openmetrics`, imported: ours dumps the same as the blocks themselves."""
    now = int(time.time()) - 7200
    page = os.path.join(ROOT, "page.om")
    with open(page, "w") as f:
        f.write("# TYPE c counter\n# HELP c Counts.\n")
        for k in range(500):
            f.write(f'c_total{{x="a\\"b",y="ü"}} {k}.5 {now - 30000 + k * 60}.25\n')
        f.write("# TYPE g gauge\n" + "".join(f"g {v} {now - 20000 + k}\n" for k, v in enumerate(["NaN", "+Inf", "-Inf", "-0.0", "1e-300", "0.1"])) + "# EOF\n")
    theirs = os.path.join(ROOT, "from-page")
    out = promtool3("tsdb", "create-blocks-from", "openmetrics", page, theirs)
    assert out.returncode == 0, out.stderr
    fresh, back = os.path.join(ROOT, "om-fresh"), os.path.join(ROOT, "om-back")
    cli("import", theirs, "--data-dir", fresh)
    cli("export", back, "--data-dir", fresh)
    assert tools(theirs) == tools(back) and len(tools(back)) == 506, tools(back)[:5]


CHECKS = [blocks_beside_prometheus, deletes_beside_prometheus, promtool_asks, openmetrics_blocks]
