"""PromQL beside the real Prometheus: the same remote-written data in both, a few hundred queries, the same answers.

Run alone: INTEROP_BIN=... python promql.py [SEED] [QUERIES]

Debian's Prometheus is 2.42, the language here is 3.14's. Where the two versions differ on purpose, no query is made:
- range selectors are left-open since 3.0: times here never fall on a sample, and subqueries are not nested, so both see the same;
- holt_winters was renamed, and functions, aggregations and modifiers newer than 2.42 are not asked for;
- label matchers' `.` matches line ends since 3.0: no value holds one;
- which of equal elements topk keeps is unspecified: it is asked where no two are equal, or once in time;
- warnings and infos came with 2.48: they are not compared;
- how far rate extrapolates to a counter's zero changed in 3.0: counters here stay far from it, gauges are not asked for rates;
- with names removed late, series of one name can meet in `or` over a range: `or` is asked once in time;
- stddev of a single infinity or NaN became NaN in 3.0: random queries leave such series out;
- atan2 kept the metric's name until 3.0, by mistake: its name is dropped;
- avg adds up with an error term since 3.0: no query asks whether it equals something exactly.
"""
import math, random, sys, time

from beside import Prometheus
from harness import Server, cleanup
from promql_beside import compare, fill

STEP, SAMPLES = 15, 240


def corpus(rng, end):
    """Counters with restarts, gauges of any size, histograms, gaps, series that end."""
    times = [(end - (SAMPLES - i) * STEP) * 1000 + 137 for i in range(SAMPLES)]
    out = []
    for job in ("api", "db", "web"):
        for inst in range(4):
            base = {"job": job, "instance": f"{job}-{inst}", "zone": "ab"[inst % 2]}
            for code in ("200", "404", "500"):
                v, samples = 1000.0, []
                for t in times:
                    v = 500.0 if rng.random() < 0.01 else v + rng.choice([0, 0, 1, 5, 0.5])
                    if rng.random() > 0.05:
                        samples.append((t, v))
                out.append(({**base, "__name__": "requests_total", "code": code}, samples))
            gauge = [(t, rng.choice([rng.gauss(0, 1e6), rng.uniform(-1, 1), rng.gauss(0, 5)])) for t in times if rng.random() > 0.02]
            out.append(({**base, "__name__": "temperature"}, gauge))
            out.append(({**base, "__name__": "limit"}, [(t, float(inst + 1)) for t in times]))
            odd = [(t, rng.choice([math.nan, math.inf, -math.inf, 1.0, -1.0, 0.0])) for t in times if rng.random() > 0.3]
            out.append(({**base, "__name__": "odd"}, odd))
            if inst == 3:
                cut = rng.randint(50, 200)
                out.append(({**base, "__name__": "short_lived"}, [(t, 1000.0 + i) for i, t in enumerate(times[:cut])]))
            counts = [1000.0] * 6
            rows = [[] for _ in counts]
            for t in times:
                seen = rng.randint(0, 4)
                for _ in range(seen):
                    at = rng.randint(0, 5)
                    for k in range(at, 6):
                        counts[k] += 1
                for k in range(6):
                    rows[k].append((t, counts[k]))
            for le, row in zip(("0.1", "0.5", "1", "2.5", "10", "+Inf"), rows):
                out.append(({**base, "__name__": "latency_bucket", "le": le}, row))
        out.append(({"__name__": "build_info", "job": job, "version": "1." + job, "weird": "a b/c"}, [(t, 1.0) for t in times]))
    return out


FIXED = """
1 + 2 * 3 ^ 2 % 4
-2 ^ 2
vector(1) > bool 0
time()
requests_total
{__name__=~"temp.*|limit", job!="db"}
{job=~"a.+", zone!~"a"}
requests_total offset 5m
requests_total @ end()
requests_total @ start() offset -1m
rate(requests_total[5m])
irate(requests_total[2m])
increase(requests_total[7m13s])
delta(temperature[10m])
idelta(temperature[1m])
deriv(temperature[10m])
predict_linear(temperature[10m], 3600)
changes(temperature[10m])
resets(requests_total[30m])
sum by (job) (rate(requests_total[5m]))
sum without (instance, code) (requests_total)
avg(temperature)
min by (zone) (temperature)
max by (zone) (temperature)
count by (job, code) (requests_total)
group by (job) (requests_total)
stddev by (job) (temperature)
stdvar by (job) (temperature)
quantile by (job) (0.9, temperature)
topk(3, temperature)
bottomk by (job) (1, temperature)
count_values("v", limit)
count_values without (instance) ("v", limit)
histogram_quantile(0.9, sum by (le, job) (rate(latency_bucket[5m])))
histogram_quantile(0.5, latency_bucket)
histogram_quantile(1.5, latency_bucket)
temperature / on (instance) limit
requests_total / on (instance, job, zone) group_left limit
limit * on (instance) group_right requests_total
requests_total * on (job) group_left (version, weird) build_info
temperature > 0
temperature > bool 0
temperature > limit
temperature == temperature
temperature and on (job) build_info
temperature or limit
temperature unless on (instance) (limit > 2)
requests_total and ignoring (code) (temperature > 0)
max by (instance) (limit atan2 temperature)
abs(temperature)
ceil(temperature)
floor(temperature)
round(temperature, 0.1)
round(temperature)
exp(limit)
ln(temperature)
log2(limit)
log10(limit)
sqrt(temperature)
sgn(temperature)
clamp(temperature, -1, 1)
clamp_min(temperature, 0)
clamp_max(temperature, 0)
sin(limit) + cos(limit) + tan(limit) + asin(limit) + acos(limit) + atan(limit) + sinh(limit) + cosh(limit) + tanh(limit) + asinh(limit) + acosh(limit) + atanh(limit)
deg(limit) + rad(limit) + pi()
absent(nothing)
absent(nothing{job="x", zone=~"y"})
absent_over_time(nothing[5m])
absent_over_time(requests_total[5m])
present_over_time(requests_total[5m])
label_replace(limit, "copy", "$2-$1", "instance", "(.*)-(.*)")
label_replace(limit, "instance", "", "instance", ".*")
label_join(limit, "all", "/", "job", "zone", "none")
sort(temperature)
sort_desc(temperature)
scalar(sum(limit))
scalar(limit)
vector(scalar(count(limit)))
timestamp(temperature)
timestamp(requests_total offset 1m)
minute() + hour() + day_of_month() + day_of_week() + day_of_year() + days_in_month() + month() + year()
day_of_year(limit * 1e8)
avg_over_time(temperature[10m])
min_over_time(temperature[10m])
max_over_time(temperature[10m])
sum_over_time(temperature[10m])
count_over_time(temperature[10m])
last_over_time(temperature[10m])
stddev_over_time(temperature[10m])
stdvar_over_time(temperature[10m])
quantile_over_time(0.3, temperature[10m])
quantile_over_time(0.99, odd[10m])
sum(odd)
avg(odd)
min(odd)
max(odd)
stddev(odd)
sum_over_time(odd[5m])
avg_over_time(odd[5m])
max_over_time(odd[5m])
min_over_time(odd[5m])
quantile(0.5, odd)
odd > 0
odd * limit
short_lived
rate(short_lived[5m])
max_over_time(rate(requests_total[1m])[10m:1m])
sum_over_time(sum by (job) (limit)[5m:17s])
avg_over_time((temperature > 0)[5m:])
rate(requests_total[5m:30s])
min_over_time(deriv(temperature[2m])[6m:30s] offset 2m)
sum(rate(requests_total[5m])) by (job) / ignoring (zone) sum(rate(requests_total[10m])) by (job)
1 - sum by (job) (rate(requests_total{code="500"}[5m])) / sum by (job) (rate(requests_total[5m]))
sum(requests_total) / count(requests_total) >= bool 2 * avg(requests_total)
limit[5m]
"foo"
requests_total * on (job) limit
topk(scalar(sum(limit)) / 10, temperature)
quantile(scalar(vector(0.25)), temperature)
""".strip().splitlines()


class Maker:
    """Queries at random; what they ask for exists in both versions."""

    def __init__(self, rng):
        self.r = rng

    def one(self, *of):
        return self.r.choice(of)

    def duration(self):
        return self.one("1m", "2m30s", "5m", "10m", "17m")

    def selector(self):
        name = self.one("requests_total", "temperature", "limit", "short_lived", "latency_bucket")
        m = self.one("", "", '{job="api"}', '{zone!="a"}', '{instance=~"api-[12]|db.*"}', '{job!~"w.*",instance!=""}')
        return name + m

    def modifier(self):
        return self.one("", "", "", " offset 3m", " offset -2m", " @ end()", " @ start() offset 1m")

    def labels(self):
        return ", ".join(self.r.sample(["job", "instance", "zone", "code", "le"], self.r.randint(0, 3)))

    def vector(self, depth, sub=True):
        if depth == 0 or self.r.random() < 0.2:
            return self.selector() + self.modifier()
        inner = lambda: self.vector(depth - 1, sub)
        kind = self.r.randint(0, 6 if sub else 5)
        if kind == 0:
            if self.r.random() < 0.3:
                f, of = self.one("rate", "increase", "irate"), self.one("requests_total", "latency_bucket", 'latency_bucket{job!="db"}')
                return f"{f}({of}[{self.duration()}]{self.modifier()})"
            f = self.one("delta", "idelta", "deriv", "changes", "resets", "avg_over_time", "min_over_time", "max_over_time",
                         "sum_over_time", "count_over_time", "last_over_time", "stddev_over_time", "present_over_time")
            return f"{f}({self.selector()}[{self.duration()}]{self.modifier()})"
        if kind == 1:
            f = self.one("sum", "avg", "min", "max", "count", "group", "stddev", "stdvar")
            return f"{f} {self.one('by', 'without')} ({self.labels()}) ({inner()})"
        if kind == 2:
            op = self.one("+", "-", "*", "/", "%", ">", "<=", "==", "!=", "> bool ")
            return f"({inner()}) {op} {self.one('1', '0.5', '-3', '100', 'scalar(sum(limit))')}"
        if kind == 3:
            f = self.one("abs", "ceil", "floor", "sgn", "-", "+", "timestamp", "round")
            return f"{f}({inner()})"
        if kind == 4:
            how = self.one("on (job, instance)", "ignoring (code, le)", "on (instance)", "")
            op = self.one("and", "or", "unless")
            return f"({inner()}) {op} {how} ({inner()})"
        if kind == 5:
            by = self.one("job", "instance", "zone")
            op = self.one("+", "-", "*", "/", ">", "< bool")
            return f"sum by ({by}) ({inner()}) {op} {self.one('', f'on ({by}) ')}max by ({by}) ({inner()})"
        f = self.one("avg_over_time", "max_over_time", "sum_over_time", "count_over_time", "last_over_time", "changes")
        inner = lambda: self.vector(depth - 1, False)
        return f"{f}(({inner()})[{self.duration()}:{self.one('30s', '1m', '47s')}]{self.modifier()})"


def promql_differential(seed=1, made=250):
    rng = random.Random(seed)
    end = int(time.time()) // 60 * 60
    theirs, ours = Prometheus("promql-theirs", features="promql-at-modifier,promql-negative-offset").start(), Server("promql").start()
    try:
        fill(theirs, ours, [{"labels": labels, "samples": samples} for labels, samples in corpus(rng, end)], end)
        maker = Maker(rng)

        def calls(q):
            yield "query", {"time": end - rng.randint(0, 1800) + 0.5}
            if not q.endswith("[5m]") and not q.startswith(('"', "topk", "bottomk")) and " or " not in q:
                yield "query_range", {"start": end - 2400.5, "end": end - 3.5, "step": rng.choice([15, 37, 60])}

        return compare(theirs, ours, [q for q in FIXED if q] + [maker.vector(3) for _ in range(made)], calls, words=False)
    finally:
        theirs.stop()
        ours.stop()


if __name__ == "__main__":
    try:
        n = promql_differential(*(int(a) for a in sys.argv[1:]))
        print(f"{n} queries, the same answers")
    finally:
        cleanup()
