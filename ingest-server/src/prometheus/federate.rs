//! `/federate`: the newest samples of chosen series as a scrape shows them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use axum::extract::{Request, State};
use axum::response::Response;
use strandline_query::promql::write_sample_value;
use strandline_storage::model::{Labels, METRIC_NAME, TimeRange};
use strandline_storage::read::{Newest, SampleBuf, SelectRequest};

use super::answer::{ApiError, Out};
use super::escaping::{Escaping, is_plain};
use super::run::{Manner, run};
use super::{PromState, federate_proto};

/// A series' newest sample.
type Latest = (Labels, Newest);

/// `/federate`, as text or, for those who ask, as protobuf. Native histograms are left out of the text: it has no
/// words for them.
pub async fn federate(State(state): State<PromState>, request: Request) -> Response {
    run(state, request, Manner::HeavyPlain, |call, out| {
        let options = call.query_options()?;
        let sets = call.params.selectors()?;
        let lookback = options.lookback_ms.unwrap_or(call.state.options().engine.options().lookback_ms);
        let now = call.state.options().clock.now_ms();
        let range = TimeRange::new(now.saturating_sub(lookback) + 1, now);
        let source = call.source()?;
        let packed = federate_proto::is_wanted(&call.headers);
        let mut newest: BTreeMap<Labels, Newest> = BTreeMap::new();
        let mut scratch = SampleBuf::default();
        for matchers in sets {
            let s = source.select(&SelectRequest::new(matchers, range))?;
            s.prefetch(0, s.len());
            for i in 0..s.len() {
                if i % 256 == 0 {
                    call.check()?;
                }
                match s.newest(i, range, &mut scratch)? {
                    Some(n) if (packed || n.h.is_none()) && !n.is_stale() => {
                        newest.insert(s.labels(i), n);
                    }
                    _ => {}
                }
            }
        }
        let escaping = Escaping::of(&call.headers);
        let named = newest.into_iter().filter(|(l, _)| !l.metric_name().is_empty());
        let mut list: Vec<Latest> = named.map(|(l, n)| (escaping.labels(l), n)).collect();
        list.sort_by(|a, b| a.0.metric_name().cmp(b.0.metric_name()));
        if packed {
            out.raw(escaping.protobuf(), None);
            return federate_proto::write(out, &list).map_err(ApiError::from);
        }
        out.raw(escaping.text(), None);
        write_page(out, &list).map_err(ApiError::from)
    })
    .await
}

fn quoted(out: &mut Vec<u8>, s: &str) {
    out.push(b'"');
    for b in s.bytes() {
        match b {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'"' => out.extend_from_slice(b"\\\""),
            b'\n' => out.extend_from_slice(b"\\n"),
            b => out.push(b),
        }
    }
    out.push(b'"');
}

fn write_page(out: &mut Out, list: &[Latest]) -> io::Result<()> {
    let mut family: Option<&str> = None;
    for (labels, Newest { t, v, .. }) in list {
        let name = labels.metric_name();
        let plain = is_plain(name, true);
        let b = &mut out.buf;
        if family != Some(name) {
            family = Some(name);
            b.extend_from_slice(b"# TYPE ");
            if plain {
                b.extend_from_slice(name.as_bytes())
            } else {
                quoted(b, name)
            }
            b.extend_from_slice(b" untyped\n");
        }
        if plain {
            b.extend_from_slice(name.as_bytes());
        }
        b.push(b'{');
        let mut first = true;
        if !plain {
            quoted(b, name);
            first = false;
        }
        let mut instance = false;
        for (n, v) in labels.iter().filter(|(n, _)| *n != METRIC_NAME) {
            instance |= n == "instance";
            if !first {
                b.push(b',');
            }
            first = false;
            if is_plain(n, false) {
                b.extend_from_slice(n.as_bytes())
            } else {
                quoted(b, n)
            }
            b.push(b'=');
            quoted(b, v);
        }
        if !instance {
            // Or whoever scrapes this page would put its own there.
            b.extend_from_slice(if first { b"instance=\"\"" } else { b",instance=\"\"" });
        }
        b.extend_from_slice(b"} ");
        write_sample_value(b, *v);
        writeln!(b, " {t}")?;
        out.spill()?;
    }
    Ok(())
}
