"""The same data and the same queries to a Prometheus and to ours, and what their answers differ in."""
import math, re

import requests

import rw


def fill(theirs, ours, data, end, requests_of=lambda series: [series]):
    """Remote-writes to both. Half of what is asked about lies in a block of ours, a quarter in another, the rest in the head.
    `data`: series as `rw` has them; `requests_of` cuts one that a single request can't carry."""
    for since, before in ((0, end - 1200), (end - 1200, end - 600), (end - 600, end)):
        part = [requests_of(within(series, since * 1000, before * 1000)) for series in data]
        for turn in range(max(len(p) for p in part)):
            now = [p[turn] for p in part if turn < len(p)]
            for i in range(0, len(now), 50):
                body = rw.v1(now[i:i + 50])
                for s in (theirs, ours):
                    r = rw.post(s, body)
                    assert r.status_code in (200, 204), (s.url, r.status_code, r.text)
        if before < end:
            ours.flush()


def within(series, since_ms, before_ms):
    """What a series has of a time."""
    here = lambda t: since_ms <= t < before_ms
    return {**series, "samples": [s for s in series.get("samples", []) if here(s[0])],
            "histograms": [h for h in series.get("histograms", []) if here(h["t"])]}


def compare(theirs, ours, queries, calls, words=True):
    """Asks both each of the queries by each of its `calls` (path and parameters), and fails with what differs."""
    wrong = []
    for q in queries:
        for path, params in calls(q):
            a, b = (requests.post(f"{s.url}/api/v1/{path}", data={"query": q, **params}, timeout=60) for s in (theirs, ours))
            d = differ(q, a, b, words)
            if d:
                wrong.append(f"{path} {q} {params}\n    {d}")
    assert not wrong, f"{len(wrong)} of {len(queries)} queries differ:\n" + "\n".join(wrong[:40])
    return len(queries)


def differ(query, a, b, words):
    """What differs between two answers, or None; with `words` in errors, warnings and infos too."""
    if a.status_code != b.status_code:
        return f"{a.status_code} {a.text[:300]} | {b.status_code} {b.text[:300]}"
    a, b = a.json(), b.json()
    if "error" in a or "error" in b:
        # Which two series are one too many is a matter of their order.
        said = [(x.get("errorType"), words and x.get("error", "").split(" operation: [")[0].replace('"<Item 57400>" ', "")) for x in (a, b)]
        return None if said[0] == said[1] else f"{said[0]} | {said[1]} {b if 'error' not in b else ''}"[:400]
    (ka, va), (kb, vb) = ((x["data"]["resultType"], x["data"]["result"]) for x in (a, b))
    if ka != kb or ka == "string" and va != vb:
        return f"{ka} {va} | {kb} {vb}"
    if ka == "scalar":
        return None if same(va[1], vb[1]) else f"{va} | {vb}"
    if ka != "string":
        d = differ_in_series(by_labels(va), by_labels(vb))
        if d:
            return d
    for what in ("warnings", "infos") if words else ():
        x, y = tidy(query, a.get(what)), tidy(query, b.get(what))
        if x != y and max(len(x), len(y)) <= 10:
            return f"{what}: only Prometheus: {x - y}, only here: {y - x}"
    return None


def by_labels(result):
    """Samples by labels, and those by kind and time."""
    samples = lambda s: {(kind, t): x for kind in ("value", "histogram") for t, x in s.get(kind + "s") or ([s[kind]] if kind in s else [])}
    return {tuple(sorted(s["metric"].items())): samples(s) for s in result}


def differ_in_series(a, b):
    if a.keys() != b.keys():
        return f"only Prometheus: {list(a.keys() - b.keys())[:3]}, only here: {list(b.keys() - a.keys())[:3]}"
    for k in a:
        if a[k].keys() != b[k].keys():
            return f"{k}: only Prometheus: {list(a[k].keys() - b[k].keys())[:3]}, only here: {list(b[k].keys() - a[k].keys())[:3]}"
        for at in a[k]:
            if not alike(a[k][at], b[k][at]):
                return f"{k} {at}:\n    {a[k][at]}\n    {b[k][at]}"
    return None


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


# Variances of large numbers cancel; the two add up in different orders.
TINY = 1e-10


def same(a, b):
    a, b = (float(s.replace("Inf", "inf")) for s in (a, b))
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b or abs(a - b) <= 1e-9 * max(abs(a), abs(b)) or abs(a - b) < TINY
