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
import math, os, random, re, sys, time

from beside import Prometheus3
from harness import Server, cleanup
from promql_beside import compare, fill
from rw import STALE

STEP, SAMPLES = 15, 160
FEATURES = ("native-histograms,promql-experimental-functions,promql-per-step-stats,exemplar-storage,"
            "promql-delayed-name-removal,promql-duration-expr")


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

    def at(self, t):
        """As `rw` has it."""
        stale = self.sum is STALE
        sides = {} if stale else {"negative": self.side(self.neg), "positive": self.side(self.pos)}
        more = {"custom": self.custom} if self.custom else {"threshold": self.width}
        count = 0 if stale else self.zero + sum(self.pos.values()) + sum(self.neg.values())
        return dict(t=t, float=self.floats, count=count if self.floats else int(count), sum=self.sum, schema=self.schema,
                    zero=self.zero if self.floats else int(self.zero), hint=3 if self.gauge else 0, **more, **sides)

    def side(self, buckets):
        keys = sorted(buckets)
        counts = [buckets[k] if self.floats else int(buckets[k]) for k in keys]
        return spans(keys), counts if self.floats else [n - last for n, last in zip(counts, [0, *counts])]


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
            out.append((t, Hist(total=STALE, floats=floats)))
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
                        samples.append((t, STALE))
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
                add("short_lived", [(t, 10.0 + i) for i, t in enumerate(times[:cut])] + [(times[cut], STALE)])
                add("hist_short", counter_histogram(rng, times[:cut], 1) + [(times[cut], Hist(total=STALE))])
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
            add("target_info", [(t, 1.0) for t in times[:half]] + [(times[half], STALE)], version="1", sdk="go")
            add("target_info", [(t, 1.0) for t in times[half:]], version="2", sdk="go")
            add("build_info", [(t, 1.0) for t in times], build=str(inst % 2))
        out.append(({"__name__": "only_job", "job": job, "version": "1." + job}, [(t, 1.0) for t in times]))
    return out


def runs(series):
    """A series cut where the kind of its samples changes: Prometheus stores a request's floats before its histograms."""
    out, kind = [], None
    both = [(t, "samples", (t, v), None) for t, v in series["samples"]]
    both += [(h["t"], "histograms", h, (h["float"], "custom" in h)) for h in series["histograms"]]
    for _, what, sample, of in sorted(both, key=lambda x: x[0]):
        if not out or kind != (what, of):
            kind = what, of
            out.append({"labels": series["labels"], "samples": [], "histograms": []})
        out[-1][what].append(sample)
    return out


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


def promql_differential_3(seed=1, made=250):
    rng = random.Random(seed)
    end = int(time.time()) // 60 * 60
    theirs, ours = Prometheus3("promql3-theirs", features=FEATURES).start(), Server("promql3").start()
    try:
        data = [{"labels": labels, "samples": [s for s in samples if not isinstance(s[1], Hist)],
                 "histograms": [v.at(t) for t, v in samples if isinstance(v, Hist)]} for labels, samples in corpus(rng, end)]
        fill(theirs, ours, data, end, runs)
        maker = Maker(rng, end)
        queries = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "promql3_queries.txt"), encoding="utf-8").read().splitlines()

        def calls(_):
            yield "query", {"time": end - rng.randint(0, 1800) + rng.choice([0, 0, 0.5])}
            yield "query_range", {"start": end - 1500, "end": end - 3, "step": rng.choice([15, 37, 60])}

        return compare(theirs, ours, queries + [maker.vector(2) for _ in range(made)], calls)
    finally:
        theirs.stop()
        ours.stop()


if __name__ == "__main__":
    try:
        n = promql_differential_3(*(int(a) for a in sys.argv[1:]))
        print(f"{n} queries, the same answers")
    finally:
        cleanup()
