//! What queries select: the spans of each trace of the fixture, by name. Sets of a trace are parted by a slash.

use strandline_query::traceql::{MatchedSet, MetricsOptions, Root, SearchOptions, parse, query_range, search};
use strandline_storage::read::SpanSource;

use super::Report;
use super::fixture::{Memory, Unscanned, traces};

/// A query and what it selects, newest trace first: `B:g,h A:a/b` is spans g and h of B, and of A two sets.
const CASES: &[(&str, &str)] = &[
    // Filters on intrinsics.
    ("{}", "D:m,k,l C:j B:g,h,i A:a,b,c,d,e,f"),
    ("{ true }", "D:m,k,l C:j B:g,h,i A:a,b,c,d,e,f"),
    ("{ false }", ""),
    ("{ !true }", ""),
    ("{ name = \"a\" }", "A:a"),
    ("{ span:name = \"a\" }", "A:a"),
    ("{ \"a\" = name }", "A:a"),
    ("{ name != \"a\" }", "D:m,k,l C:j B:g,h,i A:b,c,d,e,f"),
    ("{ name < \"c\" }", "A:a,b"),
    ("{ name >= \"l\" }", "D:m,l"),
    ("{ name =~ \"a|b\" }", "A:a,b"),
    ("{ name !~ \"[a-j]\" }", "D:m,k,l"),
    ("{ name =~ \"\" }", ""),
    ("{ status = error }", "B:g A:e"),
    ("{ status = ok }", "A:a"),
    ("{ status != unset }", "B:g A:a,e"),
    ("{ span:status = error }", "B:g A:e"),
    ("{ statusMessage = \"timeout\" }", "A:e"),
    ("{ statusMessage =~ \"time.*\" }", "A:e"),
    ("{ span:statusMessage != \"\" }", "A:e"),
    ("{ kind = server }", "B:g A:a,c"),
    ("{ kind = client }", "A:b,d,e"),
    ("{ kind = internal }", "D:k,l B:h,i A:f"),
    ("{ kind = producer }", "D:m"),
    ("{ kind = consumer }", "C:j"),
    ("{ span:kind != server && kind != client && kind != internal }", "D:m C:j"),
    ("{ duration > 90ms }", "B:g,h,i A:a"),
    ("{ duration >= 100ms }", "B:g,h,i A:a"),
    ("{ duration < 10ms }", "D:k,l"),
    ("{ duration <= 10ms }", "D:k,l A:f"),
    ("{ duration = 60ms }", "A:b"),
    ("{ duration = 60000000 }", "A:b"),
    ("{ span:duration > 0.4s }", "B:g"),
    ("{ duration > 50ms * 2 }", "B:g,i"),
    ("{ duration / 2 >= 250ms }", "B:g"),
    ("{ duration + 1ms = 61ms }", "A:b"),
    ("{ -duration < -400ms }", "B:g"),
    ("{ span:id = \"0101010101010101\" }", "A:a"),
    ("{ span:parentID = \"0101010101010101\" }", "A:b,f"),
    ("{ span:id != \"0101010101010101\" }", "D:m,k,l C:j B:g,h,i A:b,c,d,e,f"),
    ("{ span:id = \"101010101010101\" }", ""),
    ("{ span:id != \"no id\" && name = \"a\" }", "A:a"),
    ("{ span:parentID != \"0101010101010101\" }", "D:k,l C:j B:h,i A:c,d,e"),
    ("{ span:parentID != \"\" }", "D:k,l C:j B:h,i A:b,c,d,e,f"),
    ("{ span:parentID = \"\" }", ""),
    ("{ span:parentID = \"0000000000000000\" }", ""),
    ("{ span:parentID =~ \"01.*\" }", "A:b,f"),
    ("{ span:childCount = 2 }", "B:g A:a,c"),
    ("{ span:childCount > 0 && kind = client }", "A:b"),
    ("{ trace:id = \"02020202020202020202020202020202\" }", "B:g,h,i"),
    ("{ trace:id = \"2020202020202020202020202020202\" }", "B:g,h,i"),
    ("{ \"0002020202020202020202020202020202\" = trace:id && name = \"g\" }", "B:g"),
    ("{ trace:duration > 90ms }", "B:g,h,i A:a,b,c,d,e,f"),
    ("{ traceDuration = 500ms && name = \"i\" }", "B:i"),
    ("{ traceDuration < 35ms }", "C:j"),
    ("{ rootName = \"a\" && kind = client }", "A:b,d,e"),
    ("{ trace:rootName = \"g\" }", "B:g,h,i"),
    ("{ rootServiceName = \"web\" && name > \"f\" }", "B:g,h,i"),
    ("{ trace:rootService =~ \"lo.p\" }", "D:m,k,l"),
    ("{ rootName != \"a\" }", "D:m,k,l B:g,h,i"),
    ("{ nestedSetParent < 0 }", "D:m B:g A:a"),
    ("{ nestedSetParent = -1 }", "D:m B:g A:a"),
    ("{ nestedSetLeft = 0 }", "D:k,l C:j"),
    ("{ nestedSetRight = nestedSetLeft + 1 }", "D:m B:h,i A:d,e,f"),
    ("{ nestedSetLeft > nestedSetParent && nestedSetParent > 1 }", "A:c,d,e"),
    // Attributes of spans.
    ("{ span.http.status = 200 }", "A:a,b"),
    ("{ span.http.status != 200 }", "B:g"),
    ("{ span.http.status >= 200 }", "B:g A:a,b"),
    ("{ span.http.status > 200.5 }", "B:g"),
    ("{ span.http.status < 500 }", "A:a,b"),
    ("{ span.http.status = \"500\" }", "B:h"),
    ("{ span.http.status = 500 || span.http.status = \"500\" }", "B:g,h"),
    ("{ .http.status = 500.0 }", "B:g"),
    ("{ span.path =~ \"/.*\" }", "B:g A:a"),
    ("{ span.path !~ \"/c.*\" }", "B:g"),
    ("{ span.path > \"/cart\" }", "B:g"),
    ("{ span.path = \"/cart\" && span.http.status = 200 }", "A:a"),
    ("{ span.path = \"/cart\" || span.rows > 5 }", "A:a,d"),
    ("{ span.cached }", "A:f"),
    ("{ !span.cached }", "A:a"),
    ("{ span.cached = true }", "A:f"),
    ("{ span.cached = false }", "A:a"),
    ("{ span.cached != false }", "A:f"),
    ("{ span.\"a b\" = \"odd\" }", "A:f"),
    ("{ span.missing = 1 }", ""),
    ("{ span.missing != 1 }", ""),
    ("{ span.missing =~ \".*\" }", ""),
    ("{ span.missing !~ \"x\" }", ""),
    ("{ span.missing }", ""),
    ("{ !span.missing }", ""),
    ("{ span.cached = nil && kind = client }", "A:b,d,e"),
    ("{ span.cached != nil }", "A:a,f"),
    ("{ nil != span.cached }", "A:a,f"),
    ("{ span.blob != nil }", "A:c"),
    ("{ span.blob = \"x\" }", ""),
    ("{ nil = nil && name = \"a\" }", ""),
    ("{ nil != nil || name = \"a\" }", "A:a"),
    ("{ span.missing || name = \"a\" }", ""),
    ("{ name = \"a\" || span.missing }", "A:a"),
    ("{ span.cached || name = \"b\" }", "A:f"),
    ("{ name = \"b\" || span.cached }", "A:b,f"),
    ("{ span.n || name = \"g\" }", ""),
    ("{ span.cached || name = \"a\" }", "A:a,f"),
    ("{ !(span.missing || true) && name = \"a\" }", "A:a"),
    // What stands behind a guard fails for those alone that pass it.
    ("{ span.rows != 0 && 100 / span.rows = 10 }", "A:d"),
    ("{ span.rows != 0 && span.rows / span.rows = 1 }", "A:d"),
    ("{ span.rows > 0 && (name = \"x\" || 100 / span.rows = 10) }", "A:d"),
    ("{ span.rows = 0 || 100 / span.rows = 10 }", "A:d,e"),
    ("{ span.rows > 0 } | avg(100 / span.rows) = 10", "A:d"),
    ("{ span.rows > 0 } | by(100 / span.rows) | count() = 1", "A:d"),
    ("{ span.rows > 0 } | { 100 / span.rows = 10 } > {} || { 100 / span.rows = 10 }", "A:d"),
    ("{ duration / span.rows > 1 }", "A:d,e"),
    ("{ -span.n }", ""),
    ("{ span.n + span.rows }", ""),
    ("{ span.n = 3 }", "B:g,h"),
    ("{ span.n > 3 }", "B:i"),
    ("{ span.n = 4.5 }", "B:i"),
    ("{ span.n < 0 }", "C:j"),
    ("{ -span.n = 1 }", "C:j"),
    ("{ span.n + 1 = 4 }", "B:g,h"),
    ("{ span.n * 2 = 9 }", "B:i"),
    ("{ span.n / 2 = 1 }", "B:g,h"),
    ("{ span.n / 2.0 = 1.5 }", "B:g,h"),
    ("{ span.n % 2 = 1 }", "B:g,h"),
    ("{ span.n ^ 2 = 9 }", "B:g,h"),
    ("{ 2 ^ span.n = 8 }", "B:g,h"),
    ("{ 10 - span.n = 7 }", "B:g,h"),
    ("{ span.rows - span.ratio > 7 }", "A:d"),
    ("{ span.rows > span.ratio }", "A:d"),
    ("{ span.ratio < 1 }", "A:e"),
    ("{ 2 ^ 3 ^ 2 = 512 && name = \"a\" }", "A:a"),
    ("{ 1 + 2 * 3 = 7 && name = \"a\" }", "A:a"),
    ("{ true || false && false && name = \"a\" }", ""),
    ("{ span.http.status - 100 > span.rows }", ""),
    // Arrays.
    ("{ span.items = 1 }", "A:c"),
    ("{ span.items = 3 }", ""),
    ("{ span.items != 3 }", "A:c"),
    ("{ span.items != 2 }", ""),
    ("{ span.items > 1 }", "A:c"),
    ("{ span.tags =~ \"[xz]\" }", "A:c"),
    ("{ span.tags !~ \"z\" }", "A:c"),
    ("{ span.tags !~ \"x\" }", ""),
    ("{ span.tags = 1 }", ""),
    // Other scopes, and none.
    ("{ resource.service.name = \"shop\" }", "B:h,i A:c,d,e"),
    ("{ resource.service.name != \"shop\" }", "D:m,k,l C:j B:g A:a,b,f"),
    ("{ resource.service.name =~ \"s.*|cron\" && duration < 40ms }", "C:j A:d,e"),
    ("{ .service.name = \"cron\" }", "C:j"),
    ("{ resource.version = 2 }", "B:h,i A:c,d,e"),
    ("{ .version = 7 }", "A:b"),
    ("{ .version = 1 }", "B:g A:a,f"),
    ("{ span.version = 1 }", ""),
    ("{ event.type = \"Timeout\" }", "A:e"),
    ("{ event.retry > 1 }", "A:e"),
    ("{ event:name = \"exception\" }", "A:e"),
    ("{ event:name = \"log\" }", "A:e"),
    ("{ event:name != \"log\" }", ""),
    ("{ event:name != \"other\" }", "A:e"),
    ("{ event:timeSinceStart < 6ms }", "A:e"),
    ("{ event:timeSinceStart > 10ms }", ""),
    ("{ .type = \"Timeout\" }", "A:e"),
    ("{ link.why = \"cause\" }", "A:f"),
    ("{ link:spanID = \"0707070707070707\" }", "A:f"),
    ("{ link:traceID =~ \"0202.*\" }", "A:f"),
    ("{ instrumentation:name = \"lib-cron\" }", "C:j"),
    ("{ instrumentation:version = \"1.0\" && name = \"a\" }", "A:a"),
    ("{ instrumentation.lang = \"rust\" && name = \"a\" }", "A:a"),
    ("{ .lang = \"rust\" && name = \"a\" }", "A:a"),
    // Sets of spans.
    ("{ name = \"a\" } && { name = \"b\" }", "A:a,b"),
    ("{ name = \"a\" } && { name = \"g\" }", ""),
    ("{ name = \"a\" } || { name = \"g\" }", "B:g A:a"),
    ("{ name = \"a\" } && { name = \"b\" } || { name = \"j\" }", "C:j A:a,b"),
    ("{ name = \"j\" } || { name = \"a\" } && { name = \"b\" }", "A:a,b"),
    ("({ name = \"j\" }) || ({ name = \"a\" } && { name = \"b\" })", "C:j A:a,b"),
    ("{ status = error } && { kind = server }", "B:g A:a,c,e"),
    // Structure.
    ("{ name = \"a\" } > { }", "A:b,f"),
    ("{ name = \"a\" } >> { }", "A:b,c,d,e,f"),
    ("{ name = \"c\" } > { kind = client }", "A:d,e"),
    ("{ kind = client } > { kind = server }", "A:c"),
    ("{ kind = server } >> { kind = client }", "A:b,d,e"),
    ("{ } >> { } >> { name = \"d\" }", "A:d"),
    ("{ name = \"d\" } < { }", "A:c"),
    ("{ name = \"d\" } << { }", "A:a,b,c"),
    ("{ name = \"d\" } << { kind = server }", "A:a,c"),
    ("{ name = \"d\" } ~ { }", "A:e"),
    ("{ } ~ { name = \"d\" }", "A:d"),
    ("{ name = \"a\" } ~ { }", ""),
    ("{ kind = client } ~ { kind = client }", "A:d,e"),
    ("{ name = \"h\" } ~ { name = \"h\" }", ""),
    ("{ name = \"a\" } !> { kind = client }", "A:d,e"),
    ("{ name = \"c\" } !>> { kind = client }", "A:b"),
    ("{ name = \"d\" } !< { kind = server }", "B:g A:a"),
    ("{ name = \"d\" } !<< { kind = server }", "B:g"),
    ("{ name = \"d\" } !~ { kind = client }", "A:b,d"),
    ("{ name = \"nobody\" } !> { name = \"k\" }", "D:k"),
    ("{ name = \"a\" } &> { kind = client }", "A:a,b"),
    ("{ name = \"a\" } &>> { kind = client }", "A:a,b,d,e"),
    ("{ } &>> { status = error }", "A:a,b,c,e"),
    ("{ name = \"d\" } &< { }", "A:c,d"),
    ("{ name = \"d\" } &<< { kind = server }", "A:a,c,d"),
    ("{ name = \"d\" } &~ { }", "A:d,e"),
    ("{ name = \"k\" } > { }", ""),
    ("{ name = \"k\" } >> { name = \"l\" }", ""),
    ("{ name = \"l\" } << { }", ""),
    ("{ name = \"m\" } >> { }", ""),
    ("{ status = error } >> { }", "B:h,i"),
    ("{ nestedSetParent < 0 } > { status = unset } > { kind = server }", "A:c"),
    ("({ name = \"a\" } > { kind = client }) >> { status = error }", "A:e"),
    // Pipelines.
    ("{ kind = client } | { status = error }", "A:e"),
    ("{} | count() > 3", "A:a,b,c,d,e,f"),
    ("{} | count() = 3", "D:m,k,l B:g,h,i"),
    ("{ kind = client } | count() >= 3", "A:b,d,e"),
    ("{} | avg(duration) > 200ms", "B:g,h,i"),
    ("{} | max(duration) < 35ms", "C:j"),
    ("{} | min(duration) = 5ms", "D:m,k,l"),
    ("{} | sum(duration) = 30ms", "C:j"),
    ("{} | sum(span.n) = 10.5", "B:g,h,i"),
    ("{} | max(span.rows) = 10", "A:a,b,c,d,e,f"),
    ("{} | min(span.rows) < 1", "A:a,b,c,d,e,f"),
    ("{} | avg(span.missing) >= 0", ""),
    ("{} | avg(span.n * 2) > 6", "B:g,h,i"),
    ("count() = 1", "C:j"),
    ("{} | count() > 3 | { status = error }", "A:e"),
    ("{} | by(resource.service.name)", "D:m,k,l C:j B:h,i/g A:c,d,e/a,b,f"),
    ("{} | by(resource.service.name) | count() > 2", "D:m,k,l A:c,d,e/a,b,f"),
    ("{ kind != internal } | by(status) | count() = 1", "D:m C:j B:g A:e/a"),
    ("{ span.n != nil } | by(span.n)", "C:j B:g,h/i"),
    ("{ name < \"d\" } | by(span.blob)", "A:a,b,c"),
    ("{} | by(name) | { name = \"a\" || name = \"b\" }", "A:a/b"),
    ("{} | by(resource.service.name) | count() > 2 | coalesce()", "D:m,k,l A:a,b,c,d,e,f"),
    ("by(kind) | max(duration) >= 500ms", "B:g"),
    ("{} | by(1 + span.version)", "D:m,k,l C:j B:g,h,i A:b/a,c,d,e,f"),
    ("{} | by(resource.service.name) | ({ kind = server } > { kind = client })", "A:d,e/b"),
    ("{ name = \"a\" } | select(span.path)", "A:a"),
    ("({ kind = client } | count() > 2) && ({ status = ok })", "A:a,b,d,e"),
    ("({ kind = client } | count() > 5) || ({ status = ok })", "A:a"),
    ("({} | count() > 3 | { kind = client }) < ({ kind = server })", "A:a,c"),
];

fn letter(trace: u8) -> char {
    char::from(b'A' + trace - 1)
}

fn select(source: &dyn SpanSource, query: &str, options: &SearchOptions) -> Result<String, String> {
    let q = parse(query).map_err(|e| e.to_string())?;
    let Root::Spansets(p) = &q.root else { return Err("not a search".into()) };
    let found = search(source, p, options).map_err(|e| e.to_string())?;
    let names = |s: &MatchedSet| s.spans.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(",");
    let traces =
        found.traces.iter().map(|t| format!("{}:{}", letter(t.trace_id.0[0]), t.sets.iter().map(names).collect::<Vec<_>>().join("/")));
    Ok(traces.collect::<Vec<_>>().join(" "))
}

fn same(got: Result<String, String>, want: &str) -> Result<(), String> {
    match got {
        Ok(g) if g == want => Ok(()),
        Ok(g) => Err(format!("wanted {want:?}\n    got    {g:?}")),
        Err(e) => Err(e),
    }
}

pub fn run(report: &mut Report) {
    let source = Memory(traces());
    let all = SearchOptions { spans_per_set: 100, ..SearchOptions::default() };
    for (query, want) in CASES {
        report.check(query, same(select(&source, query, &all), want));
    }
    report.check("at least 150 cases", if CASES.len() >= 150 { Ok(()) } else { Err(CASES.len().to_string()) });
    named(report);
    // The newest come first, and the limit keeps them.
    report.check("limit", same(select(&source, "{}", &SearchOptions { limit: 2, ..all.clone() }), "D:m,k,l C:j"));
    report.check("spans per set", same(select(&source, "{}", &SearchOptions { spans_per_set: 1, limit: 1, ..all.clone() }), "D:m"));
    let minute = 60_000_000_000;
    let range = |from: u64, to: u64| SearchOptions {
        start_nano: super::fixture::T0 + from * minute + 1,
        end_nano: super::fixture::T0 + to * minute,
        ..all.clone()
    };
    report.check("range", same(select(&source, "{}", &range(1, 3)), "C:j B:g,h,i"));
    details(&source, report);
}

/// Traces that a query names are read by their ids, and no others.
fn named(report: &mut Report) {
    let source = Unscanned(Memory(traces()));
    let id = |n: &str| n.repeat(16);
    let options = SearchOptions { spans_per_set: 100, ..SearchOptions::default() };
    for (query, want) in [
        (format!("{{ trace:id = \"{}\" && status = error }}", id("01")), "A:e"),
        (format!("{{ trace:id = \"{}\" || trace:id = \"{}\" }} | count() < 4", id("01"), id("02")), "B:g,h,i"),
        (format!("{{ kind = server }} >> {{ trace:id = \"{}\" && kind = client }}", id("01")), "A:b,d,e"),
        (format!("{{ trace:id = \"{}\" }}", id("09")), ""),
    ] {
        report.check(&query, same(select(&source, &query, &options), want));
        let counts = |q: &str| {
            let q = parse(&format!("{q} | count_over_time()")).map_err(|e| e.to_string())?;
            let r = query_range(&source, &q, &MetricsOptions::new(super::fixture::T0, super::fixture::T0 + 600_000_000_000));
            Ok(r.map_err(|e| e.to_string())?.series.iter().flat_map(|s| &s.values).fold(0.0, |sum, v| sum + v).to_string())
        };
        let spans = want.split([',', ' ']).filter(|s| !s.is_empty()).count();
        report.check(&format!("{query}, counted"), same(counts(&query), &spans.to_string()));
    }
    let late = SearchOptions { start_nano: super::fixture::T0 + 60_000_000_000, ..options };
    report.check("named, of another time", same(select(&source, &format!("{{ trace:id = \"{}\" }}", id("01")), &late), ""));
}

/// What results show beside the spans.
fn details(source: &Memory, report: &mut Report) {
    let q = parse("{ status = error && span.db.system = \"pg\" } | select(resource.service.name, span.rows)").expect("valid");
    let Root::Spansets(p) = &q.root else { return };
    let found = search(source, p, &SearchOptions::default()).expect("found");
    let t = &found.traces[0];
    let attributes: Vec<String> = t.sets[0].spans[0].attributes.iter().map(|(k, v)| format!("{k}={}", v.text())).collect();
    let got =
        format!("{} {} {} {} {:?} {}", t.root_name, t.root_service, t.duration_nano, t.sets[0].matched, t.services, attributes.join(" "));
    let want = "a web 100000000 1 {\"shop\": (3, 1), \"web\": (3, 0)} db.system=pg rows=0 service.name=shop status=error";
    report.check("details of a result", same(Ok(got), want));
    let q = parse("{} | by(resource.service.name) | avg(duration) > 1h || 1 = 2").is_err();
    report.check("no || between stages", if q { Ok(()) } else { Err("it parsed".into()) });
    let q = parse("{ kind = client } | by(resource.service.name) | count() > 1").expect("valid");
    let Root::Spansets(p) = &q.root else { return };
    let found = search(source, p, &SearchOptions::default()).expect("found");
    let shown: Vec<String> = found.traces[0].sets[0].attributes.iter().map(|(k, v)| format!("{k}={}", v.text())).collect();
    report.check("names of what grouping says", same(Ok(shown.join(" ")), "by(resource.service.name)=shop count()=2"));
    let e = parse("{ .a = 1 }\n | by(.x) | sum(1) > 2").expect_err("invalid");
    report.check("errors carry line and column", same(Ok(format!("{}:{}", e.line, e.col)), "2:13"));
    // Long queries are refused before their trees are too deep for a stack.
    let chains = [
        format!("{{ {}true }}", "true || ".repeat(10_000)),
        format!("{}{{}}", "{} && ".repeat(20_000)),
        format!("{}{{}}", "{} >> ".repeat(20_000)),
        format!("{{}} | rate(){}", " | topk(1)".repeat(10_000)),
        format!("{{}} | rate(){}", " > 1".repeat(20_000)),
        format!("{{ .a = {}1 }}", "-".repeat(20_000)),
        format!("{{ {}true }}", "!".repeat(20_000)),
        format!("{}{{}}{}", "(".repeat(20_000), ")".repeat(20_000)),
        format!("{{}} | count() > {}1", "1 + ".repeat(20_000)),
    ];
    for q in chains {
        let refused = parse(&q).err().map(|e| e.to_string()).unwrap_or_default();
        let told = refused.contains("operators") || refused.contains("too deep");
        report.check(&q[..20], if told { Ok(()) } else { Err(format!("not refused: {refused}")) });
    }
    let wide = format!("{{ {}name = \"a\" }}", "name = \"a\" || ".repeat(120));
    report.check("a hundred alternatives", same(select(source, &wide, &SearchOptions::default()), "A:a"));
    report.check("-minInt", same(select(source, "{ -minInt = minInt && name = \"a\" }", &SearchOptions::default()), "A:a"));
    for q in ["{ span.rows / span.rows = 1 }", "{ span.rows != 10 && 1 / span.rows = 1 }", "{ span.rows < 5 } | sum(1 / span.rows) > 0"] {
        let zero = select(source, q, &SearchOptions::default());
        report.check(
            q,
            match zero {
                Err(e) if e.contains("division by zero") => Ok(()),
                other => Err(format!("{other:?}")),
            },
        );
    }
}
