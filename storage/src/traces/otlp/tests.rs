use super::*;
use crate::codec::protobuf::{Field, Fields, Writer};
use crate::model::{AttributeValue, Resource, Scope, Span, SpanEvent, SpanId, SpanLink, TraceId};
use proptest::prelude::*;
use std::sync::Arc;

pub(crate) fn rich_span() -> Span {
    let nested = AttributeValue::Map(vec![
        ("a".into(), AttributeValue::Array(vec![1i64.into(), "x".into(), AttributeValue::Empty, AttributeValue::Double(f64::NAN)])),
        ("b".into(), AttributeValue::Map(vec![])),
    ]);
    Span {
        trace_id: TraceId([7; 16]),
        span_id: SpanId([3; 8]),
        parent_span_id: Some(SpanId([2; 8])),
        start_unix_nano: 1_700_000_000_000_000_001,
        end_unix_nano: 1_700_000_000_000_000_000,
        name: "GET /".into(),
        kind: 2,
        status_code: 2,
        status_message: "no".into(),
        trace_state: "a=b".into(),
        flags: 0x301,
        attributes: vec![
            ("".into(), true.into()),
            ("bin".into(), vec![0u8, 255].into()),
            ("nested".into(), nested),
            ("none".into(), AttributeValue::Empty),
            ("num".into(), (-5i64).into()),
            ("zero".into(), 0.0.into()),
        ],
        dropped_attributes_count: 4,
        events: vec![SpanEvent {
            time_unix_nano: 5,
            name: "e".into(),
            attributes: vec![("k".into(), "v".into())],
            dropped_attributes_count: 1,
        }],
        dropped_events_count: 2,
        links: vec![SpanLink {
            trace_id: vec![9; 16],
            span_id: vec![8; 8],
            trace_state: "s".into(),
            attributes: vec![("l".into(), 1i64.into())],
            dropped_attributes_count: 7,
            flags: 1,
        }],
        dropped_links_count: 3,
        resource: Arc::new(Resource {
            attributes: vec![("service.name".into(), "shop".into())],
            dropped_attributes_count: 1,
            schema_url: "https://r".into(),
        }),
        scope: Arc::new(Scope {
            name: "lib".into(),
            version: "1".into(),
            attributes: vec![("x".into(), "y".into())],
            dropped_attributes_count: 1,
            schema_url: "https://s".into(),
        }),
    }
}

fn decode(buf: &[u8]) -> Result<Vec<Span>, WireError> {
    struct State<'a>(Groups<'a>, Vec<Span>);
    let mut state = State(Groups::default(), Vec::new());
    decode_spans(
        buf,
        &mut state,
        |s, g| {
            s.0 = g;
            Ok(())
        },
        |s, raw| {
            let span = raw.owned(Arc::new(s.0.resource.owned()?), Arc::new(s.0.scope.owned()?))?;
            s.1.push(span);
            Ok(())
        },
    )?;
    Ok(state.1)
}

#[test]
fn nothing_is_lost_on_the_way() {
    let a = rich_span();
    let b = Span { span_id: SpanId([4; 8]), parent_span_id: None, resource: Arc::default(), scope: Arc::default(), ..rich_span() };
    let back = decode(&encode_request([&a, &b])).unwrap();
    assert_eq!(back.len(), 2);
    assert!(back.contains(&a) && back.contains(&b));
}

#[test]
fn truncated_requests_fail_and_never_panic() {
    let buf = encode_request([&rich_span()]);
    for n in 0..buf.len() {
        if let Ok(spans) = decode(&buf[..n]) {
            assert!(spans.is_empty() || n == 0, "cut at {n} read as {spans:?}");
        }
    }
    for i in 0..buf.len() {
        let mut b = buf.clone();
        b[i] ^= 0xff;
        let _ = decode(&b);
    }
}

#[test]
fn deep_nesting_is_refused() {
    // Built by hand: the encoder itself recurses over values that were checked on the way in.
    let mut inner = Vec::new();
    for _ in 0..40 {
        let mut w = Writer::default();
        w.message(5, |w| w.bytes_always(1, &inner));
        inner = w.buf;
    }
    assert!(RawValue::read(&inner).unwrap().owned(0).is_err());
    assert!(RawValue::read(&inner).unwrap().check(0).is_err());
}

/// What attributes say, by the general loop alone.
fn by_the_book(span: &[u8]) -> Result<Vec<(Vec<u8>, String)>, WireError> {
    let mut out = Vec::new();
    let mut fields = Fields::new(span);
    while let Some(f) = fields.next()? {
        let (9, Field::Bytes(kv)) = f else { continue };
        let (mut key, mut value) = (Vec::new(), RawValue::Empty);
        let mut inner = Fields::new(kv);
        while let Some(f) = inner.next()? {
            match f {
                (1, Field::Bytes(b)) => key = b.to_vec(),
                (2, Field::Bytes(b)) => {
                    value = RawValue::Empty;
                    let mut fields = Fields::new(b);
                    while let Some(f) = fields.next()? {
                        match f {
                            (1, Field::Bytes(s)) => value = RawValue::Str(s),
                            (3, Field::Varint(i)) => value = RawValue::Int(i as i64),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        out.push((key, format!("{value:?}")));
    }
    Ok(out)
}

proptest! {
    #[test]
    fn the_short_way_reads_what_the_long_one_does(
        fields in prop::collection::vec((0u8..5, prop::collection::vec((0u8..4, prop::collection::vec(any::<u8>(), 0..140), 0u8..3), 0..4)), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut w = Writer::default();
        for (kind, parts) in &fields {
            match kind {
                0 => w.fixed64(7, 5),
                1 => w.bytes_always(5, b"name"),
                _ => w.message(9, |w| for (field, text, n) in parts {
                    match field {
                        0 => w.int(6, 3),
                        1 => w.bytes_always(1, text),
                        _ => w.message(2, |w| {
                            if *n != 1 { w.bytes_always(1, text) }
                            if *n != 0 { w.int_always(3, text.len() as u64) }
                        }),
                    }
                }),
            }
        }
        let whole = w.buf;
        let bytes = cut.map_or(&whole[..], |c| &whole[..c.index(whole.len() + 1)]);
        let quick = RawSpan::read(bytes).and_then(|s| s.attributes().map(|kv| kv.map(|(k, v)| (k.to_vec(), format!("{v:?}")))).collect());
        match (quick, by_the_book(bytes)) {
            (Ok::<Vec<_>, _>(a), Ok(b)) => prop_assert_eq!(a, b),
            (a, b) => prop_assert!(a.is_err() && b.is_err(), "{:?} {:?}", a, b),
        }
    }
}
