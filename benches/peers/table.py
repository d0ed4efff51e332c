"""Writes the tables of docs/performance.md from what the driver told of each server."""

import datetime
import json
import os
import sys

SERVERS = [("strandline", "Strandline"), ("prometheus-2.42", "Prometheus 2.42"), ("victoria-1.79", "VictoriaMetrics (Debian)")]
FLUSHED = (
    "Before disk, queries and restart, Strandline and VictoriaMetrics were told to flush, so that their restart replays no log;"
    " Prometheus has no such call here. Peak RSS is that of the load."
)
BEGIN, END = "<!-- peers: written by benches/peers/run -->", "<!-- /peers -->"
# What, key, whether more is better.
ROWS = [
    ("samples a CPU second, on arrival", "items_per_cpu_s", True),
    ("samples a CPU second, flush and upkeep counted", "total_items_per_cpu_s", True),
    ("wall seconds of the load", "wall_s", False),
    ("p99 of a request, ms", "p99_ms", False),
    ("peak RSS, MiB", "peak_rss_mib", False),
    ("RSS when settled, MiB", "settled_rss_mib", False),
    ("bytes a sample on disk, log included", "bytes_per_item", False),
    ("restart after kill -9, s", "restart_ready_s", False),
    ("peak RSS of the restart, MiB", "restart_peak_rss_mib", False),
]


def shown(value):
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def cells(values, more_is_better=False):
    """Text of each value, the best of them bold."""
    known = [v for v in values if isinstance(v, (int, float))]
    best = (max if more_is_better else min)(known) if known else None
    return [f"**{shown(v)}**" if v == best and known.count(best) == 1 else shown(v) for v in values]


def main():
    folder, hosts, scrapes, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    told = [json.load(open(os.path.join(folder, name + ".json"))) for name, _ in SERVERS]
    day = datetime.date.today().isoformat()
    names = " | ".join(title for _, title in SERVERS)
    lines = [
        BEGIN,
        f"`benches/peers/run {hosts} {scrapes}` on {day}, {os.cpu_count()} cores (load {os.getloadavg()[1]:.1f} over five minutes):"
        f" {hosts * 99:,} series x {scrapes} samples by remote write 1.0, one server after another. The best of a row is bold.",
        "",
        f"| | {names} |",
        "|---|---|---|---|",
    ]
    for title, key, more in ROWS:
        lines.append(f"| {title} | " + " | ".join(cells([t.get(key) for t in told], more)) + " |")
    lines.append("| samples refused | " + " | ".join(shown(t.get("refused")) for t in told) + " |")
    lines += ["", FLUSHED]
    lines += ["", "CPU milliseconds a query (and wall), mean of five, after the flush:", "", f"| query | {names} |", "|---|---|---|---|"]
    losses = []
    for query in told[0].get("queries", {}):
        answers = [t["queries"].get(query, {}) for t in told]
        cpu = cells([a.get("cpu_ms") for a in answers])
        lines.append(f"| {query} | " + " | ".join(f"{c} ({shown(a.get('ms'))})" for c, a in zip(cpu, answers)) + " |")
        counts = {str(a.get("series")) for a in answers}
        if len(counts) > 1:
            losses.append(f"{query}: the servers answer with {', '.join(shown(a.get('series')) for a in answers)} series")
        if answers[0].get("cpu_ms", 0) > min(a.get("cpu_ms", 0) for a in answers):
            losses.append(f"{query}: another server takes less CPU")
    for title, key, more in ROWS:
        values = [t.get(key) for t in told]
        if None not in values and values[0] != (max if more else min)(values):
            losses.append(f"{title}: {shown(values[0])} where the best has {shown((max if more else min)(values))}")
    floor = os.path.join(folder, "floor")
    if os.path.exists(floor) and os.path.getsize(floor):
        lines += ["", "The floor (`loadgen floor`: unpack, recognise, append in memory) in the same run: " + open(floor).read().strip().replace("\n", "; ") + "."]
    lines += ["", "Where Strandline is not the best: " + ("; ".join(losses) + "." if losses else "nowhere in this run."), END]
    text = open(path).read()
    before, rest = text.split(BEGIN, 1)
    open(path, "w").write(before + "\n".join(lines) + rest.split(END, 1)[1])


main()
