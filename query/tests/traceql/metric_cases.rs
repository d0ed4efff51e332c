//! What metrics queries make of the fixture.

use strandline_query::traceql::{MetricsOptions, parse, query_range};
use strandline_storage::model::{Span, SpanId, Trace};

use super::Report;
use super::fixture::{Memory, T0, traces};

const MINUTE: u64 = 60_000_000_000;

/// A query and its series: labels, then values of the slots of a minute from the fixture's begin (`-`: none).
const CASES: &[(&str, &[&str])] = &[
    ("{} | count_over_time()", &["__name__=count_over_time: 6 3 1 3"]),
    ("{} | rate()", &["__name__=rate: 0.1 0.05 0.016666667 0.05"]),
    ("{ kind = client } | count_over_time()", &["__name__=count_over_time: 3 0 0 0"]),
    ("{ name = \"nobody\" } | rate()", &[]),
    (
        "{} | count_over_time() by (resource.service.name)",
        &[
            "resource.service.name=cron: 0 0 1 0",
            "resource.service.name=loop: 0 0 0 3",
            "resource.service.name=shop: 3 2 0 0",
            "resource.service.name=web: 3 1 0 0",
        ],
    ),
    ("{ status = error } | count_over_time() by (name, status)", &["name=e status=error: 1 0 0 0", "name=g status=error: 0 1 0 0"]),
    (
        "{ span.http.status != nil } | count_over_time() by (span.http.status)",
        &["span.http.status=200: 2 0 0 0", "span.http.status=500: 0 1 0 0", "span.http.status=500: 0 1 0 0"],
    ),
    ("{ name < \"c\" } | count_over_time() by (.version)", &[".version=1: 1 0 0 0", ".version=7: 1 0 0 0"]),
    ("{ name < \"c\" } | count_over_time() by (span.path)", &["span.path=/cart: 1 0 0 0", "span.path=nil: 1 0 0 0"]),
    (
        "{ name < \"c\" } | count_over_time() by (span.path, span.version, span.missing)",
        &["span.path=/cart: 1 0 0 0", "span.version=7: 1 0 0 0"],
    ),
    ("{ name < \"c\" } | count_over_time() by (span.missing, span.absent)", &["span.missing=nil: 2 0 0 0"]),
    // A value that the language has no words for is no label.
    ("{ span.blob != nil } | count_over_time() by (span.blob, name)", &["name=c: 1 0 0 0"]),
    ("{ name = \"a\" } | quantile_over_time(duration, 1) by (span.missing)", &["p=1: 0.134217728 0 0 0"]),
    // The parent's attribute, not the span's: b's and f's is a, d's and e's is c.
    ("{ name < \"g\" } | count_over_time() by (parent.path)", &["parent.path=/cart: 2 0 0 0", "parent.path=nil: 4 0 0 0"]),
    ("{ name < \"g\" } | max_over_time(parent.http.status)", &["__name__=max_over_time: 200 - - -"]),
    ("{ kind = client } | count_over_time() by (rootName)", &["rootName=a: 3 0 0 0"]),
    ("{} | min_over_time(duration)", &["__name__=min_over_time: 0.01 0.1 0.03 0.005"]),
    ("{} | max_over_time(duration)", &["__name__=max_over_time: 0.1 0.5 0.03 0.04"]),
    ("{ resource.service.name = \"web\" } | sum_over_time(duration)", &["__name__=sum_over_time: 0.17 0.5 - -"]),
    (
        "{ resource.service.name = \"shop\" } | avg_over_time(duration) by (kind)",
        &["kind=client: 0.0175 - - -", "kind=internal: - 0.2 - -", "kind=server: 0.05 - - -"],
    ),
    ("{} | max_over_time(duration) > 50ms", &["__name__=max_over_time: 0.1 0.5 - -"]),
    ("{} | max_over_time(duration) > -1s", &["__name__=max_over_time: 0.1 0.5 0.03 0.04"]),
    ("({} | max_over_time(duration)) * 1s", &["__name__=max_over_time: 0.1 0.5 0.03 0.04"]),
    ("{} | max_over_time(name)", &[]),
    ("{} | max_over_time(span.n)", &["__name__=max_over_time: - 4.5 -1 -"]),
    ("{} | sum_over_time(span.missing)", &[]),
    ("{} | quantile_over_time(span.n, 1)", &["p=1: 0 4 0 0"]),
    ("{} | quantile_over_time(span.ratio, 1)", &[]),
    ("{} | histogram_over_time(span.n)", &["__bucket=4: 0 2 0 0"]),
    ("{} | histogram_over_time(span.rows)", &["__bucket=16: 1 0 0 0"]),
    ("{} | histogram_over_time(span.ratio) by (name)", &[]),
    ("{} | histogram_over_time(name)", &[]),
    ("{ name = \"a\" } | quantile_over_time(duration, 0.5, 1)", &["p=0.5: 0.134217728 0 0 0", "p=1: 0.134217728 0 0 0"]),
    (
        "{ kind = client } | histogram_over_time(duration)",
        &["__bucket=0.016777216: 1 0 0 0", "__bucket=0.033554432: 1 0 0 0", "__bucket=0.067108864: 1 0 0 0"],
    ),
    (
        "{} | count_over_time() by (resource.service.name) | topk(1)",
        &["resource.service.name=cron: - - 1 -", "resource.service.name=loop: - - - 3", "resource.service.name=shop: 3 2 - -"],
    ),
    (
        "{} | count_over_time() by (resource.service.name) | bottomk(1)",
        &["resource.service.name=cron: 0 0 - 0", "resource.service.name=loop: - - 0 -"],
    ),
    ("{} | count_over_time() > 2", &["__name__=count_over_time: 6 3 - 3"]),
    ("{} | count_over_time() <= 3 ", &["__name__=count_over_time: - 3 1 3"]),
    ("{} | count_over_time() = 1", &["__name__=count_over_time: - - 1 -"]),
    ("{} | count_over_time() != 3", &["__name__=count_over_time: 6 - 1 -"]),
    ("{} | count_over_time() > 100", &[]),
    ("({} | count_over_time()) * 2", &["__name__=count_over_time: 12 6 2 6"]),
    ("10 - ({} | count_over_time()) / 2", &["__name__=count_over_time: 7 8.5 9.5 8.5"]),
    ("({ kind = client } | count_over_time()) / ({} | count_over_time())", &["__name__=(count_over_time / count_over_time): 0.5 0 0 0"]),
    (
        "({} | count_over_time() by (kind)) / ({ kind = client || kind = server } | count_over_time())",
        &[
            "kind=client: 0.6 0 - -",
            "kind=consumer: 0 0 - -",
            "kind=internal: 0.2 2 - -",
            "kind=producer: 0 0 - -",
            "kind=server: 0.4 1 - -",
        ],
    ),
    (
        "(({} | rate()) + ({} | rate())) / ({} | count_over_time() by (resource.service.name)) > 0.04",
        &["resource.service.name=shop: 0.066666667 0.05 - -", "resource.service.name=web: 0.066666667 0.1 - -"],
    ),
    (
        "({ kind = client } | max_over_time(duration)) + ({} | max_over_time(duration))",
        &["__name__=(max_over_time + max_over_time): 0.16 0.5 0.03 0.04"],
    ),
    (
        "({} | count_over_time() by (kind)) + ({ status = error } | count_over_time() by (kind))",
        &["kind=client: 4 0 0 0", "kind=server: 2 2 0 0"],
    ),
    ("{} >> { status = error } | count_over_time()", &["__name__=count_over_time: 1 0 0 0"]),
    ("{} | by(resource.service.name) | count() > 2 | count_over_time()", &["__name__=count_over_time: 6 0 0 3"]),
    (
        "{ resource.service.name = \"shop\" } | compare({ status = error }, 1)",
        &["__meta_type=baseline name=c: 1 0 0 0", "__meta_type=baseline resource.service.name=shop: 2 2 0 0"],
    ),
    // The selection's window is open at its end: a begins at its start and is selected, g at its end and is not.
    (
        "{} | compare({}, 5, 1700000040001000000, 1700000100001000000)",
        &["__meta_type=selection name=a: 1 0 0 0", "__meta_type=baseline name=g: 0 1 0 0"],
    ),
];

fn render(source: &Memory, query: &str, options: &MetricsOptions) -> Result<Vec<String>, String> {
    let q = parse(query).map_err(|e| e.to_string())?;
    let r = query_range(source, &q, options).map_err(|e| e.to_string())?;
    let series = r.series.iter().map(|s| {
        let labels: Vec<String> = s.labels.iter().map(|(k, v)| format!("{k}={}", v.text())).collect();
        let values: Vec<String> =
            s.values.iter().map(|v| if v.is_nan() { "-".into() } else { ((v * 1e9).round() / 1e9).to_string() }).collect();
        format!("{}: {}", labels.join(" "), values.join(" "))
    });
    Ok(series.collect())
}

pub fn run(report: &mut Report) {
    let source = Memory(traces());
    let mut options = MetricsOptions::new(T0, T0 + 4 * MINUTE);
    options.step_nano = MINUTE;
    for (query, want) in CASES {
        let got = render(&source, query, &options);
        let outcome = match got {
            Ok(g) if query.contains("compare") => match want.iter().find(|w| !g.iter().any(|s| s == *w)) {
                None => Ok(()),
                Some(w) => Err(format!("wanted {w:?} among {g:#?}")),
            },
            Ok(g) if g == *want => Ok(()),
            Ok(g) => Err(format!("wanted {want:#?}\n    got {g:#?}")),
            Err(e) => Err(e),
        };
        report.check(query, outcome);
    }
    slots(&source, report);
    too_many_values(report);
}

/// Which values of an attribute are counted where there are too many is the same each time.
fn too_many_values(report: &mut Report) {
    let trace = traces().swap_remove(0);
    let spans = (0..10_100u64).map(|n| Span { name: format!("op{n}"), span_id: SpanId((n + 1).to_be_bytes()), ..trace.spans[0].clone() });
    let source = Memory(vec![Trace::new(trace.trace_id, spans.collect())]);
    let query = parse("{} | compare({ status = error }, 10000)").expect("valid");
    let mut options = MetricsOptions::new(T0, T0 + MINUTE);
    options.instant = true;
    let answer = || query_range(&source, &query, &options).map(|r| format!("{:?}", r.series));
    let outcome = match (answer(), answer()) {
        (Ok(a), Ok(b)) if a == b && a.contains("__too_many_values__") => Ok(()),
        other => Err(format!("{other:?}").chars().take(2_000).collect()),
    };
    report.check("too many values", outcome);
}

/// Slots are right-closed, stamped at their end, and widened to whole steps.
fn slots(source: &Memory, report: &mut Report) {
    let q = parse("{ name = \"a\" || name = \"g\" } | count_over_time() with (exemplars=true)").expect("valid");
    // From a's start, which does not count, to g's, which does.
    let (a, g) = (T0 + 1_000_000, T0 + MINUTE + 1_000_000);
    let mut o = MetricsOptions::new(a, g);
    o.instant = true;
    let r = query_range(source, &q, &o).expect("series");
    report.check("instant", if r.series[0].values == [1.0] { Ok(()) } else { Err(format!("{:?}", r.series)) });
    o.instant = false;
    o.step_nano = MINUTE;
    let r = query_range(source, &q, &o).expect("series");
    let ends_ms: Vec<i64> = [MINUTE, 2 * MINUTE].iter().map(|m| ((T0 + m) / 1_000_000) as i64).collect();
    let got = format!("{} {:?} {}", r.timestamps_ms == ends_ms, r.series[0].values, r.series[0].exemplars[1].trace_id);
    report.check("slots", if got == "true [1.0, 1.0] 02020202020202020202020202020202" { Ok(()) } else { Err(got) });
    o.step_nano = 1;
    let many = query_range(source, &q, &o).is_err();
    report.check("too many slots", if many { Ok(()) } else { Err("accepted".into()) });
    exemplars(source, report);
}

/// Exemplars are of samples that are there, and limited over all series.
fn exemplars(source: &Memory, report: &mut Report) {
    let counts = |query: &str| {
        let mut o = MetricsOptions::new(T0, T0 + 4 * MINUTE);
        (o.step_nano, o.exemplars) = (MINUTE, 100);
        let r = query_range(source, &parse(query).expect("valid"), &o).expect("series");
        format!("{:?}", r.series.iter().map(|s| s.exemplars.len()).collect::<Vec<_>>())
    };
    for (query, want) in [
        ("{} | rate()", "[4]"),
        ("{} | rate() by (kind)", "[1, 1, 3, 1, 2]"),
        ("{} | rate() by (kind) with (exemplars=7)", "[1, 1, 2, 1, 2]"),
        ("{} | rate() by (kind) with (exemplars=2)", "[1, 1, 0, 0, 0]"),
        ("{} | rate() by (kind) with (exemplars=false)", "[0, 0, 0, 0, 0]"),
        ("{ name = \"a\" || name = \"g\" } | quantile_over_time(duration, 0, 1)", "[1, 1]"),
        ("{} | count_over_time() > 2", "[3]"),
        ("{} | count_over_time() by (kind) | topk(1)", "[1, 1, 2]"),
    ] {
        let got = counts(query);
        report.check(query, if got == want { Ok(()) } else { Err(format!("wanted {want}, got {got}")) });
    }
}
