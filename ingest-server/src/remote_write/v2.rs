//! Remote write 2.0: strings by number.

use strandline_storage::codec::protobuf::{Fields, WireError, varints};
use strandline_storage::metrics::head::{Batch, BatchBuilder, Value};
use strandline_storage::model::{Exemplar, Labels, MetricKind, MetricMetadata};

use super::{Written, v1};

fn text(e: WireError) -> String {
    e.to_string()
}

/// Decodes an `io.prometheus.write.v2.Request`.
pub(super) fn decode(body: &[u8]) -> Result<(Batch, Written), String> {
    let mut symbols: Vec<&str> = Vec::new();
    let mut series: Vec<&[u8]> = Vec::new();
    let mut others = false;
    let mut r = Fields::new(body);
    while let Some((n, f)) = r.next().map_err(text)? {
        match n {
            1 | 3 => others = true,
            4 => symbols.push(f.text().ok_or("a symbol is not UTF-8")?),
            5 => series.push(f.bytes()),
            _ => {}
        }
    }
    if others && series.is_empty() {
        return Err(super::OTHER_VERSION.into());
    }
    if symbols.first().is_some_and(|s| !s.is_empty()) {
        return Err("the first symbol must be the empty string".into());
    }
    let mut out = BatchBuilder::default();
    let mut w = Written::default();
    for ts in series {
        one(ts, &symbols, &mut out, &mut w)?;
    }
    let mut batch = out.finish();
    batch.require_name = true;
    Ok((batch, w))
}

fn pairs<'a>(refs: &[u64], symbols: &[&'a str]) -> Result<Vec<(&'a str, &'a str)>, String> {
    if !refs.len().is_multiple_of(2) {
        return Err("labels_refs has an odd length".into());
    }
    let s = |i: u64| symbols.get(i as usize).copied().ok_or_else(|| format!("symbol {i} is not in the table"));
    let mut out = refs.chunks_exact(2).map(|c| Ok((s(c[0])?, s(c[1])?))).collect::<Result<Vec<_>, String>>()?;
    out.sort_unstable();
    Ok(out)
}

/// Time, start and value.
fn sample(b: &[u8]) -> Result<(i64, i64, f64), String> {
    let (mut v, mut t, mut st) = (0.0, 0, 0);
    let mut r = Fields::new(b);
    while let Some((n, f)) = r.next().map_err(text)? {
        match n {
            1 => v = f.double(),
            2 => t = f.uint() as i64,
            3 => st = f.uint() as i64,
            _ => {}
        }
    }
    Ok((t, st, v))
}

fn exemplar(b: &[u8], symbols: &[&str]) -> Result<Exemplar, String> {
    let (mut refs, mut v, mut t) = (Vec::new(), 0.0, 0);
    let mut r = Fields::new(b);
    while let Some((n, f)) = r.next().map_err(text)? {
        match n {
            1 => varints(f, &mut refs).map_err(text)?,
            2 => v = f.double(),
            3 => t = f.uint() as i64,
            _ => {}
        }
    }
    Ok(Exemplar { labels: Labels::from_pairs(pairs(&refs, symbols)?), v, t })
}

fn one(ts: &[u8], symbols: &[&str], out: &mut BatchBuilder, w: &mut Written) -> Result<(), String> {
    let mut refs = Vec::new();
    let mut meta: &[u8] = &[];
    let mut r = Fields::new(ts);
    while let Some((n, f)) = r.next().map_err(text)? {
        match n {
            1 => varints(f, &mut refs).map_err(text)?,
            5 => meta = f.bytes(),
            _ => {}
        }
    }
    let labels = pairs(&refs, symbols)?;
    let series = out.series_from(labels.iter().copied());
    let mut native = false;
    let mut r = Fields::new(ts);
    while let Some((n, f)) = r.next().map_err(text)? {
        match n {
            2 => {
                let (t, st, v) = sample(f.bytes())?;
                w.samples += 1;
                out.push(series, t, st, Value::Float(v));
            }
            3 => {
                let (t, st, h) = v1::histogram(f.bytes()).map_err(text)?;
                w.histograms += 1;
                native = true;
                out.push(series, t, st, Value::Histogram(h));
            }
            4 => out.exemplar(series, exemplar(f.bytes(), symbols)?),
            _ => {}
        }
    }
    let Some((_, name)) = labels.iter().find(|(n, _)| *n == "__name__") else { return Ok(()) };
    if let Some((kind, m)) = metadata(meta, symbols)? {
        out.metadata(family(name, kind, native).to_owned(), m);
    }
    Ok(())
}

/// `None` if the sender knows nothing.
fn metadata(b: &[u8], symbols: &[&str]) -> Result<Option<(MetricKind, MetricMetadata)>, String> {
    let mut m = MetricMetadata::default();
    let s = |i: u64| symbols.get(i as usize).map(|s| s.to_string()).unwrap_or_default();
    let mut r = Fields::new(b);
    while let Some((n, f)) = r.next().map_err(|e| e.to_string())? {
        match n {
            1 => m.kind = v1::kind(f.uint()),
            3 => m.help = s(f.uint()),
            4 => m.unit = s(f.uint()),
            _ => {}
        }
    }
    Ok((m != MetricMetadata::default()).then_some((m.kind, m)))
}

/// Metadata comes with series and is looked up by family: the series of a classic histogram and of a summary belong to one.
fn family(name: &str, kind: MetricKind, native: bool) -> &str {
    let parts: &[&str] = match kind {
        MetricKind::Histogram if !native => &["_bucket", "_count", "_sum"],
        MetricKind::GaugeHistogram if !native => &["_bucket", "_gcount", "_gsum", "_count", "_sum"],
        MetricKind::Summary => &["_count", "_sum"],
        _ => &[],
    };
    parts.iter().find_map(|part| name.strip_suffix(part)).filter(|family| !family.is_empty()).unwrap_or(name)
}
