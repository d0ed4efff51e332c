//! Both versions.
#![allow(clippy::unwrap_used)]

use strandline_storage::codec::protobuf::Writer;
use strandline_storage::model::MetricKind;

use super::*;

/// A series of 2.0: its name, what kind of metric its metadata says it is, and whether its sample is a histogram.
fn v2(series: &[(&str, MetricKind, bool)]) -> Bytes {
    let mut w = Writer::default();
    let mut symbols = vec!["", "__name__", "help"];
    symbols.extend(series.iter().map(|s| s.0));
    symbols.iter().for_each(|s| w.bytes_always(4, s.as_bytes()));
    for (i, (_, kind, native)) in series.iter().enumerate() {
        w.message(5, |w| {
            w.packed(1, &[1, 3 + i as u64]);
            w.message(if *native { 3 } else { 2 }, |w| w.int(if *native { 15 } else { 2 }, 1000));
            w.message(5, |w| {
                w.int(1, (0..8).find(|n| v1::kind(*n) == *kind).unwrap());
                w.int(3, if *kind == MetricKind::Unknown { 0 } else { 2 });
            });
        });
    }
    w.buf.into()
}

#[test]
fn metadata_of_series_becomes_that_of_their_family() {
    use MetricKind::*;
    let series = [
        ("a_bucket", Histogram, false),
        ("a_sum", Histogram, false),
        ("b_count", Histogram, true),
        ("c_sum", Summary, false),
        ("c", Summary, false),
        ("d_gcount", GaugeHistogram, false),
        ("e_count", Counter, false),
        ("f_bucket", Gauge, false),
        ("_count", Summary, false),
        ("g", Unknown, false),
    ];
    let batch = decode(v2(&series), true).unwrap();
    let got: Vec<(&str, MetricKind)> = batch.metadata.iter().map(|(family, m)| (family.as_str(), m.kind)).collect();
    let want = [("a", Histogram), ("a", Histogram), ("b_count", Histogram), ("c", Summary), ("c", Summary), ("d", GaugeHistogram)];
    assert_eq!(got[..6], want);
    // Of one without a word nothing is known.
    assert_eq!(got[6..], [("e_count", Counter), ("f_bucket", Gauge), ("_count", Summary)]);
}

#[test]
fn a_message_of_the_other_version_is_no_empty_request() {
    let two = v2(&[("a", MetricKind::Gauge, false)]);
    assert_eq!(decode(two, false).unwrap_err(), OTHER_VERSION);
    let mut w = Writer::default();
    w.message(1, |w| {
        w.message(1, |w| {
            w.bytes(1, b"__name__");
            w.bytes(2, b"a");
        });
        w.message(2, |w| w.int(2, 1000));
    });
    let one: Bytes = w.buf.into();
    assert_eq!(decode(one.clone(), true).unwrap_err(), OTHER_VERSION);
    assert_eq!(decode(one, false).unwrap().items.len(), 1);
    for v2 in [false, true] {
        assert!(decode(Bytes::new(), v2).unwrap().items.is_empty(), "a request may be empty");
    }
}
