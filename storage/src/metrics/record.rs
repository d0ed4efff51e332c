//! Metric records of the WAL; `docs/format/metric-wal.md` draws them.
//!
//! A record is a run of sections, each a tag and its columns. A section of samples keeps references, times and values
//! in columns of their own, which the log's lz4 likes, and writes integers and short decimals as varints.

use std::sync::Arc;

use crate::codec::{Reader, put_uvarint, put_varint, unzigzag, zigzag};
use crate::error::{Error, Result};
use crate::index::RawPair;
use crate::model::{BucketSpan, CounterReset, Exemplar, FloatHistogram, Histogram, Labels, MetricKind, MetricMetadata};

const SERIES: u8 = 1;
const FLOATS: u8 = 2;
const FLOATS_WITH_STARTS: u8 = 3;
const DELTAS: u8 = 4;
const HISTOGRAMS: u8 = 5;
const FLOAT_HISTOGRAMS: u8 = 6;
const EXEMPLARS: u8 = 7;
const METADATA: u8 = 8;
const DELTA_STATE: u8 = 9;
const DELTA_HISTOGRAM: u8 = 10;
const DELTA_HISTOGRAM_STATE: u8 = 11;

/// A float or delta sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloatRecord {
    pub id: u64,
    pub t: i64,
    pub st: i64,
    pub v: f64,
}

/// A histogram of either type.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyHistogram {
    /// Integer counts.
    Int(Arc<Histogram>),
    /// Float counts.
    Float(Arc<FloatHistogram>),
}

/// What replay gets, in the order written.
#[derive(Debug)]
pub enum Entry<'a> {
    /// Sorted by name and UTF-8.
    Series {
        id: u64,
        labels: &'a [RawPair<'a>],
    },
    Floats(&'a [FloatRecord]),
    Deltas(&'a [FloatRecord]),
    Histogram {
        id: u64,
        t: i64,
        st: i64,
        h: AnyHistogram,
    },
    Exemplar {
        id: u64,
        exemplar: Exemplar,
    },
    Metadata {
        family: String,
        metadata: MetricMetadata,
    },
    DeltaState {
        id: u64,
        last_t: i64,
        sum: f64,
    },
    DeltaHistogram {
        id: u64,
        t: i64,
        h: Arc<Histogram>,
    },
    DeltaHistogramState {
        id: u64,
        last_t: i64,
        h: Histogram,
    },
}

/// Builds one record.
#[derive(Debug, Default)]
pub struct RecordWriter {
    pub out: Vec<u8>,
}

impl RecordWriter {
    pub fn clear(&mut self) {
        self.out.clear();
    }
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }
    pub fn series(&mut self, id: u64, labels: &Labels) {
        self.series_packed(id, labels.as_bytes());
    }
    /// As [`RecordWriter::series`], from the bytes of [`Labels::as_bytes`].
    pub fn series_packed(&mut self, id: u64, labels: &[u8]) {
        self.out.push(SERIES);
        put_uvarint(&mut self.out, id);
        self.bytes(labels);
    }
    fn bytes(&mut self, b: &[u8]) {
        put_uvarint(&mut self.out, b.len() as u64);
        self.out.extend_from_slice(b);
    }
    pub fn floats(&mut self, items: &[FloatRecord]) {
        let starts = items.iter().any(|i| i.st != 0);
        self.columns(if starts { FLOATS_WITH_STARTS } else { FLOATS }, items, starts);
    }
    pub fn deltas(&mut self, items: &[FloatRecord]) {
        self.columns(DELTAS, items, true);
    }
    fn columns(&mut self, tag: u8, items: &[FloatRecord], starts: bool) {
        if items.is_empty() {
            return;
        }
        let out = &mut self.out;
        out.reserve(items.len() * 8);
        out.push(tag);
        put_uvarint(out, items.len() as u64);
        let mut id = 0u64;
        for i in items {
            put_varint(out, i.id.wrapping_sub(id) as i64);
            id = i.id;
        }
        let mut t = 0i64;
        for i in items {
            put_varint(out, i.t.wrapping_sub(t));
            t = i.t;
        }
        for i in items {
            put_value(out, i.v);
        }
        if starts {
            for i in items {
                put_varint(out, if i.st == 0 { 0 } else { i.t.wrapping_sub(i.st).wrapping_add(1) });
            }
        }
    }
    pub fn histogram(&mut self, id: u64, t: i64, st: i64, h: &AnyHistogram) {
        self.out.push(if matches!(h, AnyHistogram::Int(_)) { HISTOGRAMS } else { FLOAT_HISTOGRAMS });
        put_uvarint(&mut self.out, id);
        put_varint(&mut self.out, t);
        put_varint(&mut self.out, st);
        match h {
            AnyHistogram::Int(h) => put_int_histogram(&mut self.out, h),
            AnyHistogram::Float(h) => put_float_histogram(&mut self.out, h),
        }
    }
    pub fn exemplar(&mut self, id: u64, e: &Exemplar) {
        self.out.push(EXEMPLARS);
        put_uvarint(&mut self.out, id);
        put_varint(&mut self.out, e.t);
        self.out.extend_from_slice(&e.v.to_le_bytes());
        self.bytes(e.labels.as_bytes());
    }
    pub fn metadata(&mut self, family: &str, m: &MetricMetadata) {
        self.out.push(METADATA);
        self.bytes(family.as_bytes());
        self.out.push(m.kind as u8);
        self.bytes(m.help.as_bytes());
        self.bytes(m.unit.as_bytes());
    }
    pub fn delta_state(&mut self, id: u64, last_t: i64, sum: f64) {
        self.out.push(DELTA_STATE);
        put_uvarint(&mut self.out, id);
        put_varint(&mut self.out, last_t);
        self.out.extend_from_slice(&sum.to_le_bytes());
    }
    pub fn delta_histogram(&mut self, id: u64, t: i64, h: &Histogram) {
        self.timed_histogram(DELTA_HISTOGRAM, id, t, h);
    }
    pub fn delta_histogram_state(&mut self, id: u64, last_t: i64, h: &Histogram) {
        self.timed_histogram(DELTA_HISTOGRAM_STATE, id, last_t, h);
    }
    fn timed_histogram(&mut self, tag: u8, id: u64, t: i64, h: &Histogram) {
        self.out.push(tag);
        put_uvarint(&mut self.out, id);
        put_varint(&mut self.out, t);
        put_int_histogram(&mut self.out, h);
    }
}

/// The low two bits tell the kind: 0 integer, 1 hundredths, 2 raw float behind, 3 ten-thousandths.
fn put_value(out: &mut Vec<u8>, v: f64) {
    const EXACT: f64 = (1u64 << 50) as f64;
    if v.abs() < EXACT {
        for (kind, scale) in [(0, 1.0), (1, 100.0), (3, 10_000.0)] {
            let scaled = v * scale;
            // Rounded without a call; where that differs from `round` the check fails for both.
            let i = (scaled + 0.5f64.copysign(scaled)) as i64;
            if scaled.abs() < EXACT && (i as f64 / scale).to_bits() == v.to_bits() {
                return put_uvarint(out, zigzag(i) << 2 | kind);
            }
        }
    }
    out.push(2);
    out.extend_from_slice(&v.to_le_bytes());
}

fn value(r: &mut Reader<'_>) -> Result<f64> {
    let x = r.uvarint()?;
    let i = unzigzag(x >> 2) as f64;
    Ok(match x & 3 {
        0 => i,
        1 => i / 100.0,
        3 => i / 10_000.0,
        _ => r.le_f64()?,
    })
}

fn put_head(out: &mut Vec<u8>, schema: i32, reset: CounterReset, zero_threshold: f64, sum: f64, spans: [&[BucketSpan]; 2], custom: &[f64]) {
    put_varint(out, schema as i64);
    out.push(reset as u8);
    out.extend_from_slice(&zero_threshold.to_le_bytes());
    out.extend_from_slice(&sum.to_le_bytes());
    for s in spans {
        put_uvarint(out, s.len() as u64);
        for s in s {
            put_varint(out, s.offset as i64);
            put_uvarint(out, s.length as u64);
        }
    }
    put_uvarint(out, custom.len() as u64);
    custom.iter().for_each(|c| out.extend_from_slice(&c.to_le_bytes()));
}

fn put_int_histogram(out: &mut Vec<u8>, h: &Histogram) {
    put_head(out, h.schema, h.counter_reset, h.zero_threshold, h.sum, [&h.positive_spans, &h.negative_spans], &h.custom_values);
    put_uvarint(out, h.zero_count);
    put_uvarint(out, h.count);
    for b in [&h.positive_buckets, &h.negative_buckets] {
        put_uvarint(out, b.len() as u64);
        b.iter().for_each(|d| put_varint(out, *d));
    }
}

fn put_float_histogram(out: &mut Vec<u8>, h: &FloatHistogram) {
    put_head(out, h.schema, h.counter_reset, h.zero_threshold, h.sum, [&h.positive_spans, &h.negative_spans], &h.custom_values);
    out.extend_from_slice(&h.zero_count.to_le_bytes());
    out.extend_from_slice(&h.count.to_le_bytes());
    for b in [&h.positive_buckets, &h.negative_buckets] {
        put_uvarint(out, b.len() as u64);
        b.iter().for_each(|d| out.extend_from_slice(&d.to_le_bytes()));
    }
}

fn reset(b: u8) -> Result<CounterReset> {
    Ok(match b {
        0 => CounterReset::Unknown,
        1 => CounterReset::Reset,
        2 => CounterReset::NotReset,
        3 => CounterReset::Gauge,
        _ => return Err(Error::corrupt(format!("counter reset hint {b} is unknown"))),
    })
}

/// A count of items of at least `min_bytes` each, so that no count can ask for more memory than the record has bytes.
fn count(r: &mut Reader<'_>, min_bytes: usize) -> Result<usize> {
    let n = r.uvarint()?;
    let most = r.remaining() / min_bytes.max(1);
    usize::try_from(n).ok().filter(|n| *n <= most).ok_or_else(|| Error::corrupt(format!("{n} items do not fit in the record")))
}

fn spans(r: &mut Reader<'_>) -> Result<Vec<BucketSpan>> {
    list(r, 2, |r| Ok(BucketSpan { offset: r.varint()? as i32, length: r.uvarint()? as u32 }))
}

/// What [`put_head`] wrote, in a histogram without counts.
fn head(r: &mut Reader<'_>) -> Result<FloatHistogram> {
    let mut h = FloatHistogram { schema: r.varint()? as i32, counter_reset: reset(r.u8()?)?, ..FloatHistogram::default() };
    h.zero_threshold = r.le_f64()?;
    h.sum = r.le_f64()?;
    h.positive_spans = spans(r)?;
    h.negative_spans = spans(r)?;
    h.custom_values = list(r, 8, Reader::le_f64)?.into();
    Ok(h)
}

fn list<'a, T>(r: &mut Reader<'a>, min_bytes: usize, mut one: impl FnMut(&mut Reader<'a>) -> Result<T>) -> Result<Vec<T>> {
    (0..count(r, min_bytes)?).map(|_| one(r)).collect()
}

fn int_histogram(r: &mut Reader<'_>) -> Result<Histogram> {
    let h = head(r)?;
    Ok(Histogram {
        schema: h.schema,
        counter_reset: h.counter_reset,
        zero_threshold: h.zero_threshold,
        sum: h.sum,
        positive_spans: h.positive_spans,
        negative_spans: h.negative_spans,
        custom_values: h.custom_values,
        zero_count: r.uvarint()?,
        count: r.uvarint()?,
        positive_buckets: list(r, 1, Reader::varint)?,
        negative_buckets: list(r, 1, Reader::varint)?,
    })
}

fn float_histogram(r: &mut Reader<'_>) -> Result<FloatHistogram> {
    let mut h = head(r)?;
    h.zero_count = r.le_f64()?;
    h.count = r.le_f64()?;
    h.positive_buckets = list(r, 8, Reader::le_f64)?;
    h.negative_buckets = list(r, 8, Reader::le_f64)?;
    Ok(h)
}

/// Packed labels out of a record into `pairs`, checked: the packed form is trusted nowhere else.
fn labels<'a>(r: &mut Reader<'a>, pairs: &mut Vec<RawPair<'a>>) -> Result<()> {
    let packed = r.prefixed()?;
    let ascii = packed.is_ascii();
    let mut inner = Reader::new(packed);
    pairs.clear();
    let text = |r: &mut Reader<'a>| if ascii { r.prefixed() } else { r.string().map(str::as_bytes) };
    while !inner.is_empty() {
        pairs.push((text(&mut inner)?, text(&mut inner)?));
    }
    if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(Error::corrupt("labels of a series are not sorted by name"));
    }
    Ok(())
}

/// Few are kept as labels of their own: those of exemplars.
fn owned(pairs: &[RawPair<'_>]) -> Labels {
    Labels::from_pairs(pairs.iter().map(|(n, v)| (String::from_utf8_lossy(n), String::from_utf8_lossy(v))))
}

fn floats(r: &mut Reader<'_>, starts: bool, out: &mut Vec<FloatRecord>) -> Result<()> {
    let n = count(r, 3)?;
    out.clear();
    out.reserve(n);
    let mut id = 0u64;
    for _ in 0..n {
        id = id.wrapping_add(r.varint()? as u64);
        out.push(FloatRecord { id, t: 0, st: 0, v: 0.0 });
    }
    let mut t = 0i64;
    for o in out.iter_mut() {
        t = t.wrapping_add(r.varint()?);
        o.t = t;
    }
    for o in out.iter_mut() {
        o.v = value(r)?;
    }
    if starts {
        for o in out.iter_mut() {
            let d = r.varint()?;
            o.st = if d == 0 { 0 } else { o.t.wrapping_sub(d.wrapping_sub(1)) };
        }
    }
    Ok(())
}

/// Reads a record; `scratch` is reused from record to record.
pub fn decode(record: &[u8], scratch: &mut Vec<FloatRecord>, f: &mut dyn FnMut(Entry<'_>)) -> Result<()> {
    let mut r = Reader::new(record);
    let mut pairs: Vec<RawPair<'_>> = Vec::new();
    while !r.is_empty() {
        match r.u8()? {
            SERIES => {
                let id = r.uvarint()?;
                // Ids are counted up from one: no store comes near, and what follows the last must be a number still.
                if id > i64::MAX as u64 {
                    return Err(Error::corrupt(format!("a log record has the series id {id}")));
                }
                labels(&mut r, &mut pairs)?;
                f(Entry::Series { id, labels: &pairs });
            }
            tag @ (FLOATS | FLOATS_WITH_STARTS) => {
                floats(&mut r, tag == FLOATS_WITH_STARTS, scratch)?;
                f(Entry::Floats(scratch));
            }
            DELTAS => {
                floats(&mut r, true, scratch)?;
                f(Entry::Deltas(scratch));
            }
            tag @ (HISTOGRAMS | FLOAT_HISTOGRAMS) => {
                let (id, t, st) = (r.uvarint()?, r.varint()?, r.varint()?);
                let h = if tag == HISTOGRAMS {
                    AnyHistogram::Int(Arc::new(int_histogram(&mut r)?))
                } else {
                    AnyHistogram::Float(Arc::new(float_histogram(&mut r)?))
                };
                f(Entry::Histogram { id, t, st, h });
            }
            EXEMPLARS => {
                let (id, t, v) = (r.uvarint()?, r.varint()?, r.le_f64()?);
                labels(&mut r, &mut pairs)?;
                f(Entry::Exemplar { id, exemplar: Exemplar { labels: owned(&pairs), v, t } });
            }
            METADATA => {
                let family = r.string()?.to_owned();
                let kind = kind(r.u8()?);
                let metadata = MetricMetadata { kind, help: r.string()?.to_owned(), unit: r.string()?.to_owned() };
                f(Entry::Metadata { family, metadata });
            }
            tag @ (DELTA_HISTOGRAM | DELTA_HISTOGRAM_STATE) => {
                let (id, t, h) = (r.uvarint()?, r.varint()?, int_histogram(&mut r)?);
                f(match tag {
                    DELTA_HISTOGRAM => Entry::DeltaHistogram { id, t, h: Arc::new(h) },
                    _ => Entry::DeltaHistogramState { id, last_t: t, h },
                });
            }
            DELTA_STATE => {
                let (id, last_t, sum) = (r.uvarint()?, r.varint()?, r.le_f64()?);
                f(Entry::DeltaState { id, last_t, sum });
            }
            tag => return Err(Error::corrupt(format!("section {tag} of a record is unknown")).offset(r.position() as u64)),
        }
    }
    Ok(())
}

fn kind(b: u8) -> MetricKind {
    use MetricKind::*;
    [Unknown, Counter, Gauge, Histogram, GaugeHistogram, Summary, Info, StateSet].get(b as usize).copied().unwrap_or(Unknown)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn floats_round_trip(items in prop::collection::vec((any::<u64>(), any::<i64>(), any::<i32>(), any::<u64>(), any::<i32>()), 1..50)) {
            let items: Vec<FloatRecord> = items.into_iter().map(|(id, t, st, bits, i)| {
                let v = match i % 4 { 0 => i as f64, 1 => i as f64 / 100.0, 2 => i as f64 / 10_000.0, _ => f64::from_bits(bits) };
                FloatRecord { id, t, st: st as i64, v }
            }).collect();
            let mut w = RecordWriter::default();
            w.floats(&items);
            w.deltas(&items);
            let mut n = 0;
            decode(&w.out, &mut Vec::new(), &mut |e| match e {
                Entry::Floats(f) | Entry::Deltas(f) => {
                    n += 1;
                    assert_eq!(f.len(), items.len());
                    for (a, b) in f.iter().zip(&items) {
                        assert_eq!((a.id, a.t, a.st, a.v.to_bits()), (b.id, b.t, b.st, b.v.to_bits()));
                    }
                }
                other => panic!("{other:?}"),
            }).unwrap();
            prop_assert_eq!(n, 2);
        }

        #[test]
        fn no_bytes_make_decode_panic(data in prop::collection::vec(any::<u8>(), 0..300), tag in 1u8..10) {
            let mut data = data;
            data.insert(0, tag);
            let _ = decode(&data, &mut Vec::new(), &mut |_| {});
        }
    }

    #[test]
    fn negative_zero_and_nan_payloads_survive() {
        for v in [-0.0, f64::NAN, crate::model::stale_nan(), f64::INFINITY, 1e300, 0.1, 12.34, -5.0, 4503599627370497.0] {
            let mut out = Vec::new();
            put_value(&mut out, v);
            assert_eq!(value(&mut Reader::new(&out)).unwrap().to_bits(), v.to_bits());
        }
    }

    #[test]
    fn short_decimals_are_short() {
        for (v, len) in
            [(0.0, 1), (-15.0, 1), (16.0, 2), (12.34, 2), (-0.29, 2), (0.0001, 1), (1.15, 2), (33.3333, 4), (1e14, 8), (0.1 + 0.2, 9)]
        {
            let mut out = Vec::new();
            put_value(&mut out, v);
            assert_eq!(out.len(), len, "{v}");
        }
    }
}
