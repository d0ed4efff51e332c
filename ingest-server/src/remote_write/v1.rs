//! Remote write 1.0. Labels are not decoded: their bytes are how the head finds the series.

use std::sync::Arc;

use bytes::Bytes;
use strandline_storage::codec::protobuf::{Field, Fields, WireError, fixed64s, varints};
use strandline_storage::codec::{put_uvarint, unzigzag};
use strandline_storage::metrics::head::{AnyHistogram, Batch, Item, SeriesKey, Value};
use strandline_storage::model::{BucketSpan, CounterReset, Exemplar, FloatHistogram, Histogram, Labels, MetricKind, MetricMetadata};

use super::Written;

/// Decodes a `prometheus.WriteRequest`.
pub(super) fn decode(body: Bytes) -> Result<(Batch, Written), String> {
    // A series is seldom shorter: what is reserved stays a fraction of the body.
    let likely = body.len() / 160;
    let mut batch = Batch { require_name: true, series: Vec::with_capacity(likely), items: Vec::with_capacity(likely), ..Batch::default() };
    let mut written = Written::default();
    let base = body.as_ptr() as usize;
    // Rarely, labels do not lie together; they are then gathered here, behind the body.
    let mut gathered: Vec<u8> = Vec::new();
    let mut others = false;
    let done = (|| -> Result<(), WireError> {
        let mut r = Fields::new(&body);
        while let Some((n, f)) = r.next()? {
            match n {
                1 => series(f.bytes(), base, body.len(), &mut gathered, &mut batch, &mut written)?,
                3 => metadata(f.bytes(), &mut batch)?,
                4 | 5 => others = true,
                _ => {}
            }
        }
        Ok(())
    })();
    done.map_err(|e| e.to_string())?;
    if others && batch.series.is_empty() && batch.metadata.is_empty() {
        return Err(super::OTHER_VERSION.into());
    }
    batch.raw = if gathered.is_empty() {
        body
    } else {
        let mut all = body.to_vec();
        all.extend_from_slice(&gathered);
        all.into()
    };
    Ok((batch, written))
}

fn series(ts: &[u8], base: usize, body_len: usize, gathered: &mut Vec<u8>, batch: &mut Batch, w: &mut Written) -> Result<(), WireError> {
    let index = batch.series.len() as u32;
    let labels_end = leading_labels(ts);
    // What is not a message at all is empty and lies nowhere in the body.
    let (mut start, mut len) = if ts.is_empty() { (0, 0) } else { (ts.as_ptr() as usize - base, labels_end) };
    let mut r = Fields::new(&ts[labels_end..]);
    let mut scattered: Vec<u8> = Vec::new();
    while let Some((n, f)) = r.next()? {
        match n {
            1 => {
                scattered.push(0x0a);
                put_uvarint(&mut scattered, f.bytes().len() as u64);
                scattered.extend_from_slice(f.bytes());
            }
            2 => {
                let (t, v) = sample(f.bytes())?;
                w.samples += 1;
                batch.items.push(Item { series: index, t, st: 0, value: Value::Float(v) });
            }
            3 => {
                let e = exemplar(f.bytes())?;
                batch.exemplars.push((index, e));
            }
            4 => {
                let (t, st, h) = histogram(f.bytes())?;
                w.histograms += 1;
                batch.items.push(Item { series: index, t, st, value: Value::Histogram(h) });
            }
            _ => {}
        }
    }
    if !scattered.is_empty() {
        let at = gathered.len();
        gathered.extend_from_slice(&ts[..labels_end]);
        gathered.extend_from_slice(&scattered);
        (start, len) = (body_len + at, gathered.len() - at);
    }
    batch.series.push(SeriesKey::Raw { start: start as u32, len: len as u32 });
    Ok(())
}

/// Time and value; fields may be absent or in any order, but mostly they lie as encoders write them.
#[inline]
fn sample(b: &[u8]) -> Result<(i64, f64), WireError> {
    if let Some((&[0x09, v0, v1, v2, v3, v4, v5, v6, v7, 0x10], rest)) = b.split_first_chunk::<10>()
        && rest.len() <= 9
        && let Some((last, more)) = rest.split_last()
        && *last < 0x80
        && more.iter().all(|x| *x >= 0x80)
    {
        let t = rest.iter().rev().fold(0u64, |t, x| t << 7 | (x & 0x7f) as u64);
        return Ok((t as i64, f64::from_le_bytes([v0, v1, v2, v3, v4, v5, v6, v7])));
    }
    let (mut v, mut t) = (0.0, 0);
    let mut s = Fields::new(b);
    while let Some((n, f)) = s.next()? {
        match n {
            1 => v = f.double(),
            2 => t = f.uint() as i64,
            _ => {}
        }
    }
    Ok((t, v))
}

/// How far the labels reach that lie at the start of a series.
fn leading_labels(ts: &[u8]) -> usize {
    let mut at = 0;
    while ts.get(at) == Some(&0x0a) {
        let (mut n, mut shift, mut i) = (0usize, 0, at + 1);
        loop {
            let Some(b) = ts.get(i) else { return at };
            i += 1;
            n |= ((b & 0x7f) as usize) << shift;
            shift += 7;
            if *b < 0x80 || shift > 28 {
                break;
            }
        }
        match i.checked_add(n) {
            Some(end) if end <= ts.len() => at = end,
            _ => return at,
        }
    }
    at
}

fn exemplar(b: &[u8]) -> Result<Exemplar, WireError> {
    let mut pairs = Vec::new();
    let (mut v, mut t) = (0.0, 0);
    let mut r = Fields::new(b);
    while let Some((n, f)) = r.next()? {
        match n {
            1 => {
                let (mut name, mut value) = ("", "");
                let mut l = Fields::new(f.bytes());
                while let Some((n, f)) = l.next()? {
                    match n {
                        1 => name = f.text().unwrap_or(""),
                        2 => value = f.text().unwrap_or(""),
                        _ => {}
                    }
                }
                pairs.push((name, value));
            }
            2 => v = f.double(),
            3 => t = f.uint() as i64,
            _ => {}
        }
    }
    Ok(Exemplar { labels: Labels::from_pairs(pairs), v, t })
}

fn spans(f: Field<'_>, out: &mut Vec<BucketSpan>) -> Result<(), WireError> {
    let mut s = BucketSpan::default();
    let mut r = Fields::new(f.bytes());
    while let Some((n, f)) = r.next()? {
        match n {
            1 => s.offset = f.sint() as i32,
            2 => s.length = f.uint() as u32,
            _ => {}
        }
    }
    out.push(s);
    Ok(())
}

/// A histogram of either version; gives its time and start timestamp too.
pub(super) fn histogram(b: &[u8]) -> Result<(i64, i64, AnyHistogram), WireError> {
    let mut h = FloatHistogram::default();
    // Which of the two it is the count alone says: senders write it even if it is 0, as in a staleness marker.
    let (mut t, mut st, mut float) = (0, 0, false);
    let (mut count, mut zero) = (0u64, 0u64);
    let mut deltas: [Vec<u64>; 2] = Default::default();
    let mut floats: [Vec<u64>; 2] = Default::default();
    let mut custom = Vec::new();
    let mut r = Fields::new(b);
    while let Some((n, f)) = r.next()? {
        match n {
            1 => (count, float) = (f.uint(), false),
            2 => (h.count, float) = (f.double(), true),
            3 => h.sum = f.double(),
            4 => h.schema = f.sint() as i32,
            5 => h.zero_threshold = f.double(),
            6 => zero = f.uint(),
            7 => h.zero_count = f.double(),
            8 => spans(f, &mut h.negative_spans)?,
            9 => varints(f, &mut deltas[1])?,
            10 => fixed64s(f, &mut floats[1])?,
            11 => spans(f, &mut h.positive_spans)?,
            12 => varints(f, &mut deltas[0])?,
            13 => fixed64s(f, &mut floats[0])?,
            14 => {
                h.counter_reset = match f.uint() {
                    1 => CounterReset::Reset,
                    2 => CounterReset::NotReset,
                    3 => CounterReset::Gauge,
                    _ => CounterReset::Unknown,
                }
            }
            15 => t = f.uint() as i64,
            16 => fixed64s(f, &mut custom)?,
            17 => st = f.uint() as i64,
            _ => {}
        }
    }
    h.custom_values = custom.into_iter().map(f64::from_bits).collect();
    let [positive, negative] = floats.map(|v| v.into_iter().map(f64::from_bits).collect::<Vec<f64>>());
    if float {
        (h.positive_buckets, h.negative_buckets) = (positive, negative);
        h.reduce_resolution();
        return Ok((t, st, AnyHistogram::Float(Arc::new(h))));
    }
    let [positive, negative] = deltas.map(|v| v.into_iter().map(unzigzag).collect::<Vec<i64>>());
    let mut h = Histogram {
        schema: h.schema,
        counter_reset: h.counter_reset,
        zero_threshold: h.zero_threshold,
        zero_count: zero,
        count,
        sum: h.sum,
        positive_spans: h.positive_spans,
        negative_spans: h.negative_spans,
        positive_buckets: positive,
        negative_buckets: negative,
        custom_values: h.custom_values,
    };
    h.reduce_resolution();
    Ok((t, st, AnyHistogram::Int(Arc::new(h))))
}

pub(super) fn kind(n: u64) -> MetricKind {
    use MetricKind::*;
    [Unknown, Counter, Gauge, Histogram, GaugeHistogram, Summary, Info, StateSet].get(n as usize).copied().unwrap_or(Unknown)
}

fn metadata(b: &[u8], batch: &mut Batch) -> Result<(), WireError> {
    let (mut family, mut m) = (String::new(), MetricMetadata::default());
    let mut r = Fields::new(b);
    while let Some((n, f)) = r.next()? {
        let text = || f.text().unwrap_or("").to_owned();
        match n {
            1 => m.kind = kind(f.uint()),
            2 => family = text(),
            4 => m.help = text(),
            5 => m.unit = text(),
            _ => {}
        }
    }
    if !family.is_empty() {
        batch.metadata.push((family, m));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finer_histograms_than_are_stored_are_made_coarser() {
        let mut w = strandline_storage::codec::protobuf::Writer::default();
        w.int(1, 3);
        w.sint(4, 9);
        w.message(11, |w| {
            w.sint(1, 1);
            w.int(2, 2);
        });
        w.packed(12, &[2, 2]);
        w.int(15, 7);
        let (t, _, h) = histogram(&w.buf).unwrap();
        let AnyHistogram::Int(h) = h else { panic!("{h:?}") };
        assert_eq!((t, h.schema, &h.positive_spans, &h.positive_buckets), (7, 8, &vec![BucketSpan { offset: 1, length: 1 }], &vec![3]));
    }

    #[test]
    fn a_histogram_of_floats_is_one_even_if_it_is_empty() {
        let mut empty = vec![0x11];
        empty.extend(0f64.to_le_bytes());
        assert!(matches!(histogram(&empty).unwrap().2, AnyHistogram::Float(_)));
        assert!(matches!(histogram(&[0x08, 0]).unwrap().2, AnyHistogram::Int(_)));
        assert!(matches!(histogram(&[]).unwrap().2, AnyHistogram::Int(_)));
    }

    #[test]
    fn samples_decode_whatever_the_order_of_fields() {
        for t in [0i64, 1, 127, 128, 1_795_517_400_000, i64::MAX, -1, i64::MIN] {
            for v in [0.0f64, -1.5, f64::INFINITY, 0.1] {
                let value = [&[0x09][..], &v.to_le_bytes()].concat();
                let mut time = vec![0x10];
                let mut n = t as u64;
                while n >= 0x80 {
                    time.push(n as u8 | 0x80);
                    n >>= 7;
                }
                time.push(n as u8);
                for b in [[&value[..], &time].concat(), [&time[..], &value].concat()] {
                    assert_eq!(sample(&b).unwrap(), (t, v), "{b:?}");
                }
                assert_eq!(sample(&value).unwrap(), (0, v));
                assert_eq!(sample(&time).unwrap(), (t, 0.0));
                assert!(sample(&[&value[..], &time[..1]].concat()).is_err());
            }
        }
    }
}
