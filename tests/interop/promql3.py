"""PromQL beside Prometheus 3.5: what 2.42 (promql.py) has not. Native histograms of both kinds, mixed types, UTF-8 names, info(), duration
expressions, experimental functions, warnings and infos with their places, and the words of errors.

Run alone: PROMETHEUS3=folder INTEROP_BIN=... python promql3.py [SEED] [QUERIES]

promql3_queries.txt holds queries that must be answered alike, wrong ones too. The language here is 3.14's; where it differs from 3.5 on
purpose no query is made, or the difference is taken away (`tidy`):
- rates of native histograms heed the zero point of counters: histograms here stay far from it, gauge histograms are not asked for rates;
- unlike custom bounds are reconciled: each metric has one set of them;
- buckets without a lower bound are not interpolated: histogram_fraction is asked of exponential histograms alone;
- info() follows @ and offset, knows labels that the base has too, and keeps a name that is to be removed removed;
- mad_over_time of NaN is NaN; last_over_time over a subquery loses names; series of one name may meet in `or` over a range;
- a comparison that leaves a pair out may be a match too many; NaN as a parameter has other words, durations have more to expect;
- warnings within subqueries have a place, those of sorting over a range are new, an empty name of a metric is not told, and what had to be
  made monotonic is told with its numbers.
3.5 itself mixes up histograms of several series where windows are read: windows over them are of one series. And it takes empty buckets,
which a chunk may have or not, for a change: made queries don't ask for changes of histograms.
"""
import math, os, random, re, struct, subprocess, sys, time

import requests

from harness import ROOT, Server, cleanup, free_port
from promql import field, label, same, snappy, varint

STEP, SAMPLES = 15, 160
STALE_BYTES = struct.pack("<Q", 0x7FF0000000000002)


def zigzag(n):
    return varint((n << 1) ^ (n >> 63))


def double(v):
    return STALE_BYTES if v == "stale" else struct.pack("<d", v)


def spans(at):
    """Bucket indexes to spans: (offset, length)."""
    out, last = [], None
    for i in at:
        if last is not None and i == last + 1:
            out[-1][1] += 1
        else:
            out.append([i if last is None else i - last - 1, 1])
        last = i
    return out


class Hist:
    """A native histogram as remote write carries it."""

    def __init__(self, schema=0, zero=0, width=0.001, pos=None, neg=None, total=None, custom=None, gauge=False, floats=False):
        self.schema, self.zero, self.width, self.gauge, self.floats = schema, zero, width, gauge, floats
        self.pos, self.neg, self.sum, self.custom = dict(pos or {}), dict(neg or {}), total, custom

    def encode(self, t):
        out = b""
        count = self.zero + sum(self.pos.values()) + sum(self.neg.values())
        if self.sum == "stale":
            none = varint(2 << 3 | 1) + double(0.0) if self.floats else varint(1 << 3) + varint(0)
            return none + varint(3 << 3 | 1) + STALE_BYTES + varint(15 << 3) + varint(t)
        out += varint(2 << 3 | 1) + double(float(count)) if self.floats else varint(1 << 3) + varint(int(count))
        out += varint(3 << 3 | 1) + double(self.sum)
        out += varint(4 << 3) + zigzag(self.schema)
        out += varint(5 << 3 | 1) + double(0.0 if self.custom else self.width)
        out += varint(7 << 3 | 1) + double(float(self.zero)) if self.floats else varint(6 << 3) + varint(int(self.zero))
        for side, at in ((self.neg, 8), (self.pos, 11)):
            keys = sorted(side)
            for off, n in spans(keys):
                out += field(at, varint(1 << 3) + zigzag(off) + varint(2 << 3) + varint(n))
            if not keys:
                continue
            if self.floats:
                out += field(at + 2, b"".join(double(float(side[k])) for k in keys))
            else:
                last, deltas = 0, b""
                for k in keys:
                    deltas += zigzag(int(side[k]) - last)
                    last = int(side[k])
                out += field(at + 1, deltas)
        if self.gauge:
            out += varint(14 << 3) + varint(3)
        out += varint(15 << 3) + varint(t)
        if self.custom:
            out += field(16, b"".join(double(b) for b in self.custom))
        return out


def write_request(series):
    body = bytearray()
    for labels, samples in series:
        ts = b"".join(label(n, v) for n, v in sorted(labels.items()))
        for t, v in samples:
            if isinstance(v, Hist):
                ts += field(4, v.encode(t))
            else:
                ts += field(2, b"\x09" + double(v) + b"\x10" + varint(t))
        body += field(1, ts)
    return snappy(bytes(body))


def counter_histogram(rng, times, schema, custom=None, floats=False, negative=False, gap=0.05):
    """A counter with resets; some samples missing, some stale."""
    start = lambda: ({0: 40}, {}, 0, 20.0)
    (pos, neg, zero, total), out = start(), []
    for t in times:
        if rng.random() < 0.02:
            pos, neg, zero, total = start()
        for _ in range(rng.randint(0, 4)):
            kind = rng.random()
            if custom:
                k = rng.randint(0, len(custom))
                pos[k] = pos.get(k, 0) + 1
                total += rng.choice([0.25, 0.5, 4])
            elif kind < 0.15:
                zero += 1
            elif negative and kind < 0.4:
                k = rng.randint(-3, 4)
                neg[k] = neg.get(k, 0) + 1
                total -= 1.5
            else:
                k = rng.randint(-4, 6)
                pos[k] = pos.get(k, 0) + 1
                total += rng.choice([0.5, 2, 8.25])
        if rng.random() < 0.01:
            out.append((t, Hist(total="stale", floats=floats)))
        elif rng.random() > gap:
            out.append((t, Hist(schema, zero, 0.001, pos, neg, total, custom, floats=floats)))
    return out


def gauge_histogram(rng, times, custom=None, floats=True):
    out = []
    for t in times:
        if rng.random() < 0.05:
            continue
        if custom:
            pos = {k: rng.randint(0, 9) for k in range(len(custom) + 1) if rng.random() < 0.8}
            out.append((t, Hist(-53, 0, 0, pos, None, rng.uniform(0, 50), custom, True, floats)))
        else:
            pos = {k: rng.choice([0, 1, 2.5, 7]) if floats else rng.randint(0, 5) for k in range(-3, 5) if rng.random() < 0.7}
            neg = {k: rng.randint(0, 5) for k in range(-2, 2) if rng.random() < 0.3}
            width, schema = rng.choice([(0.001, 0), (0.001, 1), (0.001, 2), (0.5, 0)])
            if width == 0.5:
                pos, neg = ({k: v for k, v in side.items() if k >= 0} for side in (pos, neg))
            out.append((t, Hist(schema, rng.randint(0, 3), width, pos, neg, rng.uniform(-10, 50), None, True, floats)))
    return out


def corpus(rng, end):
    times = [(end - (SAMPLES - i) * STEP) * 1000 for i in range(SAMPLES)]
    out = []
    for job in ("api", "db"):
        for inst in range(3):
            base = {"job": job, "instance": f"{job}-{inst}", "zone": "ab"[inst % 2]}
            add = lambda name, samples, **more: out.append(({**base, "__name__": name, **more}, samples))
            for code in ("200", "500"):
                v, samples = 10.0, []
                for t in times:
                    v = 0.0 if rng.random() < 0.02 else v + rng.choice([0, 0, 1, 5, 0.5])
                    if rng.random() < 0.01:
                        samples.append((t, "stale"))
                    elif rng.random() > 0.05:
                        samples.append((t, v))
                add("requests_total", samples, code=code)
            add("temperature", [(t, rng.choice([rng.gauss(0, 100), rng.uniform(-1, 1), 3.0])) for t in times if rng.random() > 0.03])
            add("limit", [(t, float(inst + 1)) for t in times])
            add("odd", [(t, rng.choice([math.nan, math.inf, -math.inf, 1.0, -1.0, 0.0])) for t in times if rng.random() > 0.3])
            add("hist", counter_histogram(rng, times, rng.choice([0, 0, 1, 3])))
            add("hist_neg", counter_histogram(rng, times, inst, negative=True, floats=inst == 1))
            add("hist_gauge", gauge_histogram(rng, times, floats=inst != 2))
            bounds = [0.1, 0.5, 1, 5]
            add("custom", counter_histogram(rng, times, -53, bounds, floats=inst == 1))
            add("custom_gauge", gauge_histogram(rng, times, [0.0, 2.0], floats=inst == 2))
            # Floats, exponential and custom histograms in one series.
            a, b = counter_histogram(rng, times, 0), counter_histogram(rng, times, -53, [0.1, 0.5, 1, 5])
            mixed, f = {}, 0.0
            for source, chance in ((dict(a), 0.5), (dict(b), 0.25 if inst == 2 else 0)):
                for t, v in source.items():
                    if (t // 120000) % 2 if inst == 1 else rng.random() < chance:
                        mixed[t] = v
            for t in times:
                f += 1
                if t not in mixed and inst != 2 or rng.random() < 0.3:
                    mixed[t] = f
            add("mixed", sorted(mixed.items()))
            if inst == 1:
                cut = rng.randint(50, 120)
                add("short_lived", [(t, 10.0 + i) for i, t in enumerate(times[:cut])] + [(times[cut], "stale")])
                add("hist_short", counter_histogram(rng, times[:cut], 1) + [(times[cut], Hist(total="stale"))])
            counts, rows = [0.0] * 4, [[] for _ in range(4)]
            for t in times:
                for _ in range(rng.randint(0, 3)):
                    for k in range(rng.randint(0, 3), 4):
                        counts[k] += 1
                for k in range(4):
                    rows[k].append((t, counts[k]))
            for le, row in zip(("0.1", "0.5", "1", "+Inf"), rows):
                add("latency_bucket", row, le=le)
            add("http.größe", [(t, float(inst)) for t in times], **{"das.label": "x" + str(inst)})
            half = len(times) // 2
            add("target_info", [(t, 1.0) for t in times[:half]] + [(times[half], "stale")], version="1", sdk="go")
            add("target_info", [(t, 1.0) for t in times[half:]], version="2", sdk="go")
            add("build_info", [(t, 1.0) for t in times], build=str(inst % 2))
        out.append(({"__name__": "only_job", "job": job, "version": "1." + job}, [(t, 1.0) for t in times]))
    return out


class Prometheus3:
    """Prometheus 3.5, fresh and empty."""

    FEATURES = ("native-histograms,promql-experimental-functions,promql-per-step-stats,exemplar-storage,"
                "promql-delayed-name-removal,promql-duration-expr")

    def __init__(self, features=FEATURES):
        self.dir = os.path.join(ROOT, "prometheus3")
        os.makedirs(self.dir)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = os.path.join(self.dir, "p.yml")
        open(config, "w").write("global: {}\n")
        self.p = subprocess.Popen(
            [os.path.join(os.environ["PROMETHEUS3"], "prometheus"), f"--config.file={config}", f"--storage.tsdb.path={self.dir}/data",
             f"--web.listen-address=127.0.0.1:{self.port}", "--web.enable-remote-write-receiver", "--enable-feature=" + features],
            stdout=subprocess.DEVNULL, stderr=open(self.dir + ".log", "ab"))
        until = time.time() + 60
        while time.time() < until:
            try:
                if requests.get(self.url + "/-/ready", timeout=2).status_code == 200:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.1)
        raise AssertionError("Prometheus did not start: " + open(self.dir + ".log").read()[-2000:])

    def stop(self):
        self.p.kill()
        self.p.wait()


def runs(samples):
    """A series' samples cut where their kind changes: Prometheus stores a request's floats before its histograms."""
    out = []
    for t, v in samples:
        kind = isinstance(v, Hist) and (v.floats, bool(v.custom))
        if not out or out[-1][0] != kind:
            out.append((kind, []))
        out[-1][1].append((t, v))
    return [part for _, part in out]


def fill(servers, data, end, flush=None):
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"}
    for since, before in ((0, end - 1200), (end - 1200, end - 600), (end - 600, end)):
        part = [(labels, runs([s for s in samples if since * 1000 <= s[0] < before * 1000])) for labels, samples in data]
        for turn in range(max(len(p) for _, p in part)):
            now = [(labels, p[turn]) for labels, p in part if turn < len(p)]
            for i in range(0, len(now), 50):
                body = write_request(now[i:i + 50])
                for s in servers:
                    r = requests.post(s.url + "/api/v1/write", data=body, headers=headers, timeout=60)
                    assert r.status_code in (200, 204), (s.url, r.status_code, r.text)
        if before < end and flush:
            flush.flush()


class Maker:
    """Queries at random that both versions should answer alike."""

    WINDOWS = ("rate increase irate delta idelta deriv changes resets avg_over_time min_over_time max_over_time sum_over_time count_over_time "
               "last_over_time stddev_over_time stdvar_over_time present_over_time absent_over_time ts_of_max_over_time ts_of_min_over_time "
               "ts_of_last_over_time quantile_over_time predict_linear double_exponential_smoothing").split()
    UNARY = ("abs ceil floor sgn - + timestamp round sqrt ln exp histogram_count histogram_sum histogram_avg histogram_stddev histogram_stdvar "
             "absent day_of_week hour").split()

    def __init__(self, rng, end):
        self.r, self.end = rng, end

    def one(self, *of):
        return self.r.choice(of)

    def selector(self, window=False):
        name = self.one("requests_total", "temperature", "limit", "odd", "hist", "hist", "hist_neg", "hist_gauge", "custom", "custom_gauge", "mixed",
                        "mixed", "short_lived", "hist_short", "latency_bucket", '"http.größe"', "target_info")
        m = self.one("", "", "", 'job="api"', 'zone!="a"', 'instance=~"api-[12]|db.*"', 'instance!~".*-2",job!=""')
        if window and name.startswith(("hist", "custom", "mixed")):
            m = self.one('instance="api-1"', 'instance="db-0"', 'instance="api-2"')
        if name.startswith('"'):
            return "{" + name + ("," + m if m else "") + "}"
        return name + ("{" + m + "}" if m else "")

    def duration(self):
        return self.one("1m", "2m30s", "5m", "5m", "10m", "90", "2m * 2", "6m - 1m30s", "30s + 1m")

    def modifier(self):
        return self.one("", "", "", "", "", " offset 3m", " offset -2m", " @ end()", " @ start() offset 1m", f" @ {self.end - 777}", " offset (1m * 2)")

    def labels(self):
        return ", ".join(self.r.sample(["job", "instance", "zone", "code", "le", '"das.label"', "__name__"], self.r.randint(0, 3)))

    def scalar(self):
        return self.one("1", "0.5", "-3", "100", "0", "2", "scalar(sum(limit))", "time()", 'scalar(temperature{instance="api-0"})', "pi()", "1m")

    def window(self):
        s = self.selector(True)
        f = self.one(*self.WINDOWS)
        if f in ("rate", "increase", "irate", "delta", "idelta") and re.match("hist_gauge|custom_gauge|mixed|temp|odd", s):
            f = "avg_over_time"
        if f == "changes" and re.match("hist|custom|mixed", s):
            f = "resets"
        a = f"{s}[{self.duration()}]{self.modifier()}"
        if f == "quantile_over_time":
            a = f"{self.one('0.5', '0.9', '-1', '2', 'NaN', 'scalar(limit)')}, {a}"
        a += {"predict_linear": ", " + self.scalar(), "double_exponential_smoothing": ", 0.3, 0.6"}.get(f, "")
        return f"{f}({a})"

    def aggregation(self, inner):
        f = self.one("sum", "avg", "min", "max", "count", "group", "stddev", "stdvar", "quantile", "limitk", "count_values", "topk", "limit_ratio")
        if f == "limitk":
            return f"count(limitk({self.one('1', '2', '100', '0')}, {inner}))"
        if f == "topk":
            return f"count(topk({self.one('1', '2', '3', '0')}, {inner}))"
        if f == "count_values":
            return f'count by (job) (count_values by (job) ("v", {inner}))'
        p = {"quantile": self.one("0.5, ", "2, ", "-1, ", "NaN, "), "limit_ratio": self.one("0.5, ", "-0.5, ", "0.2, ", "1, ", "2, ")}.get(f, "")
        return f"{f} {self.one('by', 'without')} ({self.labels()}) ({p}{inner})"

    def vector(self, depth):
        if depth <= 0 or self.r.random() < 0.12:
            return self.selector() + self.modifier()
        inner = lambda: self.vector(depth - 1)
        kind = self.r.randint(0, 7)
        if kind <= 1:
            return self.window()
        if kind == 2:
            return self.aggregation(inner())
        if kind == 3:
            op = self.one("+", "-", "*", "/", "%", "atan2", ">", "<=", "==", "!=", "> bool", "== bool")
            a, b = f"({inner()})", self.scalar()
            return f"{a} {op} {b}" if self.r.random() < 0.7 else f"{b} {op} {a}"
        if kind == 4:
            return f"{self.one(*self.UNARY)}({inner()})"
        if kind == 5:
            how = self.one("on (job, instance)", "ignoring (code, le)", "on (instance)", "", "on ()")
            return f"({inner()}) {self.one('and', 'unless')} {how} ({inner()})"
        if kind == 6:
            by = self.one("job", "instance", "zone", "job, instance")
            f, g, op = self.one("max", "min", "count"), self.one("max", "count"), self.one("+", "-", "*", "/", ">", "< bool", "!= bool")
            return f"{f} by ({by}) ({inner()}) {op} {self.one('', f'on ({by}) ')}{g} by ({by}) ({inner()})"
        of = self.one("hist", "hist_neg", "custom", 'rate(hist{instance="api-1"}[5m])', "latency_bucket", "rate(latency_bucket[5m])", "mixed",
                      "sum by (le, job) (rate(latency_bucket[5m]))", "sum by (zone) (custom)", "limit", 'increase(custom{instance="db-0"}[10m])')
        return f"histogram_quantile({self.one('0.5', '0.9', '0', '1', '-1', '2', 'NaN')}, {of})"


def tidy(query, notes):
    out = set()
    for text in notes or []:
        if "sort is ineffective" not in text:
            text = text.replace(' for metric name ""', "").split(" needed to be fixed for monotonicity")[0]
            out.add(re.sub(r" \(\d+:\d+\)$", "", text) if re.search(r"\[[^\]]*:", query) else text)
    return out


def alike(a, b):
    """Two samples: numbers, or histograms bucket by bucket."""
    if isinstance(a, str):
        return same(a, b)
    x, y = a.get("buckets", []), b.get("buckets", [])
    return same(a["count"], b["count"]) and same(a["sum"], b["sum"]) and len(x) == len(y) and all(
        p[0] == q[0] and all(same(*v) for v in zip(p[1:], q[1:])) for p, q in zip(x, y))


def differ(query, a, b):
    """What differs between two answers, or None."""
    a, b = a.json(), b.json()
    if "error" in a or "error" in b:
        # Which two series are one too many is a matter of their order.
        said = [(x.get("errorType"), x.get("error", "").split(" operation: [")[0].replace('"<Item 57400>" ', "")) for x in (a, b)]
        return None if said[0] == said[1] else f"{said[0]} | {said[1]} {b if 'error' not in b else ''}"[:400]
    (ka, va), (kb, vb) = ((x["data"]["resultType"], x["data"]["result"]) for x in (a, b))
    if ka != kb or ka == "string" and va != vb:
        return f"{ka} {va} | {kb} {vb}"
    if ka == "scalar":
        return None if same(va[1], vb[1]) else f"{va} | {vb}"
    if ka != "string":
        series = lambda v: {tuple(sorted(s["metric"].items())): {
            (kind, t): x for kind in ("value", "histogram") for t, x in s.get(kind + "s") or ([s[kind]] if kind in s else [])} for s in v}
        va, vb = series(va), series(vb)
        if va.keys() != vb.keys():
            return f"only Prometheus: {list(va.keys() - vb.keys())[:2]}, only here: {list(vb.keys() - va.keys())[:2]}"
        for k in va:
            if va[k].keys() != vb[k].keys():
                return f"{k}: only Prometheus: {list(va[k].keys() - vb[k].keys())[:3]}, only here: {list(vb[k].keys() - va[k].keys())[:3]}"
            for at in va[k]:
                if not alike(va[k][at], vb[k][at]):
                    return f"{k} {at}:\n    {va[k][at]}\n    {vb[k][at]}"
    for what in ("warnings", "infos"):
        x, y = tidy(query, a.get(what)), tidy(query, b.get(what))
        if x != y and max(len(x), len(y)) <= 10:
            return f"{what}: only Prometheus: {x - y}, only here: {y - x}"
    return None


def promql_differential_3(seed=1, made=250):
    rng = random.Random(seed)
    end = int(time.time()) // 60 * 60
    theirs, ours = Prometheus3(), Server("promql3").start()
    try:
        # Half of what is asked about lies in a block, a quarter in another, the rest in the head.
        fill((theirs, ours), corpus(rng, end), end, ours)
        maker = Maker(rng, end)
        queries = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "promql3_queries.txt"), encoding="utf-8").read().splitlines()
        queries += [maker.vector(2) for _ in range(made)]
        wrong = []
        for q in queries:
            at = end - rng.randint(0, 1800) + rng.choice([0, 0, 0.5])
            times = {"start": end - 1500, "end": end - 3, "step": rng.choice([15, 37, 60])}
            for path, params in (("query", {"time": at}), ("query_range", times)):
                a, b = (requests.post(f"{s.url}/api/v1/{path}", data={"query": q, **params}, timeout=60) for s in (theirs, ours))
                d = differ(q, a, b)
                if d:
                    wrong.append(f"{path} {q} {params}\n    {d}")
        assert not wrong, f"{len(wrong)} of {len(queries)} queries differ:\n" + "\n".join(wrong[:40])
        return len(queries)
    finally:
        theirs.stop()
        ours.stop()


if __name__ == "__main__":
    try:
        n = promql_differential_3(*(int(a) for a in sys.argv[1:]))
        print(f"{n} queries, the same answers")
    finally:
        cleanup()
