//! and, or, unless.

use super::super::ast::{BinaryOp, Matching};
use super::super::error::Result;
use super::super::eval::context::Steps;
use super::super::eval::series::{ABSENT, Series, merge_same_labels};
use super::matching::Signatures;

pub(super) fn set_operator(op: BinaryOp, m: &Matching, lhs: Vec<Series>, rhs: Vec<Series>, steps: Steps) -> Result<Vec<Series>> {
    let mut sigs = Signatures::new(m);
    let left: Vec<usize> = lhs.iter().map(|s| sigs.of(&s.labels)).collect();
    let right: Vec<usize> = rhs.iter().map(|s| sigs.of(&s.labels)).collect();
    // At which steps each signature is present on the side that decides.
    let deciding = if op == BinaryOp::Or { (&lhs, &left) } else { (&rhs, &right) };
    let mut present = vec![Vec::new(); sigs.len()];
    for (s, sig) in deciding.0.iter().zip(deciding.1) {
        let p: &mut Vec<bool> = &mut present[*sig];
        p.resize(steps.n, false);
        (0..steps.n).for_each(|i| p[i] |= s.has(i));
    }
    let keep = |rows: Vec<Series>, sig: &[usize], want: bool| -> Vec<Series> {
        rows.into_iter()
            .zip(sig)
            .filter_map(|(mut s, sig)| {
                let p = &present[*sig];
                if p.is_empty() {
                    return (!want).then_some(s);
                }
                let mut any = false;
                for (i, there) in p.iter().enumerate().take(steps.n) {
                    if *there != want {
                        s.v[i] = ABSENT;
                        if let Some(h) = s.h.get_mut(i) {
                            *h = None;
                        }
                    } else {
                        any |= s.has(i);
                    }
                }
                any.then_some(s)
            })
            .collect()
    };
    match op {
        BinaryOp::And => Ok(keep(lhs, &left, true)),
        BinaryOp::Unless => Ok(keep(lhs, &left, false)),
        _ => {
            let rest = keep(rhs, &right, false);
            let mut out = lhs;
            out.extend(rest);
            // A series may come from the left at one step and from the right at another.
            if steps.n > 1 { merge_same_labels(out) } else { Ok(out) }
        }
    }
}
