"""What comes in, beside a real Prometheus 3: remote write from it, remote write into both, and the same pages scraped by both.

Where ours differs on purpose it is said in the check's own words. That Prometheus is 3.5, ours follows 3.14."""
import json, math, os, time

import requests

import rw
from beside import Page, Prometheus3, differences, exemplars, get, metadata, name_of, present, samples
from harness import ROOT, Server

EVERYTHING = '{__name__=~".+"}'


def until(what, done, patience_s=60):
    end = time.time() + patience_s
    while not done():
        assert time.time() < end, what() if callable(what) else what
        time.sleep(0.2)


def scrapes(server):
    return sum(len(v) for v in samples(server, "up", time.time()).values())


def changing_page(turn):
    """An OpenMetrics page of every type, with exemplars; one series comes and goes."""
    n, now = len(turn.asked), time.time()
    flips = f"# TYPE flips unknown\nflips {n}\n" if n % 3 else ""
    return f"""# TYPE orders counter
# HELP orders Orders taken.
orders_total{{path="/a"}} {n} # {{trace_id="t{n}",span_id="s"}} {n} {now:.3f}
# TYPE took_seconds histogram
# UNIT took_seconds seconds
took_seconds_bucket{{le="0.5"}} {n} # {{trace_id="b{n}"}} 0.3 {now:.3f}
took_seconds_bucket{{le="1.0"}} {2 * n} # {{trace_id="c{n}"}} 0.7
took_seconds_bucket{{le="+Inf"}} {3 * n}
took_seconds_count {3 * n}
took_seconds_sum {1.5 * n}
# TYPE nap summary
# HELP nap Naps.
nap{{quantile="0.5"}} {n}
nap_count {n}
nap_sum {n}
# TYPE state stateset
state{{state="on"}} 1
# TYPE build info
build_info{{v="1"}} 1
{flips}# EOF
"""


def remote_write_2():
    """A Prometheus 3 scrapes itself by protobuf (native histograms beside classic ones) and a page whose classic histograms it
    makes native ones with custom buckets, and sends all of it as remote write 2.0 to one of ours and as 1.0 to another,
    through a kill -9 and a restart of both: the same samples, staleness, exemplars and metadata. In 1.0 it sends custom buckets
    without their bounds, which ours refuses."""
    page = Page(changing_page, Page.OPEN_METRICS)
    ours = {"io.prometheus.write.v2.Request": Server("rw-two").start(), "prometheus.WriteRequest": Server("rw-one").start()}
    p = Prometheus3("rw-sender", features="exemplar-storage,native-histograms,metadata-wal-records")
    job = lambda name, address, **more: {"job_name": name, "static_configs": [{"targets": [address]}], **more}
    queue = {"min_backoff": "100ms", "max_backoff": "1s", "batch_send_deadline": "1s"}
    json.dump({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            job("itself", f"127.0.0.1:{p.port}", scrape_protocols=["PrometheusProto"], always_scrape_classic_histograms=True),
            job("page", page.address, convert_classic_histograms_to_nhcb=True),
            job("nobody", "127.0.0.1:9")],
        "remote_write": [
            {"url": s.url + "/api/v1/write", "protobuf_message": message, "send_exemplars": True, "send_native_histograms": True,
             "queue_config": queue, **({} if "v2" in message else {"metadata_config": {"send": True, "send_interval": "1s"}})}
            for message, s in ours.items()]}, open(p.conf, "w"))
    p.start()
    # What is older than the sender's own start it does not send.
    began = time.time() + 1
    for turn in (4, 8, 12):
        until("it scrapes", lambda: scrapes(p) >= 3 * turn)
        for s in ours.values():
            if turn == 4:
                s.kill()
                until("it scrapes while ours is down", lambda: scrapes(p) >= 3 * turn + 6)
                s.start()
            elif turn == 8:
                s.stop()
                s.start()
    end = time.time()
    window = f"{int((end - began) * 1000)}ms"
    theirs = samples(p, EVERYTHING, end, window)
    histograms = sum(v.startswith("{") for series in theirs.values() for v in series.values())
    assert len(theirs) > 300 and histograms > 50 and any("took_seconds" in k for k in theirs), (len(theirs), histograms)
    for message, s in ours.items():
        sent = EVERYTHING if "v2" in message else '{__name__=~".+",__name__!="took_seconds"}'
        theirs = samples(p, sent, end, window)
        lacks = lambda: differences(theirs, samples(s, sent, end, window))
        until(lambda: (message, lacks()[:3]), lambda: not lacks())
        for ago in range(6):
            a, b = (present(x, sent, end - ago) for x in (p, s))
            assert a == b, (message, ago, a ^ b)
        a, b = (exemplars(x, EVERYTHING, began, end) for x in (p, s))
        assert a and a == b, (message, differences(a, b))
        a, b = metadata(p), metadata(s)
        if "v2" in message:
            # It comes with series, and goes by what they are parts of; for those of OpenMetrics' counters none is sent.
            parts = {k for k, v in a.items() if v[0][0] in ("histogram", "summary")}
            assert len(parts) > 20 and not any(k.endswith(("_bucket", "_sum")) for k in b), sorted(b)
            a, b = ({k: v for k, v in x.items() if k in parts} for x in (a, b))
        assert a == b, (message, differences(a, b))
    p.stop()
    for s in ours.values():
        s.stop()
    page.stop()


def requests_of(now_ms):
    """Right and wrong requests by name: what status each deserves, and its series."""
    t = [(now_ms, 1.0)]
    numbers = iter(range(10_000))
    series = lambda **kw: {"labels": {"__name__": f"m{next(numbers)}"}, **kw}
    plain = dict(count=3, sum=1.0, schema=0, positive=([(0, 2)], [1, 1]), t=now_ms)
    of = lambda **kw: [series(histograms=[{**plain, **kw}])]
    custom = lambda **kw: of(schema=-53, **{"custom": [1.0, 2.0], **kw})
    floats = lambda **kw: of(float=True, **{"positive": ([(0, 2)], [1.5, 1.5]), "count": 3.0, **kw})
    e = lambda **kw: {"labels": {"trace_id": "a"}, "v": 1.0, "t": now_ms, **kw}
    good = {
        "plain": [series(samples=t)], "nothing": [], "no samples": [series()], "stale": [series(samples=[(now_ms, rw.STALE)])], "nan": [series(samples=[(now_ms, math.nan)])],
        "empty value": [{"labels": [("__name__", "ev"), ("a", ""), ("b", "c")], "samples": t}], "odd names": [{"labels": {"__name__": "a.b é", "x y": "1"}, "samples": t}],
        "twice the same": [series(samples=t + t)], "turned": [series(samples=[(now_ms, 1.0), (now_ms - 1000, 2.0)])],
        "in two parts": [{"labels": {"__name__": "parts"}, "samples": t}, {"labels": {"__name__": "parts"}, "samples": [(now_ms + 1, 2.0)]}],
        "histogram": of(), "empty": of(positive=([], []), count=0), "gauge": of(hint=3), "no such hint": of(hint=9), "sum NaN": of(sum=math.nan, count=5), "stale histogram": of(sum=rw.STALE),
        "custom": custom(), "float": floats(), "float count": floats(count=1.0), "float NaN": floats(positive=([(0, 2)], [1.5, math.nan])), "float custom": floats(schema=-53, custom=[1.0]),
        "float and histogram": [{"labels": {"__name__": "both"}, "samples": t, "histograms": [{**plain, "t": now_ms + 1}]}],
        "turned histograms": [series(histograms=[plain, {**plain, "t": now_ms - 1000}])], "threshold": of(zero=2, count=5, threshold=0.75, schema=-1, negative=([(0, 1)], [0])),
        "exemplar": [series(samples=t, exemplars=[e()])], "exemplars turned": [series(samples=t, exemplars=[e(), e(v=2.0, t=now_ms - 1000)])],
        "exemplar without labels": [series(samples=t, exemplars=[e(labels={})])], "exemplar of a histogram": [series(histograms=[plain], exemplars=[e()])],
    }
    bad = {
        "future": [series(samples=[(now_ms + 3_600_000, 1.0)])], "old": [series(samples=[(now_ms - 3 * 86_400_000, 1.0)])], "before time": [series(samples=[(-5, 1.0)])],
    }
    # There it is 500, which is sent again and again; 3.14 has 400 too.
    contradictions = {
        "count": of(count=1), "negative bucket": of(positive=([(0, 2)], [1, -3])), "short spans": of(positive=([(0, 1)], [1, 1])), "long spans": of(positive=([(0, 3)], [1, 1])),
        "span back": of(positive=([(0, 1), (-1, 1)], [1, 1])), "no bounds": custom(custom=[]), "falling bounds": custom(custom=[2.0, 1.0]), "infinite bound": custom(custom=[1.0, math.inf]),
        "custom zero": custom(zero=1, count=4), "custom negative": custom(negative=([(0, 1)], [1]), count=4), "custom threshold": custom(threshold=1.0),
        "too many buckets": custom(positive=([(0, 4)], [1, 0, 0, 0]), count=4), "bounds of nothing": of(custom=[1.0]), "float negative": floats(positive=([(0, 2)], [1.5, -1.5]), count=1.0),
    }
    # It takes these in silence, or as they are and breaks off every query of them.
    only_ours = {
        "no name": [{"labels": {"job": "x"}, "samples": t}], "label twice": [{"labels": [("__name__", "dup"), ("a", "1"), ("a", "2")], "samples": t}],
        "not UTF-8": [{"labels": [("__name__", "bu"), ("a", b"\xff")], "samples": t}], "label without name": [{"labels": [("", "x"), ("__name__", "eln")], "samples": t}],
        "another value": [series(samples=[(now_ms, 1.0), (now_ms, 2.0)])], "schema -5": of(schema=-5), "schema 53": of(schema=53), "NaN bound": custom(custom=[1.0, math.nan]),
    }
    return {204: good, 400: bad, 500: contradictions, None: only_ours}


def remote_write_answers():
    """The same remote write requests, right and wrong, of both versions, into a Prometheus 3 and ours: the same statuses and counts,
    and the same is stored. Ours counts what was written in answers to 1.0 too, refuses wrong labels and contradictions by 400 where
    it is silent or answers 500, and refuses what it breaks the connection for."""
    accept = "--web.remote-write-receiver.accepted-protobuf-messages="
    p = Prometheus3("rw-theirs", json.dumps({"storage": {"tsdb": {"out_of_order_time_window": "1h"}}}),
                    flags=[accept + "prometheus.WriteRequest", accept + "io.prometheus.write.v2.Request"]).start()
    s = Server("rw-ours").start()
    now_ms = int(time.time() * 1000)
    written = lambda r: [r.headers.get(f"X-Prometheus-Remote-Write-{what}-Written") for what in ("Samples", "Histograms", "Exemplars")]
    for kind in (rw.V1, rw.V2):
        for status, named in requests_of(now_ms).items():
            for what, series in named.items():
                for one in series:
                    labels = one["labels"]
                    one["labels"] = labels + [("version", kind[-10:])] if isinstance(labels, list) else {**labels, "version": kind[-10:]}
                body = rw.v2(series) if kind == rw.V2 else rw.v1(series)
                b = rw.post(s, body, kind)
                assert b.status_code == (204 if status == 204 else 400), (kind, what, b.status_code, b.text)
                if status is None:
                    continue
                a = rw.post(p, body, kind)
                assert a.status_code == status, (kind, what, a.status_code, a.text)
                assert kind == rw.V1 or written(a) == written(b), (what, a.headers, b.headers)
    ok = [{"labels": {"__name__": "last"}, "samples": [(now_ms, 1.0)]}]
    one, two = rw.v1(ok), rw.v2(ok)
    both = lambda *a, **kw: [rw.post(x, *a, **kw).status_code for x in (p, s)]
    for args, kw, want in (
        ((one, "text/plain"), {}, 415), ((one, "application/x-protobuf;proto=other"), {}, 415), ((one, "application/x-protobuf;proto=prometheus.WriteRequest"), {}, 204),
        ((two, "application/x-protobuf; charset=utf-8; proto=io.prometheus.write.v2.Request"), {}, 204), ((one,), {"packed_by": "gzip"}, 415), ((one,), {"Content_Encoding": "SNAPPY"}, 204),
        ((one,), {"Content_Type": None}, 204), ((one,), {"Content_Encoding": None}, 204), ((one,), {"X_Prometheus_Remote_Write_Version": None}, 204),
        ((one,), {"packed_by": "nothing", "Content_Encoding": "snappy"}, 400), ((one[:-3],), {}, 400), ((two[:-3], rw.V2), {}, 400), ((b"\xff" * 50,), {}, 400)):
        assert both(*args, **kw) == [want, want], (args, kw, both(*args, **kw))
    # In silence there: nothing is stored of a message that says that it is the other.
    for args in ((one, rw.V2), (two, rw.V1)):
        assert rw.post(s, *args).status_code == 400
    at = now_ms / 1000 + 2
    a, b = (samples(x, '{version!=""}', at) for x in (p, s))
    # The first value for a time is kept there too; it is refused here.
    a, b = ({k: v for k, v in x.items() if "last" not in k} for x in (a, b))
    mine = {k for k in b if k not in a}
    assert len(a) > 40 and all(a[k] == b.get(k) for k in a), differences(a, b)
    assert len(mine) == 2 and all(len(b[k]) == 1 for k in mine), mine
    a, b = (present(x, '{version!=""}', at) for x in (p, s))
    assert a == b - mine, a ^ b
    a, b = (exemplars(x, '{version!=""}', at - 60, at) for x in (p, s))
    # It drops those that come late, and in 1.0 those of a series that begins with a histogram.
    assert len(a) == 7 and len(b) == 8 and all(set(a[k]) <= set(b[k]) for k in a), differences(a, b)
    p.stop()
    s.stop()


def pages_of(now_s):
    """Pages by name, each in its format: those that both take, those that both refuse, and those that only ours takes."""
    T, O = Page.TEXT, Page.OPEN_METRICS
    utf8 = "; version=1.0.0; charset=utf-8; escaping=allow-utf-8"
    om = lambda text: (text + "# EOF\n", O)
    numbers = ["1e3", "+5", "-0", "NaN", "Inf", "+Inf", "-Inf", "nan", "inf", "-1E-400", ".5", "5.", "1e+05", "infinity", "Infinity"]
    no_numbers = ["1e400", "+NaN", "-nan", "0x1p-2", "1_000", "0x10", "0b1", "1,5", "", "abc", "1 2 3", "1 x", "--1", "1f", "1e", "+", "."]
    bounds = ["1", "2.0", "0.5", "1e3", "+Inf", "Inf", "1e-7", "100000000000000000000000", "-1", "NaN", "abc", "010", "0x10"]
    take = {
        "spaces": ('a 1\nb{x="y"} 2.5\nc{x="y",} 3\nd { x = "y" , z="w" } 4\nf\t6\ng{} 7\nh{x="1",\ty="2"}\t2\t\ni{x="1"}2\n', T),
        "numbers": ("".join(f"n{i} {v}\n" for i, v in enumerate(numbers)), T), "numbers om": om("".join(f"n{i} {v}\n" for i, v in enumerate(numbers))),
        "times": (f"t1 1 {now_s}000\nt2 2 {now_s - 5}000\nt3 3 {now_s + 30}000\nt4 4 {now_s}123\n", T),
        "times om": om(f"t1 1 {now_s}\nt2 1 {now_s - 1}.5\nt3 1 {now_s}.1234567\nt4 1 {now_s}.0e0\n"),
        "escapes": ('e{a="q\\"q",b="n\\nn",c="b\\\\b",d="t\\tt",e="ünï",f="",g=" sp ",h="{}",i="a,b=c",j="x\ny"} 1\n', T),
        "utf8": ('{"my.metric",x="1"} 1\n{"my metric","l.b"="2"} 2\n{"sp ace\\"q"} 3\n{x="1","late.name"} 4\n{"q\\\\b"} 5\n', "text/plain" + utf8),
        "utf8 om": ('# TYPE "a.b" counter\n{"a.b_total",x="1"} 1\n# EOF\n', "application/openmetrics-text" + utf8),
        "duplicates": ('d 1\nd 2\nd{x="1"} 3\nd{x="1"} 3\n', T), "duplicates om": om("a 1\na 2\n"), "reserved": ('d{__x="1",job="t",instance="t",exported_job="e"} 1\n', T),
        "no line end": ("a 1", T), "empty": ("", T), "comments": ("\n# hello\n\na 1\n# TYPE\nb 1\n\n", T), "colons": ("a:b:c 1\n:x 2\n", T), "no comma": ('a{x="1"y="2"} 2\n', T),
        "no kind": ("a 1\n", ""), "other kind": ("a 1\n", "application/foo"), "other escapes": ('e{a="x\\qx"} 1\n', T), "no EOF line end": ("a 1\n# EOF", O), "far": om("c_total -1\n"),
        "le": ("# TYPE h histogram\n" + "".join(f'h_bucket{{le="{v}"}} {i}\n' for i, v in enumerate(bounds)) + 'h_count 5\nh_sum 1\n# TYPE g gauge\ng{le="1"} 1\nu{le="1"} 1\n', T),
        "quantile": ("# TYPE s summary\n" + "".join(f's{{quantile="{v}"}} 1\n' for v in ["0", "1", "0.50", "1e-1", "NaN"]) + "s_count 1\ns_sum 1\n", T),
        "families": ('# HELP a some \\\\ help \\n here \\"q\\"\n# TYPE a counter\na 1\n# TYPE c untyped\nc 1\n# HELP d\n# TYPE d gauge\nd 1\n#  TYPE f gauge\nf 1\n', T),
        "types": om(f'# TYPE c counter\n# HELP c \\"q\\" \\n x\nc_total 5 {now_s}.25 # {{trace_id="abc",span_id="d"}} 0.5 {now_s}.5\nc_created {now_s - 100}\n# TYPE g_seconds gauge\n'
                    '# UNIT g_seconds seconds\ng_seconds 1\n# TYPE h histogram\nh_bucket{le="0.5"} 1 # {a="b"} 0.3\nh_bucket{le="1"} 2 # {} 0.7\nh_bucket{le="+Inf"} 3\nh_count 3\nh_sum 1\n'
                    '# TYPE i info\ni_info{v="1"} 1\n# TYPE st stateset\nst{st="a"} 1\nst{st="b"} 0\n# TYPE u unknown\nu 1\n# TYPE gh gaugehistogram\ngh_bucket{le="1"} 1\ngh_bucket{le="+Inf"} 1\n'
                    'gh_gcount 1\ngh_gsum 1\n'),
        "huge": ("".join(f'huge{{i="{i}",pad="{"x" * 100}"}} {i}\n' for i in range(5000)), T),
    }
    refuse = {
        **{f"no number {v}": (f"ok 1\nn {v}\n", T) for v in no_numbers}, "answers 500": (None, T), "page of HTML": ("<html><body>no</body></html>", "text/html"),
        **{f"no sample {line}": (f"ok 1\n{line}\n", T) for line in (
            "9a 2", "a-b 2", "a.b 2", 'a{9x="1"} 2', 'a{x-y="1"} 2', 'a{x:y="1"} 2', "a", 'a{x="1" 2', "a{x=1} 2", "!!!", 'e{a="x} 1', 'd{x="1",x="2"} 1', 'd{__name__="evil"} 1')},
        "bad UTF-8": (b'ok 1\nbad{x="\xff"} 1\n', T), "no time": ("ok 1\nt 1 abc\n", T), "a time with a fraction": (f"ok 1\nt 1 {now_s}.5\n", T), "cut off": ("a 1\n", O),
        "behind its end": ("a 1\n# EOF\nb 2\n", O), "time NaN": om("t 1 NaN\n"), "exemplar of nothing": om('# TYPE c counter\nc_total 1 # {a="b"}\n'),
    }
    # Nothing of them is lost, so they are taken.
    only_ours = {
        "CRLF": ("a 1\r\nb 2\r\n", T), "commas": ('a{,x="1",,y="2"} 2\n', T), "odd type": ("# TYPE a bogus\na 1\n", T), "exemplar in text": ('a_total 1 # {x="y"} 1\n', T), "before 1970": ("t 3 -5\na 1\n", T),
        "OpenMetrics with blank lines": ("\na 1\n# EOF\n", O), "other comments": om("# foo\na 1\n"), "two spaces": om(" a  1 \n"), "other unit": om("# TYPE a gauge\n# UNIT a seconds\na 1\n"),
    }
    return take, refuse, only_ours


def scraped_beside_prometheus():
    """The same pages scraped by a Prometheus 3 and ours: the same series, values, times, exemplars and metadata, the same `up` and
    counts, the same staleness when a series or a target goes. Ours takes some pages that it refuses (`only_ours` above), counts no
    sample of a page that it refuses, and does not cut exemplars at 128 letters."""
    take, refuse, only_ours = pages_of(int(time.time()))
    own = Page('d{job="t",instance="t"} 1\nd2{job="",instance=""} 1\nd3{extra="e"} 1\nd4{exported_extra="x",extra="y"} 1\nup 7\nscrape_samples_scraped 9\n')
    comes, goes = Page(f"stays 1\ngoes 1\nback 1\ntimed 1 {int(time.time())}000\n"), Page("g 1\n")
    pages = {**{name: Page(*page) for name, page in {**take, **refuse, **only_ours}.items()}, "own labels": own, "own labels kept": own, "comes and goes": comes, "goes away": goes}
    jobs, toml = [], "version = 1\n"
    for name, page in pages.items():
        more = {"extra": "ours", "env": "t"} if page is own else {}
        honor = name.endswith("kept")
        jobs.append({"job_name": name, "static_configs": [{"targets": [page.address], "labels": more}], "honor_labels": honor, "fallback_scrape_protocol": "PrometheusText0.0.4"})
        toml += f'[[scrape]]\njob = {json.dumps(name, ensure_ascii=False)}\ntargets = ["{page.address}"]\ninterval = "1s"\ntimeout = "1s"\nhonor_labels = {str(honor).lower()}\n'
        toml += "labels = { " + ", ".join(f'{k} = "{v}"' for k, v in more.items()) + " }\n"
    conf = os.path.join(ROOT, "scraped.toml")
    open(conf, "w").write(toml)
    p = Prometheus3("scraped-theirs", json.dumps({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs})).start()
    s = Server("scraped-ours", "--config", conf).start()
    now = lambda x, query: {name_of(r["metric"]): r["value"][1] for r in get(x, "query", query=query)["result"]}
    for x in (p, s):
        until("each page is scraped", lambda: len(now(x, 'count by (job) (scrape_samples_scraped{exported_job=""})')) == len(pages))
    compared = '__name__!~"scrape_duration_seconds|scrape_series_added"'
    taken = [n for n in pages if n not in refuse and n not in only_ours]
    of = lambda x, names: {k: v for k, v in now(x, '{job!="",' + compared + "}").items() if json.loads(k)["job"] in names}
    # On a machine at its limits a scrape can be late once.
    lacks = lambda: differences(of(p, taken), of(s, taken))
    until(lambda: "\n".join(lacks()[:5]), lambda: not lacks())
    assert len(of(s, taken)) > 5_100
    ups = lambda x, names: {k: v for k, v in ((json.loads(k)["job"], v) for k, v in now(x, 'up{exported_job="",instance=~".+:.+"} < 2').items()) if k in names}
    for x, names, want in ((p, refuse, "0"), (s, refuse, "0"), (p, only_ours, "0"), (s, only_ours, "1")):
        until(lambda: (x.url, ups(x, names)), lambda: ups(x, names) == {n: want for n in names})
    assert not any('"ok"' in k for k in of(s, refuse))
    for name in ("times", "times om"):
        a, b = (samples(x, f'{{job="{name}",__name__=~"t."}}', time.time() + 60) for x in (p, s))
        assert len(a) == 4 and a == b, differences(a, b)
    a, b = (exemplars(x, '{job="types"}', time.time() - 60, time.time() + 1) for x in (p, s))
    # Those without a time have that of their scrape, and are stored once.
    shown = lambda x: {k: [(v, labels) for _, v, labels in e] for k, e in x.items()}
    assert len(a) == 3 and shown(a) == shown(b), differences(a, b)
    a, b = (get(x, "targets/metadata" if x is p else "metadata") for x in (p, s))
    for m in (m for m in a if m["target"]["job"] in ("families", "types", "utf8 om", "le", "quantile")):
        assert {k: m[k] for k in ("type", "help", "unit")} in b[m["metric"]], (m, b.get(m["metric"]))
    for turn in (lambda: (setattr(comes, "body", "stays 2\nback 1\n"), goes.stop()), lambda: setattr(comes, "body", None), lambda: setattr(comes, "body", "stays 1\ngoes 1\nback 1\n")):
        before = {x: now(x, "count_over_time(up[1h])") for x in (p, s)}
        turn()
        for x in (p, s):
            key = lambda: next(float(v) for k, v in now(x, "count_over_time(up[1h])").items() if '"comes and goes"' in k)
            was = next(float(v) for k, v in before[x].items() if '"comes and goes"' in k)
            until("it is scraped twice more", lambda: key() >= was + 2)
        lacks = lambda: differences(*(now(x, '{job=~"comes and goes|goes away",' + compared + "}") for x in (p, s)))
        until(lambda: lacks(), lambda: not lacks())
    added = lambda x: now(x, 'sum_over_time(scrape_series_added{job=~"spaces|duplicates|comes and goes|huge|own labels.*|types"}[10m])')
    assert added(p) == added(s), differences(added(p), added(s))
    p.stop()
    s.stop()
    for page in pages.values():
        page.stop()


def protobuf_page():
    """Each type by hand: with times, exemplars, empty labels, and native histograms of each kind, of nothing and beside classic buckets."""
    text, label = (lambda n, v: rw.field(n, v.encode())), (lambda k, v: rw.field(1, rw.field(1, k.encode()) + rw.field(2, v.encode())))
    stamp = lambda n, t: rw.field(n, rw.integer(1, t) + rw.integer(2, 250_000_000))
    exemplar = lambda n, v, t=None: rw.field(n, label("trace_id", f"t{v}") + rw.double(2, v) + (stamp(3, t) if t else b""))
    family = lambda name, kind, *metrics: (lambda b: rw.varint(len(b)) + b)(text(1, name) + text(2, f"help of {name}") + rw.integer(3, kind) + b"".join(rw.field(4, m) for m in metrics) + text(5, ""))
    now = int(time.time())
    bucket = lambda bound, n, more=b"": rw.field(3, rw.integer(1, n) + rw.double(2, bound) + more)
    span = lambda n, offset, length: rw.field(n, rw.integer(1, rw.zigzag(offset)) + rw.integer(2, length))
    delta = lambda n, *v: b"".join(rw.integer(n, rw.zigzag(d)) for d in v)
    classic = rw.integer(1, 4) + rw.double(2, 3.5) + bucket(0.5, 1, exemplar(3, 0.25)) + bucket(1, 3, exemplar(3, 0.75, now)) + bucket(1e6, 4)
    native = rw.integer(5, rw.zigzag(3)) + rw.double(6, 0.001) + rw.integer(7, 1) + span(12, -3, 2) + span(12, 2, 1) + delta(13, 1, 0, 0)
    floats = rw.double(4, 6.5) + rw.double(2, -1.0) + rw.integer(5, rw.zigzag(-1)) + span(9, 0, 2) + rw.double(11, 2.0) + rw.double(11, 4.5)
    fine = rw.integer(1, 3) + rw.double(2, 1.0) + rw.integer(5, rw.zigzag(8)) + span(12, 100, 1) + span(12, 0, 1) + delta(13, 2, -1)
    return b"".join([
        family("pc_total", 0, label("a", "1") + rw.field(3, rw.double(1, 3) + exemplar(2, 1.5, now)), label("a", "2") + rw.field(3, rw.double(1, 4) + stamp(3, now - 9))),
        family("pg", 1, rw.field(2, rw.double(1, -2.5)), label("timed", "yes") + label("none", "") + rw.field(2, rw.double(1, 1)) + rw.integer(6, now * 1000 + 7)),
        family("ps", 2, rw.field(4, rw.integer(1, 5) + rw.double(2, 9) + b"".join(rw.field(3, rw.double(1, q) + rw.double(2, v)) for q, v in ((0.5, 1), (1, 2))))),
        family("pu", 3, rw.field(5, rw.double(1, 7)), label("n", "nan") + rw.field(5, rw.double(1, math.nan))),
        family("pu.tf8 ü", 1, label("l.ü", "x") + rw.field(2, rw.double(1, 1))),
        family("ph_classic", 4, rw.field(7, classic)), family("ph_both", 4, rw.field(7, classic + native), label("i", "2") + rw.field(7, native + rw.integer(1, 4) + rw.double(2, 1))),
        family("ph_own", 4, rw.field(7, classic + native + exemplar(16, 0.5, now) + exemplar(16, 0.625))),
        family("ph_float", 4, rw.field(7, floats)), family("ph_fine", 4, rw.field(7, fine)), family("ph_empty", 4, rw.field(7, span(12, 0, 0))), family("ph_gauge", 5, rw.field(7, classic + native)),
    ])


def native_histograms_scraped():
    """Pages in protobuf, by hand and of a real Prometheus, scraped by a Prometheus 3 and ours, with classic buckets kept and without."""
    kind = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
    p = Prometheus3("native-theirs", "{}").start()
    requests.get(p.url + "/api/v1/query", params={"query": "up"})
    theirs = requests.get(p.url + "/metrics", headers={"accept": kind.replace(" ", "")})
    assert theirs.headers["content-type"].startswith("application/vnd.google.protobuf"), theirs.headers
    p.stop()
    pages = {"hand": Page(protobuf_page(), kind), "theirs": Page(theirs.content, kind), "cut off": Page(protobuf_page()[:-1], kind)}
    jobs, toml = [], "version = 1\n"
    for name, page in pages.items():
        for classic in (False, True):
            jobs.append({"job_name": f"{name} {classic}", "static_configs": [{"targets": [page.address]}], "scrape_protocols": ["PrometheusProto"], "always_scrape_classic_histograms": classic})
            toml += f'[[scrape]]\njob = "{name} {classic}"\ntargets = ["{page.address}"]\ninterval = "1s"\ntimeout = "1s"\nnative_histograms = true\nclassic_histograms = {str(classic).lower()}\n'
    conf = os.path.join(ROOT, "native.toml")
    open(conf, "w").write(toml)
    p = Prometheus3("native-theirs", json.dumps({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs})).start()
    s = Server("native-ours", "--config", conf).start()
    until("each page is scraped", lambda: all(len(get(x, "query", query="scrape_samples_scraped")["result"]) == len(jobs) for x in (p, s)))
    now = lambda x: {name_of(r["metric"]): r.get("value", r.get("histogram"))[1] for r in get(x, "query", query='{job!="",__name__!~"scrape_.*"}')["result"]}
    lacks = lambda: differences(now(p), now(s))
    errors = lambda: [(t["labels"]["job"], t["lastError"]) for t in get(p, "targets")["activeTargets"] if t["lastError"]]
    until(lambda: "\n".join([*lacks()[:8], str(errors())]), lambda: not lacks())
    count = lambda q: float(get(s, "query", query=q)["result"][0]["value"][1])
    assert count('count(histogram_count({job="theirs False"}))') > 3 and count('count(up == 0)') == 2
    assert all(a["accept"].startswith("application/vnd.google.protobuf;") for a in ({k.lower(): v for k, v in h.items()} for h in pages["hand"].asked))
    counts = lambda x: {name_of(r["metric"]): r["value"][1] for r in get(x, "query", query='scrape_samples_scraped{job!~"cut.*"}')["result"]}
    assert counts(p) == counts(s), differences(counts(p), counts(s))
    shown = lambda x: {k: sorted((v, labels) for _, v, labels in e) for k, e in exemplars(x, '{job=~"hand.*"}', time.time() - 60, time.time() + 1).items()}
    assert len(shown(s)) > 5 and shown(p) == shown(s), differences(shown(p), shown(s))
    for m in (m for m in get(p, "targets/metadata") if m["target"]["job"] == "hand True"):
        assert {k: m[k] for k in ("type", "help", "unit")} in get(s, "metadata")[m["metric"]], m
    p.stop()
    s.stop()
    for page in pages.values():
        page.stop()


CHECKS = [remote_write_2, remote_write_answers, scraped_beside_prometheus, native_histograms_scraped]
