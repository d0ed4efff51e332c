#!/usr/bin/env python3
"""Six SQL queries over span blocks, in DuckDB, each compared with TraceQL's answer.

usage: sql.py BLOCKS URL [--start S --end S] [--min-blocks N] [--s3 ENDPOINT --key K --secret S]

BLOCKS: a folder (or s3://bucket/prefix) that holds `*/spans.parquet`; URL: the server that serves the same spans, all of
them flushed. Start and end in Unix seconds bound the TraceQL queries. Needs: pip install duckdb pytz.
"""
import argparse
import json
import sys
import urllib.parse
import urllib.request

import duckdb


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("blocks")
    ap.add_argument("url")
    ap.add_argument("--start", type=int)
    ap.add_argument("--end", type=int)
    ap.add_argument("--min-blocks", type=int, default=1)
    ap.add_argument("--s3")
    ap.add_argument("--key", default="")
    ap.add_argument("--secret", default="")
    a = ap.parse_args()
    db = duckdb.connect()
    if a.s3:
        attach(db, a)
    files = f"read_parquet('{a.blocks}/*/spans.parquet', union_by_name = true, filename = true)"
    db.sql(f"create view spans as select * from {files}")
    sql = lambda q: db.sql(q).fetchall()
    blocks = sql("select count(distinct filename) from spans")[0][0]
    check("blocks", blocks >= a.min_blocks, f"{blocks} blocks, wanted {a.min_blocks}")
    low, high = sql("select min(epoch_ns(start_time_unix_nano)) // 1000000000, max(epoch_ns(start_time_unix_nano)) // 1000000000 + 1 from spans")[0]
    api = Api(a.url, a.start or low - 1, a.end or high + 1)

    same("error rate by service",
         {s: e / n for s, e, n in sql("select service_name, sum((status_code = 2)::int), count(*) from spans group by 1")},
         ratio(api.counts("{ status = error }", "resource.service.name"), api.counts("{}", "resource.service.name")))

    route = 'span_attributes."http.route"'
    by_sql = dict(sql(f"select {route}::varchar, quantile_disc(duration_nano, 0.99) / 1e9 from spans where {route} is not null group by 1"))
    by_api = api.values("{ span.http.route != nil } | quantile_over_time(duration, 0.99) by (span.http.route)", "span.http.route")
    check("p99 by route: routes", by_sql.keys() == by_api.keys(), f"{by_sql} {by_api}")
    # TraceQL's quantiles come from powers of two: they lie within the bucket of the exact one.
    off = {r: (v, by_api[r]) for r, v in by_sql.items() if not v / 2 <= by_api[r] <= v * 2}
    check("p99 by route: values", not off, str(off))

    trace = sql("select lower(hex(trace_id)) from spans order by trace_id limit 1")[0][0]
    spans = sql(f"select count(distinct span_id) from spans where trace_id = unhex('{trace}')")[0][0]
    same("spans of one trace", spans, api.trace_spans(trace))

    db_key = 'span_attributes."db.system.name"'
    same("slowest databases",
         {k: round(v, 9) for k, v in sql(f"select {db_key}::varchar, max(duration_nano) / 1e9 from spans where {db_key} is not null group by 1")},
         {k: round(v, 9) for k, v in api.values("{ span.db.system.name != nil } | max_over_time(duration) by (span.db.system.name)", "span.db.system.name").items()})

    model, tokens = 'span_attributes."gen_ai.request.model"', 'span_attributes."gen_ai.usage.input_tokens"'
    same("token use by model",
         {k: float(v) for k, v in sql(f"select {model}::varchar, sum({tokens}::bigint) from spans where {model} is not null group by 1")},
         api.values("{ span.gen_ai.request.model != nil } | sum_over_time(span.gen_ai.usage.input_tokens) by (span.gen_ai.request.model)", "span.gen_ai.request.model"))

    code = 'span_attributes."http.response.status_code"'
    same("status codes >= 500",
         sql(f"select count(*) from spans where try_cast({code}::varchar as bigint) >= 500")[0][0],
         sum(api.counts("{ span.http.response.status_code >= 500 || span.http.response.status_code =~ \"5..\" }", "kind").values()))
    print("sql: all the same over", blocks, "blocks")


def attach(db, a):
    """S3 by DuckDB's own extension; where that can't be fetched, by fsspec's file system: the same reads."""
    try:
        db.sql("install httpfs")
        db.sql("load httpfs")
    except duckdb.Error:
        import s3fs
        db.register_filesystem(s3fs.S3FileSystem(key=a.key, secret=a.secret, endpoint_url=f"http://{a.s3}"))
        print("sql: S3 through s3fs")
        return
    db.execute(f"create secret (type s3, key_id '{a.key}', secret '{a.secret}', endpoint '{a.s3}', use_ssl false, url_style 'path')")


class Api:
    def __init__(self, url, start, end):
        self.url, self.start, self.end = url.rstrip("/"), start, end

    def get(self, path, **params):
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(params)}", timeout=120) as r:
            return json.load(r)

    def values(self, query, label):
        """The one value of each series, by a label."""
        out = {}
        for s in self.get("/api/metrics/query", q=query, start=self.start, end=self.end)["series"]:
            labels = {l["key"]: next(iter(l["value"].values())) for l in s["labels"]}
            out[labels[label]] = float(s.get("value", 0))
        return out

    def counts(self, pipeline, label):
        return self.values(f"{pipeline} | count_over_time() by ({label})", label)

    def trace_spans(self, trace):
        batches = self.get(f"/api/traces/{trace}")["batches"]
        return sum(len(s["spans"]) for b in batches for s in b["scopeSpans"])


def ratio(part, whole):
    return {k: part.get(k, 0) / n for k, n in whole.items()}


def same(name, sql, traceql):
    check(name, sql == traceql, f"SQL {sql}\n  TraceQL {traceql}")


def check(name, ok, text):
    print("ok  " if ok else "FAIL", name)
    if not ok:
        sys.exit(f"{name}: {text}")


main()
