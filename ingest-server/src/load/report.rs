//! What a run and a check came to, in words or JSON.

use std::sync::atomic::{AtomicU64, Ordering};

use super::run::Done;
use super::verify::Found;

fn get(c: &AtomicU64) -> u64 {
    c.load(Ordering::Relaxed)
}

/// Of sending.
pub fn sent(d: &Done, json: bool) -> String {
    let t = &d.totals;
    let mut took = t.took_us.lock().clone();
    took.sort_unstable();
    let at = |q: usize| took.get((took.len() * q / 100).min(took.len().saturating_sub(1))).copied().unwrap_or(0) as f64 / 1000.0;
    let took_s = d.took.as_secs_f64();
    if json {
        return serde_json::json!({
            "run": d.ledger.plan.run(), "ticks": d.ledger.ticks.len(),
            "sending_s": d.sending.as_secs_f64(), "took_s": took_s,
            "made_spans": get(&t.made_spans), "made_points": get(&t.made_points), "shed_spans": get(&t.shed_spans), "shed_points": get(&t.shed_points),
            "acknowledged_spans": get(&t.spans), "spans_in_time": d.spans_in_time, "acknowledged_points": get(&t.points),
            "requests": { "acknowledged": get(&t.acknowledged), "refused": get(&t.refused), "unknown": get(&t.unknown) },
            "attempts": get(&t.attempts), "retried_refusals": get(&t.retried_refusals), "unanswered": get(&t.unanswered),
            "rejected_items": get(&t.rejected_items), "p50_ms": at(50), "p99_ms": at(99), "last_word": *t.last_word.lock(),
        })
        .to_string();
    }
    let mut out = format!(
        "run {}: {} exports in {took_s:.1} s\n\
         acknowledged: {} of {} spans, {} of {} data points ({:.0} and {:.0} a second), answered in {:.1} ms (p50), {:.1} ms (p99)\n\
         requests: {} acknowledged, {} refused for good, {} unknown; {} attempts, of which {} were refused for now and {} unanswered",
        d.ledger.plan.run(),
        d.ledger.ticks.len(),
        get(&t.spans),
        get(&t.made_spans),
        get(&t.points),
        get(&t.made_points),
        get(&t.spans) as f64 / took_s,
        get(&t.points) as f64 / took_s,
        at(50),
        at(99),
        get(&t.acknowledged),
        get(&t.refused),
        get(&t.unknown),
        get(&t.attempts),
        get(&t.retried_refusals),
        get(&t.unanswered),
    );
    if get(&t.shed_spans) + get(&t.shed_points) > 0 {
        let (spans, points) = (get(&t.shed_spans), get(&t.shed_points));
        out.push_str(&format!("\nshed by the clients, because their queues were full: {spans} spans, {points} data points"));
    }
    if get(&t.rejected_items) > 0 {
        out.push_str(&format!("\nnot taken out of stored requests: {} items", get(&t.rejected_items)));
    }
    if !t.last_word.lock().is_empty() {
        out.push_str(&format!("\nlast refusal: {}", t.last_word.lock()));
    }
    out
}

/// Of reading back.
pub fn verified(f: &Found, json: bool) -> String {
    if json {
        return serde_json::json!({
            "samples": f.samples, "series": f.series, "spans_counted": f.spans_counted, "spans_compared": f.spans_compared,
            "traces_compared": f.traces_compared, "exemplars": f.exemplars, "exemplars_missing": f.exemplars_missing, "wrong": f.wrong, "wrong_total": f.wrong_total,
        })
        .to_string();
    }
    let mut out = format!(
        "read back: {} samples of {} series, {} spans counted, {} spans of {} traces compared, {} exemplars",
        f.samples, f.series, f.spans_counted, f.spans_compared, f.traces_compared, f.exemplars
    );
    if f.exemplars_missing > 0 {
        out.push_str(&format!("\n{} exemplars of the last exports are not kept any more", f.exemplars_missing));
    }
    for w in &f.wrong {
        out.push_str(&format!("\nWRONG {w}"));
    }
    out
}
