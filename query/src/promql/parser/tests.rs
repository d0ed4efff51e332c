use proptest::prelude::*;
use strandline_storage::model::Matcher;

use super::super::ast::*;
use super::{parse, parse_selector};

/// The tree without what printing may change: positions and the order of matchers.
fn bare(text: &str) -> String {
    fn strip(e: &mut Expr) {
        e.span = Span::default();
        match &mut e.kind {
            ExprKind::Vector(v) => sort(v),
            ExprKind::Matrix(m) => {
                m.selector_span = Span::default();
                sort(&mut m.selector);
            }
            ExprKind::Subquery(s) => strip(&mut s.expr),
            ExprKind::Paren(e) | ExprKind::Unary(_, e) => strip(e),
            ExprKind::Binary(b) => {
                strip(&mut b.lhs);
                strip(&mut b.rhs);
            }
            ExprKind::Call(c) => c.args.iter_mut().for_each(strip),
            ExprKind::Aggregate(a) => {
                a.param.iter_mut().for_each(strip);
                strip(&mut a.expr);
            }
            ExprKind::Number(_) | ExprKind::String(_) => {}
        }
    }
    fn sort(v: &mut VectorSelector) {
        v.matchers.sort_by_key(|m: &Matcher| format!("{m:?}"));
    }
    let mut e = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    strip(&mut e);
    // Durations may be written as numbers; their value is what counts.
    format!("{e:?}").replace("duration: true", "duration: _").replace("duration: false", "duration: _")
}

fn round_trip(text: &str) {
    let printed = parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).to_string();
    assert_eq!(bare(text), bare(&printed), "{text} printed as {printed}");
    assert_eq!(parse(&printed).unwrap().to_string(), printed);
}

#[test]
fn errors_point_at_their_cause() {
    for (text, want) in [
        ("", "unknown position: parse error: no expression found in input"),
        ("# just a comment", "1:1: parse error: no expression found in input"),
        ("1 +", "1:4: parse error: unexpected end of input"),
        ("*1", "1:1: parse error: unexpected <op:*>"),
        ("(1", "1:3: parse error: unclosed left parenthesis"),
        ("1)", "1:3: parse error: unexpected right parenthesis ')'"),
        ("foo{", "1:5: parse error: unexpected end of input inside braces"),
        ("foo{a}", "1:6: parse error: unexpected \"}\" in label matching, expected label matching operator"),
        ("foo{a=b}", "1:7: parse error: unexpected identifier \"b\" in label matching, expected string"),
        ("foo{a=~\"(\"}", "1:5: parse error: error parsing regexp: missing closing ): `(`"),
        ("{}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
        ("{x=~\".*\"}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
        ("foo{__name__=\"bar\"}", "1:1: parse error: metric name must not be set twice: \"foo\" or \"bar\""),
        ("foo[5m", "1:7: parse error: unclosed left bracket"),
        ("foo[5m 1]", "1:8: parse error: unexpected number \"1\" in subquery or range, expected \":\" or \"]\""),
        ("foo[0m]", "1:5: parse error: duration must be greater than 0"),
        ("foo[]", "1:5: parse error: unexpected \"]\" in subquery or range selector"),
        ("foo[5m][5m]", "1:8: parse error: ranges only allowed for vector selectors"),
        ("foo offset 5m [1m]", "1:15: parse error: no offset modifiers allowed before range"),
        ("foo @ 5 [1m]", "1:9: parse error: no @ modifiers allowed before range"),
        ("foo offset 1m offset 2m", "1:1: parse error: offset may not be set multiple times"),
        ("1 offset 1m", "1:1: parse error: offset modifier must be preceded by an instant vector selector"),
        ("rate(foo)", "1:6: parse error: expected type range vector in call to function \"rate\", got instant vector"),
        ("rate(foo[5m], 1)", "1:1: parse error: expected 1 argument(s) in call to \"rate\", got 2"),
        ("clamp(foo)", "1:1: parse error: expected 3 argument(s) in call to \"clamp\", got 1"),
        ("label_join(foo)", "1:1: parse error: expected at least 3 argument(s) in call to \"label_join\", got 1"),
        ("round(foo, 1, 2)", "1:1: parse error: expected at most 2 argument(s) in call to \"round\", got 3"),
        ("nope(foo)", "1:1: parse error: unknown function with name \"nope\""),
        ("sum()", "1:1: parse error: no arguments for aggregate expression provided"),
        ("topk(foo)", "1:1: parse error: wrong number of arguments for aggregate expression provided, expected 2, got 1"),
        ("sum(1)", "1:5: parse error: expected type instant vector in aggregation expression, got scalar"),
        ("1 == 1", "1:3: parse error: comparisons between scalars must use BOOL modifier"),
        ("foo + bool bar", "1:5: parse error: bool modifier can only be used on comparison operators"),
        ("foo and 1", "1:1: parse error: set operator \"and\" not allowed in binary scalar expression"),
        ("1 + on(a) foo", "1:1: parse error: vector matching only allowed between instant vectors"),
        ("foo or on(a) group_left bar", "1:1: parse error: no grouping allowed for \"or\" operation"),
        ("foo + on(a) group_left(a) bar", "1:5: parse error: label \"a\" must not occur in ON and GROUP clause at once"),
        ("foo[5m] + 1", "1:1: parse error: binary expression must contain only scalar and instant vector types"),
        ("-\"a\"", "1:1: parse error: unary expression only allowed on expressions of type scalar or instant vector, got \"string\""),
        ("(1)[5m:1m]", "1:1: parse error: subquery is only allowed on instant vector, got scalar instead"),
        ("foo\n  + nope(1)", "2:5: parse error: unknown function with name \"nope\""),
        ("{a:b=\"c\"}", "1:3: parse error: unexpected character inside braces: ':'"),
        ("1d5x", "1:1: parse error: bad number or duration syntax: \"1d5\""),
        ("5mm", "1:1: parse error: bad number or duration syntax: \"5mm\""),
        ("5hs", "1:1: parse error: unknown unit \"hs\" in duration \"5hs\""),
        ("foo[1.5h]", "1:5: parse error: unknown unit \".\" in duration \"1.5h\""),
        ("1.2.3", "1:1: parse error: bad number or duration syntax: \"1.2.\""),
        ("1..2", "1:1: parse error: bad number or duration syntax: \"1..\""),
        ("1__2", "1:1: parse error: bad number or duration syntax: \"1__\""),
        ("1_", "1:1: parse error: bad number or duration syntax: \"1_\""),
        ("1e+", "1:1: parse error: bad number or duration syntax: \"1e+\""),
        ("1e2e3", "1:1: parse error: bad number or duration syntax: \"1e2e\""),
        ("0b1", "1:1: parse error: bad number or duration syntax: \"0\""),
        ("0xg", "1:1: parse error: bad number or duration syntax: \"0x\""),
        ("0x", "1:1: parse error: error parsing number: strconv.ParseFloat: parsing \"0x\": invalid syntax"),
        ("1e999", "1:1: parse error: error parsing number: strconv.ParseFloat: parsing \"1e999\": value out of range"),
        ("NaN{a=\"b\"}", "1:4: parse error: unexpected \"{\""),
        ("\"\\q\"", "1:1: parse error: unknown escape sequence U+0071 'q'"),
        ("'\\\"'", "1:1: parse error: unknown escape sequence U+0022 '\"'"),
        ("foo{a=\"\\xz1\"}", "1:7: parse error: illegal character U+007A 'z' in escape sequence"),
        ("\"\\x4\"", "1:1: parse error: illegal character U+0022 '\"' in escape sequence"),
        ("\"\\ud800\"", "1:1: parse error: escape sequence is an invalid Unicode code point"),
        ("\"\\400\"", "1:1: parse error: escape sequence is an invalid Unicode code point"),
        ("\"a\\", "1:1: parse error: escape sequence not terminated"),
        ("5m1h", "1:1: parse error: not a valid duration string: \"5m1h\""),
        ("\"abc", "1:1: parse error: unterminated quoted string"),
        ("`abc", "1:1: parse error: unterminated raw string"),
        ("foo ! bar", "1:5: parse error: unexpected character after '!': ' '"),
        ("foo =~ \"a\"", "1:5: parse error: unexpected character after '=': '~'"),
        ("foo !~ \"a\"", "1:5: parse error: unexpected character after '!': '~'"),
        ("foo !", "1:5: parse error: unexpected character after '!': '\u{fffd}'"),
        ("foo{!a=\"b\"}", "1:5: parse error: unexpected character after '!' inside braces: 'a'"),
        ("foo{1=\"a\"}", "1:5: parse error: unexpected character inside braces: '1'"),
        ("foo{a>\"b\"}", "1:6: parse error: unexpected character inside braces: '>'"),
        ("foo{a=\"b\" and}", "1:11: parse error: unexpected identifier \"and\" in label matching, expected \",\" or \"}\""),
        ("foo{\"a\" \"b\"}", "1:9: parse error: unexpected string \"\\\"b\\\"\" in label matching, expected \",\" or \"}\""),
        ("foo}", "1:4: parse error: unexpected character: '}'"),
        // The first mistake is told, though the text can't even be cut into words further on.
        ("foo = $", "1:5: parse error: unexpected \"=\""),
        ("sum by (inf) (foo)", "1:9: parse error: unexpected number \"inf\" in grouping opts, expected label"),
        ("a + on (NaN) b", "1:9: parse error: unexpected number \"NaN\" in grouping opts, expected label"),
        ("sum by (without) (foo)", "1:9: parse error: unexpected <without> in grouping opts, expected label"),
        ("sum by (a) foo", "1:12: parse error: unexpected identifier \"foo\" in aggregation"),
        ("sum(rate(foo[5m]) + )", "1:21: parse error: unexpected \")\" in aggregation"),
        ("abs(1 + )", "1:9: parse error: unexpected \")\""),
        ("a + on (b) group_left * c", "1:23: parse error: unexpected <op:*> in grouping opts, expected \"(\""),
        ("a + on (b) group_left on c", "1:23: parse error: unexpected <on> in grouping opts, expected \"(\""),
        ("by (foo)", "1:4: parse error: unexpected \"(\""),
        ("atan2", "1:1: parse error: unexpected <op:atan2>"),
        ("foo offset sum", "1:12: parse error: unexpected <aggr:sum> in offset, expected number, duration, step(), or range()"),
        ("foo @ bar", "1:7: parse error: unexpected identifier \"bar\" in @, expected timestamp"),
        ("foo @ start", "1:12: parse error: unexpected end of input in @, expected timestamp"),
        ("foo @ end(1)", "1:11: parse error: unexpected number \"1\" in @, expected timestamp"),
        ("foo[bar]", "1:5: parse error: unexpected identifier \"bar\" in subquery or range selector, expected number, duration"),
        ("sum by (1) (foo)", "1:9: parse error: unexpected number \"1\" in grouping opts, expected label"),
        ("min(foo,)", "1:8: parse error: trailing commas not allowed in function call args"),
        ("foo offset (1/0)", "1:14: parse error: division by zero"),
        ("foo[5m] smoothed smoothed", "1:1: parse error: smoothed modifier may not be set multiple times"),
        ("foo[5m:1m] anchored", "1:1: parse error: anchored modifier is not supported for subqueries"),
        ("info(foo, bar)", "1:11: parse error: expected label selectors only, got vector selector instead"),
    ] {
        let got = parse(text).map(|e| e.to_string()).map_err(|e| e.to_string());
        match got {
            Err(e) => assert!(e.starts_with(want), "{text}\n  got  {e}\n  want {want}"),
            Ok(e) => panic!("{text} parsed as {e}"),
        }
    }
}

#[test]
fn prints_what_it_parsed() {
    for (text, want) in [
        (
            "SUM BY (job,) (rate(http_requests_total{job=~'a|b',x!=\"y\"}[5m]))",
            "sum by (job) (rate(http_requests_total{job=~\"a|b\",x!=\"y\"}[5m]))",
        ),
        ("sum(foo) by (a)", "sum by (a) (foo)"),
        ("sum without () (foo)", "sum without () (foo)"),
        ("-1 ^ 2 * 3", "-1 ^ 2 * 3"),
        ("foo@ 1.5 offset -5m", "foo @ 1.500 offset -5m"),
        ("foo[5m] offset 1h @ end()", "foo[5m] @ end() offset 1h"),
        ("foo[300]", "foo[5m]"),
        ("foo[1h:]", "foo[1h:]"),
        ("foo[step()+1:2*(3s)]", "foo[step() + 1:2 * (3s)]"),
        ("a / on(x) group_left(y,) b", "a / on (x) group_left (y) b"),
        ("a + fill(0) b", "a + fill (0) b"),
        ("a + fill_left(1) fill_right(-Inf) b", "a + fill_left (1) fill_right (-Inf) b"),
        ("a > bool ignoring(z) b", "a > bool ignoring (z) b"),
        ("{\"my.metric\",\"a.b\"='c'}", "{\"a.b\"=\"c\",__name__=\"my.metric\"}"),
        ("{__name__=~\"a.+\",}", "{__name__=~\"a.+\"}"),
        ("5m", "5m"),
        ("0x1F", "31"),
        ("1_000", "1000"),
        ("+Inf", "+Inf"),
        ("Inf ^ Inf ^ 2", "Inf ^ Inf ^ 2"),
        ("-Inf ^ (Inf + inf)", "-Inf ^ (+Inf + +Inf)"),
        ("\"a\\n\\\"b\\\"\"", "\"a\\n\\\"b\\\"\""),
        ("h </ 2", "h </ 2"),
        ("rate(foo[1m] smoothed)", "rate(foo[1m] smoothed)"),
        ("fill + fill(1) offset", "fill + fill (1) offset"),
        ("start() - end()", "start() - end()"),
    ] {
        assert_eq!(parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).to_string(), want);
        round_trip(text);
    }
}

#[test]
fn words_of_the_language_name_metrics_too() {
    for w in ["sum", "by", "and", "offset", "start", "end", "step", "range", "anchored", "smoothed", "fill_left", "without", "limitk"] {
        assert!(matches!(parse(w).unwrap().kind, ExprKind::Vector(v) if v.name == w), "{w}");
        round_trip(&format!("{w} + {w}{{a=\"b\"}}"));
    }
    for w in ["on", "bool", "ignoring", "group_left"] {
        assert!(parse(w).is_err(), "{w}");
    }
}

#[test]
fn selectors_stand_alone() {
    assert_eq!(parse_selector("{__name__=~\".+\",}").unwrap().matchers.len(), 1);
    assert_eq!(parse_selector("up{job=\"x\"}").unwrap().matchers.len(), 2);
    assert!(parse_selector("rate(up[5m])").is_err());
    assert!(parse_selector("up offset 5m").is_err());
    assert!(parse_selector("{}").is_err());
    assert_eq!(parse_selector("").unwrap_err().to_string(), "unknown position: parse error: unexpected end of input");
    assert_eq!(parse_selector("1").unwrap_err().to_string(), "1:1: parse error: unexpected number \"1\"");
}

#[test]
fn deep_and_long_texts_fail_cleanly() {
    for text in [
        "(".repeat(65_536),
        "-".repeat(65_536),
        "sum(".repeat(20_000),
        format!("foo[{}", "(".repeat(60_000)),
        format!("foo[{}1]", "-".repeat(60_000)),
        "{".repeat(65_536),
        "[".repeat(65_536),
        format!("foo{}", "[1m:1m]".repeat(20_000)),
        "a ^ ".repeat(30_000),
        format!("foo{{a=~\"{}\"}}", "(".repeat(100_000)),
        format!("foo{{a=~\"{}\"}}", "(a{1000}){1000}"),
        "1".repeat(super::MAX_QUERY_BYTES + 1),
    ] {
        assert!(parse(&text).is_err(), "{:.20}", text);
    }
    let chain = |n: usize| vec!["a"; n].join(" or ");
    assert!(parse(&chain(1000)).is_ok());
    assert!(parse(&chain(30_000)).is_err());
}

fn selector() -> impl Strategy<Value = String> {
    (
        "[a-z_:][a-z0-9_:]{0,6}",
        prop::collection::vec(("[a-z_][a-z0-9_]{0,4}", prop::sample::select(vec!["=", "!=", "=~", "!~"]), "[a-z.|*+]{0,5}"), 0..3),
    )
        .prop_filter("a regex must compile", |(_, ms)| {
            ms.iter().all(|(_, op, v)| !op.contains('~') || strandline_storage::model::Regex::anchored(v).is_ok())
        })
        .prop_map(|(n, ms)| {
            let ms: Vec<String> = ms.into_iter().map(|(n, o, v)| format!("{n}{o}\"{v}\"")).collect();
            format!("m{n}{{{}}}", ms.join(","))
        })
}

fn modified() -> impl Strategy<Value = String> {
    (selector(), prop::sample::select(vec!["", " offset 5m", " @ 12.5", " @ start()", " offset -1h", " offset step()"]))
        .prop_map(|(s, m)| s + m)
}

fn vector() -> impl Strategy<Value = String> {
    let leaf = modified();
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (selector(), prop::sample::select(vec!["rate", "sum_over_time", "last_over_time", "changes"]))
                .prop_map(|(s, f)| format!("{f}({s}[5m])")),
            (inner.clone(), prop::sample::select(vec!["rate", "max_over_time"])).prop_map(|(s, f)| format!("{f}(({s})[5m:1m] offset 1m)")),
            (
                inner.clone(),
                prop::sample::select(vec!["sum", "avg", "count"]),
                prop::sample::select(vec!["", " by (a, b)", " without (c)"])
            )
                .prop_map(|(s, f, g)| format!("{f}{g} ({s})")),
            inner.clone().prop_map(|s| format!("topk(3, {s})")),
            inner.clone().prop_map(|s| format!("-({s})")),
            (
                inner.clone(),
                inner.clone(),
                prop::sample::select(vec![
                    "+",
                    "-",
                    "*",
                    "/",
                    "%",
                    "^",
                    "atan2",
                    "==",
                    "> bool",
                    "and",
                    "or",
                    "unless on(a)",
                    "+ on(a, b) group_left(c)",
                    "* ignoring(x) fill(0)"
                ])
            )
                .prop_map(|(l, r, op)| format!("{l} {op} ({r})")),
            (inner.clone(), -1000i32..1000).prop_map(|(l, n)| format!("{l} * {n}")),
            inner.prop_map(|s| format!("label_replace({s}, \"a\", \"$1\", \"b\", \"(.*)\")")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn printing_and_parsing_agree(text in vector()) {
        round_trip(&text);
    }

    #[test]
    fn pretty_text_means_the_same(text in vector()) {
        let e = parse(&text).unwrap();
        prop_assert_eq!(bare(&super::super::printer::pretty(&e)), bare(&text));
    }

    #[test]
    fn no_text_panics(text in "[a-z0-9{}()\\[\\]\"'=~!<>:@+*/^%, .-]{0,60}") {
        let _ = parse(&text);
        let _ = parse_selector(&text);
    }

    /// Where the other parser accepts a text, so does ours, with the same type of result.
    #[test]
    fn accepts_what_promql_parser_accepts(text in vector()) {
        let Ok(theirs) = promql_parser::parser::parse(&text) else { return Ok(()) };
        let ours = parse(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
        prop_assert_eq!(theirs.value_type().to_string(), ours.value_type().as_str());
        // And it reads what we print.
        if let Err(e) = promql_parser::parser::parse(&ours.to_string()) {
            return Err(TestCaseError::fail(format!("{ours}: {e}")));
        }
    }
}
