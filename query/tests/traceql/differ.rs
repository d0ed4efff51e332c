//! Random traces, split at random over live spans and blocks, and random queries: the store's answer against the plain
//! evaluation of [`super::naive`]. A failure names its seed and query.

use std::collections::BTreeMap;
use std::sync::Arc;

use strandline_query::traceql::{MetricsOptions, Root, SearchOptions, parse, query_range, search};
use strandline_storage::clock::ManualClock;
use strandline_storage::model::{AttributeValue, Resource, Scope, Span, SpanEvent, SpanId, SpanLink, Trace, TraceId};
use strandline_storage::traces::TraceStore;

use super::Report;
use super::naive::{E, Field, PATTERNS, S, Step, Tree, V, text};
use super::random::{NOW_MS, Random, store};

const ROUNDS: u64 = 8;
const QUERIES_PER_ROUND: u64 = 60;
const MS: u64 = 1_000_000;

impl Random {
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A value for the key `n`, which is of every type now and then.
fn mixed(r: &mut Random) -> AttributeValue {
    match r.below(8) {
        0 => "v1".into(),
        1 => (r.below(6) as f64 / 2.0).into(),
        2 => r.one_in(2).into(),
        3 => vec![AttributeValue::Int(r.below(4) as i64), "v2".into()].into(),
        4 => vec![1u8, 2].into(),
        _ => (r.below(5) as i64 - 1).into(),
    }
}

fn span(r: &mut Random) -> Span {
    let id = r.below(9) + 1;
    // Roots, missing parents (10 to 12 are nobody's), cycles, parents of oneself.
    let parent = if id == 1 && !r.one_in(8) { 0 } else { r.below(13) };
    let start = (NOW_MS as u64 - r.below(3) * 3_600_000 + r.below(60_000)) * MS;
    let mut attributes = Vec::new();
    for (key, often) in [("flag", 2), ("k", 2), ("m", 3), ("n", 2)] {
        if !r.one_in(often) {
            let v = match key {
                "flag" => r.one_in(2).into(),
                "k" => format!("v{}", r.below(4)).into(),
                "m" => (r.below(6) as i64).into(),
                _ => mixed(r),
            };
            attributes.push((key.to_owned(), v));
        }
    }
    let some = |r: &mut Random, key: &str| if r.one_in(2) { vec![(key.to_owned(), mixed(r))] } else { Vec::new() };
    let events = (0..r.below(6).saturating_sub(3)).map(|_| SpanEvent {
        time_unix_nano: start + r.below(20) * MS,
        name: format!("op{}", r.below(3)),
        attributes: some(r, "e"),
        dropped_attributes_count: 0,
    });
    let events = events.collect();
    let links = (0..r.below(6).saturating_sub(4)).map(|_| SpanLink {
        trace_id: vec![r.below(3) as u8; 16],
        span_id: vec![r.below(3) as u8; 8],
        attributes: some(r, "l"),
        ..SpanLink::default()
    });
    let links = links.collect();
    let mut resource = vec![("service.name".to_owned(), AttributeValue::from(format!("s{}", r.below(3))))];
    if r.one_in(2) {
        resource.insert(0, ("m".into(), (r.below(3) as i64 + 10).into()));
    }
    Span {
        trace_id: TraceId([r.below(10) as u8 + 1; 16]),
        span_id: SpanId([id as u8; 8]),
        parent_span_id: (parent > 0).then_some(SpanId([parent as u8; 8])),
        start_unix_nano: start,
        // Some end before they start.
        end_unix_nano: start + r.below(100) * MS - if r.one_in(10) { 5 * MS } else { 0 },
        name: format!("op{}", r.below(3)),
        kind: r.below(6) as i32,
        status_code: r.below(3) as i32,
        status_message: if r.one_in(4) { "v1".into() } else { String::new() },
        attributes,
        events,
        links,
        resource: Arc::new(Resource { attributes: resource, ..Resource::default() }),
        scope: Arc::new(Scope { name: format!("op{}", r.below(2)), attributes: some(r, "i"), ..Scope::default() }),
        ..Span::default()
    }
}

const NUMBERS: [Field; 14] = [
    Field("span.n"),
    Field("span.m"),
    Field(".m"),
    Field(".n"),
    Field("resource.m"),
    Field("event.e"),
    Field("link.l"),
    Field("instrumentation.i"),
    Field(".e"),
    Field(".i"),
    Field("span:childCount"),
    Field("nestedSetLeft"),
    Field("nestedSetRight"),
    Field("nestedSetParent"),
];
const TIMES: [Field; 3] = [Field("duration"), Field("traceDuration"), Field("event:timeSinceStart")];
const TEXTS: [Field; 14] = [
    Field("name"),
    Field("span:name"),
    Field("rootName"),
    Field("rootServiceName"),
    Field("statusMessage"),
    Field("span.k"),
    Field(".k"),
    Field("span.n"),
    Field("resource.service.name"),
    Field(".service.name"),
    Field("event:name"),
    Field("event.e"),
    Field("link.l"),
    Field("instrumentation:name"),
];
const IDS: [Field; 5] = [Field("span:id"), Field("span:parentID"), Field("trace:id"), Field("link:traceID"), Field("link:spanID")];
const TRUTHS: [Field; 3] = [Field("span.flag"), Field("span.n"), Field(".flag")];
const ABSENT: [Field; 8] = [
    Field("span.k"),
    Field("span.n"),
    Field(".m"),
    Field("event.e"),
    Field("link.l"),
    Field("instrumentation.i"),
    Field("span.nowhere"),
    Field("span.flag"),
];
const LABELS: [Field; 9] = [
    Field("name"),
    Field("kind"),
    Field("status"),
    Field("resource.service.name"),
    Field("span.k"),
    Field("span.flag"),
    Field("span.m"),
    Field("rootName"),
    Field("span:childCount"),
];
const ORDERS: [&str; 6] = ["=", "!=", "<", "<=", ">", ">="];

fn number(r: &mut Random) -> E {
    match r.below(5) {
        0 | 1 => E::Field(r.of(&NUMBERS)),
        2 => E::Math(r.of(&['+', '-', '*']), Box::new(E::Field(r.of(&NUMBERS))), Box::new(E::Lit(V::Int(r.below(4) as i64)))),
        3 => E::Math('/', Box::new(E::Field(r.of(&NUMBERS))), Box::new(E::Lit(if r.one_in(2) { V::Int(2) } else { V::Float(1.5) }))),
        // Two numbers of one span, neither of which is ever several.
        _ => E::Math('+', Box::new(E::Field(Field("span.m"))), Box::new(E::Field(Field("resource.m")))),
    }
}

fn leaf(r: &mut Random) -> E {
    let field = |f| Box::new(E::Field(f));
    let literal = |v| Box::new(E::Lit(v));
    match r.below(11) {
        0 | 1 => {
            let bound = if r.one_in(3) { V::Float(r.below(8) as f64 / 2.0) } else { V::Int(r.below(6) as i64) };
            E::Compare(r.of(&ORDERS), Box::new(number(r)), literal(bound))
        }
        2 => E::Compare(r.of(&ORDERS), field(r.of(&TIMES)), literal(V::Nanos((r.below(100) * MS) as i64))),
        3 => {
            let pool = ["op0", "op1", "v1", "v2", "s1", ""];
            E::Compare(r.of(&ORDERS), field(r.of(&TEXTS)), literal(V::Str(r.of(&pool).into())))
        }
        4 => E::Matches(r.one_in(2), r.of(&TEXTS), r.of(&PATTERNS)),
        5 => E::Compare(r.of(&["=", "!="]), field(Field("status")), literal(V::Status(r.below(3) as i32))),
        6 => E::Compare(r.of(&["=", "!="]), field(Field("kind")), literal(V::Kind(r.below(6) as i32))),
        7 => E::Compare(r.of(&["=", "!="]), field(r.of(&ABSENT)), literal(V::Nil)),
        8 => {
            let id = format!("{:02x}", r.below(4)).repeat(if r.one_in(2) { 8 } else { 16 });
            E::Compare(r.of(&["=", "!="]), field(r.of(&IDS)), literal(V::Str(id)))
        }
        9 if r.one_in(2) => E::Field(r.of(&TRUTHS)),
        9 => E::Compare(r.of(&["=", "!="]), field(r.of(&TRUTHS)), literal(V::Bool(r.one_in(2)))),
        // A literal on the left, and two fields.
        _ if r.one_in(2) => E::Compare(r.of(&ORDERS), literal(V::Int(r.below(4) as i64)), field(r.of(&NUMBERS))),
        _ => E::Compare(r.of(&ORDERS), field(Field("span.m")), field(Field("resource.m"))),
    }
}

fn expr(r: &mut Random, depth: u64) -> E {
    match if depth == 0 { 9 } else { r.below(10) } {
        0 | 1 => E::And(Box::new(expr(r, depth - 1)), Box::new(expr(r, depth - 1))),
        2 | 3 => E::Or(Box::new(expr(r, depth - 1)), Box::new(expr(r, depth - 1))),
        4 => E::Not(Box::new(expr(r, depth - 1))),
        _ => leaf(r),
    }
}

fn set(r: &mut Random, depth: u64) -> S {
    const RELATIONS: [&str; 15] = [">", ">>", "<", "<<", "~", "!>", "!>>", "!<", "!<<", "!~", "&>", "&>>", "&<", "&<<", "&~"];
    match if depth == 0 { 9 } else { r.below(10) } {
        0..=3 => S::Relation(r.of(&RELATIONS), Box::new(set(r, depth - 1)), Box::new(set(r, depth - 1))),
        4 => S::And(Box::new(set(r, depth - 1)), Box::new(set(r, depth - 1))),
        5 => S::Or(Box::new(set(r, depth - 1)), Box::new(set(r, depth - 1))),
        6 => S::Filter(None),
        _ => S::Filter(Some(expr(r, 2))),
    }
}

fn pipeline(r: &mut Random) -> Vec<Step> {
    let mut steps = vec![Step::Set(set(r, 2))];
    for _ in 0..r.below(3) {
        steps.push(match r.below(6) {
            0 | 1 => Step::By(r.of(&LABELS)),
            2 => Step::Coalesce,
            3 => Step::Set(set(r, 1)),
            4 => Step::Aggregate("count", None, r.of(&ORDERS), V::Int(r.below(4) as i64)),
            _ => {
                let (of, bound) = match r.one_in(2) {
                    true => (E::Field(Field("duration")), V::Nanos((r.below(80) * MS) as i64 + 7)),
                    false => (number(r), V::Float(r.below(8) as f64 / 2.0 + 0.25)),
                };
                Step::Aggregate(r.of(&["avg", "min", "max", "sum"]), Some(of), r.of(&ORDERS), bound)
            }
        });
    }
    steps
}

type Found = Vec<(TraceId, String)>;

/// Newest first, sets of a trace in any order.
fn wanted(trees: &[Tree<'_>], steps: &[Step]) -> Found {
    let mut out = Vec::new();
    for t in trees {
        let sets = t.run(steps);
        let mut shown: Vec<String> = sets
            .iter()
            .map(|(rows, said)| {
                let spans: Vec<String> = rows.iter().map(|i| shown_span(&t.trace.spans[*i])).collect();
                let groups: Vec<&str> = said.iter().filter(|s| s.contains('=')).map(String::as_str).collect();
                format!("{} {} {}", rows.len(), spans.join(","), groups.join(" "))
            })
            .collect();
        shown.sort();
        if !shown.is_empty() {
            out.push((t.start(), t.trace.trace_id, format!("{} {} {}", t.start(), t.duration(), shown.join(" / "))));
        }
    }
    out.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    out.into_iter().map(|t| (t.1, t.2)).collect()
}

fn shown_span(s: &Span) -> String {
    format!("{:x}@{}+{}:{}", s.span_id.0[0], s.start_unix_nano, s.end_unix_nano.saturating_sub(s.start_unix_nano), s.name)
}

fn found(source: &TraceStore, query: &str) -> Result<Found, String> {
    let parsed = parse(query).map_err(|e| e.to_string())?;
    let Root::Spansets(p) = &parsed.root else { return Err("no pipeline".into()) };
    let o = SearchOptions { spans_per_set: 1000, limit: 1000, max_trace_nano: 4 * 3_600_000 * MS, ..SearchOptions::default() };
    let result = search(source, p, &o).map_err(|e| e.to_string())?;
    let traces = result.traces.into_iter().map(|t| {
        let mut shown: Vec<String> = t
            .sets
            .iter()
            .map(|set| {
                let spans: Vec<String> = set
                    .spans
                    .iter()
                    .map(|s| format!("{:x}@{}+{}:{}", s.span_id as u8, s.start_unix_nano, s.duration_nano, s.name))
                    .collect();
                let groups = set.attributes.iter().filter(|a| a.0.starts_with("by(")).map(|(k, v)| format!("{k}={}", v.text()));
                format!("{} {} {}", set.matched, spans.join(","), groups.collect::<Vec<_>>().join(" "))
            })
            .collect();
        shown.sort();
        (t.trace_id, format!("{} {} {}", t.start_unix_nano, t.duration_nano, shown.join(" / ")))
    });
    Ok(traces.collect())
}

/// Series by labels, a cell for each slot.
type Cells = BTreeMap<String, Vec<Option<f64>>>;

fn metrics(r: &mut Random, trees: &[Tree<'_>], source: &TraceStore) -> Result<(), String> {
    let steps = pipeline(r);
    let name =
        r.of(&["count_over_time", "rate", "min_over_time", "max_over_time", "sum_over_time", "avg_over_time", "histogram_over_time"]);
    let counts = name == "count_over_time" || name == "rate";
    let measured = if counts { None } else { Some(r.of(&[Field("duration"), Field("span.m"), Field("span.n"), Field("resource.m")])) };
    let by: Vec<Field> = (0..r.below(3)).map(|_| r.of(&LABELS)).collect();
    let labels = if by.is_empty() { String::new() } else { format!(" by ({})", by.iter().map(|f| f.0).collect::<Vec<_>>().join(", ")) };
    let query = format!("{} | {name}({}){labels}", text(&steps), measured.map_or("", |f| f.0));
    let step = 600_000 * MS;
    let (from, to) = ((NOW_MS as u64 - r.below(4) * 3_600_000) * MS, (NOW_MS as u64 + 60_000) * MS);
    let first = from / step * step;
    let slots = (to - first).div_ceil(step) as usize;

    let mut samples: BTreeMap<String, Vec<Vec<f64>>> = BTreeMap::new();
    for t in trees {
        let mut rows: Vec<usize> = t.run(&steps).into_iter().flat_map(|s| s.0).collect();
        rows.sort_unstable();
        rows.dedup();
        for i in rows {
            let start = t.trace.spans[i].start_unix_nano;
            if start <= first || start > first + slots as u64 * step {
                continue;
            }
            let v = match measured.map(|f| t.field(i, f)) {
                None => 1.0,
                Some(V::Int(v)) => v as f64,
                Some(V::Float(v)) => v,
                Some(V::Nanos(v)) => v as f64 / 1e9,
                Some(_) => continue,
            };
            let labels: Vec<(&str, V)> = by.iter().map(|f| (f.0, t.field(i, *f))).collect();
            // Labels without a value are left out, but for the first of a series that has none.
            let kept = labels.iter().filter(|l| l.1 != V::Nil);
            let mut key: Vec<String> = kept.map(|(n, v)| format!("{n}={:?}", v.label())).collect();
            if let (true, Some((n, v)), true) = (key.is_empty(), labels.first(), name != "histogram_over_time") {
                key.push(format!("{n}={:?}", v.label()));
            }
            if name == "histogram_over_time" {
                let (whole, unit) = match measured.map(|f| t.field(i, f)) {
                    Some(V::Int(n)) => (n, 1.0),
                    Some(V::Nanos(n)) => (n, 1e9),
                    _ => continue,
                };
                let Some(bound) = (1..63).map(|e| 1i64 << e).find(|b| whole <= *b).filter(|_| whole > 1) else { continue };
                key.push(format!("__bucket={:?}", (bound as f64 / unit).to_string()));
            }
            let cells = samples.entry(key.join(" ")).or_insert_with(|| vec![Vec::new(); slots]);
            cells[((start - first - 1) / step) as usize].push(v);
        }
    }
    let cell = |c: &Vec<f64>| match name {
        "count_over_time" | "histogram_over_time" => Some(c.len() as f64),
        "rate" => Some(c.len() as f64 / 600.0),
        _ if c.is_empty() => None,
        "min_over_time" => Some(c.iter().copied().fold(f64::INFINITY, f64::min)),
        "max_over_time" => Some(c.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
        "sum_over_time" => Some(c.iter().sum()),
        _ => Some(c.iter().sum::<f64>() / c.len() as f64),
    };
    let want: Cells = samples.iter().map(|(k, v)| (k.clone(), v.iter().map(cell).collect())).collect();

    let parsed = parse(&query).map_err(|e| format!("{query}: {e}"))?;
    let mut o = MetricsOptions::new(from, to);
    o.step_nano = step;
    o.max_trace_nano = 4 * 3_600_000 * MS;
    let result = query_range(source, &parsed, &o).map_err(|e| format!("{query}: {e}"))?;
    let got: Cells = result
        .series
        .iter()
        .map(|s| {
            let labels = s.labels.iter().filter(|l| l.0 != "__name__").map(|(k, v)| format!("{k}={:?}", v.text()));
            (labels.collect::<Vec<_>>().join(" "), s.values.iter().map(|v| (!v.is_nan()).then_some(*v)).collect())
        })
        .collect();
    let close = |a: &Option<f64>, b: &Option<f64>| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * (1.0 + a.abs()),
        (a, b) => a == b,
    };
    let same = want.len() == got.len()
        && want.iter().zip(&got).all(|((k, a), (l, b))| k == l && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(a, b)));
    if same { Ok(()) } else { Err(format!("{query}\n    wanted {want:?}\n    got    {got:?}")) }
}

/// Fills a store, with flushes and merges between, and some spans sent again.
fn fill(r: &mut Random) -> Result<(TraceStore, Vec<Trace>), String> {
    let clock = ManualClock::new(NOW_MS);
    let store = store(&clock);
    let mut all: Vec<Span> = Vec::new();
    for _ in 0..50 + r.below(70) {
        let mut batch = vec![span(r)];
        all.push(batch[0].clone());
        if r.one_in(8) {
            batch.push(all[r.below(all.len() as u64) as usize].clone());
        }
        store.append(&batch).and_then(|a| a.ticket.wait()).map_err(|e| e.to_string())?;
        match r.below(25) {
            0 | 1 => store.flush().map_err(|e| e.to_string())?,
            2 => {
                clock.advance(11 * 60_000);
                store.maintain().map_err(|e| e.to_string())?;
            }
            _ => {}
        }
    }
    let mut by_trace: BTreeMap<TraceId, Vec<Span>> = BTreeMap::new();
    all.into_iter().for_each(|s| by_trace.entry(s.trace_id).or_default().push(s));
    Ok((store, by_trace.into_iter().map(|(id, spans)| Trace::new(id, spans)).collect()))
}

fn round(seed: u64) -> Result<(), String> {
    let mut r = Random::new(seed);
    let (store, traces) = fill(&mut r)?;
    let trees: Vec<Tree<'_>> = traces.iter().map(Tree::new).collect();
    for _ in 0..QUERIES_PER_ROUND {
        let steps = pipeline(&mut r);
        let query = text(&steps);
        let (want, got) = (wanted(&trees, &steps), found(&store, &query).map_err(|e| format!("{query}: {e}"))?);
        if want != got {
            let differs = want.iter().zip(&got).find(|(a, b)| a != b);
            return Err(format!("{query}\n    {} traces wanted, {} found; first difference {differs:#?}", want.len(), got.len()));
        }
        metrics(&mut r, &trees, &store)?;
    }
    Ok(())
}

pub fn run(report: &mut Report) {
    for seed in 0..ROUNDS {
        report.check(&format!("random queries, seed {seed}"), round(seed * 104_729 + 1));
    }
}
