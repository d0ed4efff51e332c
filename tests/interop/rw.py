"""Remote write requests of both versions, from one description: series are dicts of labels, samples, histograms, exemplars, metadata."""
import struct

import requests
import snappy

STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
V1, V2 = "application/x-protobuf", "application/x-protobuf;proto=io.prometheus.write.v2.Request"


def varint(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out) + bytes([n])


def field(number, body):
    return varint(number << 3 | 2) + varint(len(body)) + body


def integer(number, n):
    return varint(number << 3) + varint(n)


def double(number, v):
    return varint(number << 3 | 1) + struct.pack("<d", v)


def zigzag(n):
    return (n << 1) ^ (n >> 63)


def packed(number, ns):
    return field(number, b"".join(varint(n) for n in ns)) if ns else b""


def doubles(number, vs):
    return field(number, b"".join(struct.pack("<d", v) for v in vs)) if vs else b""


def histogram(h):
    """`h`: count, sum, schema, zero, threshold, positive and negative ((spans, deltas or counts)), custom, hint, t, st, float."""
    out = double(2, h["count"]) if h.get("float") else integer(1, h["count"])
    out += double(3, h.get("sum", 0.0)) + integer(4, zigzag(h.get("schema", 0))) + double(5, h.get("threshold", 0.0))
    out += double(7, h.get("zero", 0)) if h.get("float") else integer(6, h.get("zero", 0))
    for side, (span, deltas, counts) in (("negative", (8, 9, 10)), ("positive", (11, 12, 13))):
        spans, buckets = h.get(side, ([], []))
        out += b"".join(field(span, integer(1, zigzag(o)) + integer(2, n)) for o, n in spans)
        out += doubles(counts, buckets) if h.get("float") else packed(deltas, [zigzag(d) for d in buckets])
    out += integer(14, h.get("hint", 0)) + integer(15, h["t"]) + doubles(16, h.get("custom", []))
    return out + (integer(17, h["st"]) if "st" in h else b"")


def v1(series, metadata=()):
    out = b""
    label = lambda k, v: field(1, field(1, raw(k)) + field(2, raw(v)))
    for s in series:
        ts = b"".join(label(k, v) for k, v in pairs(s["labels"]))
        ts += b"".join(field(2, double(1, v) + integer(2, t)) for t, v, *_ in s.get("samples", []))
        ts += b"".join(field(3, b"".join(label(k, v) for k, v in pairs(e["labels"])) + double(2, e["v"]) + integer(3, e["t"])) for e in s.get("exemplars", []))
        ts += b"".join(field(4, histogram(h)) for h in s.get("histograms", []))
        out += field(1, ts)
    for kind, family, help_, unit in metadata:
        out += field(3, integer(1, kind) + field(2, raw(family)) + field(4, raw(help_)) + field(5, raw(unit)))
    return out


def v2(series, symbols=None):
    table = ["", *(symbols or [])]
    number = {}

    def ref(text):
        if text not in number:
            number[text] = 0 if text == "" else len(table)
            if text != "":
                table.append(text)
        return number[text]

    out = b""
    for s in series:
        refs = [r for k, v in pairs(s["labels"]) for r in (ref(k), ref(v))] + s.get("extra_refs", [])
        ts = packed(1, refs)
        ts += b"".join(field(2, double(1, v) + integer(2, t) + (integer(3, st[0]) if st else b"")) for t, v, *st in s.get("samples", []))
        ts += b"".join(field(3, histogram(h)) for h in s.get("histograms", []))
        for e in s.get("exemplars", []):
            ts += field(4, packed(1, [r for k, v in pairs(e["labels"]) for r in (ref(k), ref(v))] + e.get("extra_refs", [])) + double(2, e["v"]) + integer(3, e["t"]))
        if "metadata" in s:
            kind, help_, unit = s["metadata"]
            ts += field(5, integer(1, kind) + integer(3, ref(help_)) + integer(4, ref(unit)))
        out += field(5, ts)
    return b"".join(field(4, raw(t)) for t in table) + out


def raw(text):
    return text if isinstance(text, bytes) else text.encode()


def pairs(labels):
    """A list is sent as it is, a dict sorted, as senders must."""
    return sorted(labels.items()) if isinstance(labels, dict) else labels


def post(server, body, kind=V1, packed_by="snappy", path="/api/v1/write", **headers):
    """`headers`: with underscores for dashes; None leaves one out."""
    body = snappy.compress(body) if packed_by == "snappy" else body
    version = "2.0.0" if "v2" in kind else "0.1.0"
    all_ = {"Content-Type": kind, "Content-Encoding": packed_by, "X-Prometheus-Remote-Write-Version": version,
            **{k.replace("_", "-"): v for k, v in headers.items()}}
    return requests.post(server.url + path, data=body, headers={k: v for k, v in all_.items() if v is not None}, timeout=30)
