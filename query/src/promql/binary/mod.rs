//! Binary operators.

mod matching;
mod sets;

use super::annotations::{Annotations, HistogramOp};
use super::ast::{Binary, BinaryOp, Span};
use super::error::{Error, Result};
use super::eval::context::Context;
use super::eval::context::Steps;
use super::eval::series::{ABSENT, Hist, Series, is_absent};
use super::histogram::arith::{self, Combined};
use super::histogram::trim::trim;
use super::histogram::{compact, equal};

use strandline_storage::model::{CounterReset, FloatHistogram};

/// An operator on two floats: the value, and whether it stays (comparisons).
#[inline]
pub(crate) fn floats(op: BinaryOp, a: f64, b: f64) -> (f64, bool) {
    match op {
        BinaryOp::Add => (a + b, true),
        BinaryOp::Sub => (a - b, true),
        BinaryOp::Mul => (a * b, true),
        BinaryOp::Div => (a / b, true),
        BinaryOp::Mod => (a % b, true),
        BinaryOp::Pow => (a.powf(b), true),
        BinaryOp::Atan2 => (a.atan2(b), true),
        BinaryOp::Eq => (a, a == b),
        BinaryOp::Ne => (a, a != b),
        BinaryOp::Gt => (a, a > b),
        BinaryOp::Lt => (a, a < b),
        BinaryOp::Ge => (a, a >= b),
        BinaryOp::Le => (a, a <= b),
        BinaryOp::TrimUpper | BinaryOp::TrimLower | BinaryOp::And | BinaryOp::Or | BinaryOp::Unless => (f64::NAN, false),
    }
}

/// An operator on two scalars.
pub(crate) fn scalars(op: BinaryOp, a: f64, b: f64) -> f64 {
    let (v, keep) = floats(op, a, b);
    if op.is_comparison() { f64::from(u8::from(keep)) } else { v }
}

/// What an operator makes of two samples of which one at least is a histogram (or of trims).
pub(crate) enum Made {
    F(f64),
    H(FloatHistogram),
    Same(Hist),
}

/// A sample as an operand.
#[derive(Clone, Copy)]
pub(crate) enum Operand<'a> {
    F(f64),
    H(&'a Hist),
}

/// The general form: the result and whether it stays, or nothing where the types don't fit.
pub(crate) fn samples(op: BinaryOp, a: Operand<'_>, b: Operand<'_>, at: Span, ann: &mut Annotations) -> Option<(Made, bool)> {
    use BinaryOp::*;
    let own = |h: &Hist, f: &dyn Fn(&mut FloatHistogram)| {
        let mut h = (**h).clone();
        f(&mut h);
        compact(&mut h);
        Some((Made::H(h), true))
    };
    let names = |o: &Operand<'_>| if matches!(o, Operand::F(_)) { "float" } else { "histogram" };
    match (op, a, b) {
        (TrimUpper | TrimLower, Operand::H(h), Operand::F(x)) => return Some((Made::H(trim(h, x, op == TrimUpper)), true)),
        (_, Operand::F(x), Operand::F(y)) if !op.is_trim() => {
            let (v, keep) = floats(op, x, y);
            return Some((Made::F(v), keep));
        }
        (Mul, Operand::F(x), Operand::H(h)) | (Mul, Operand::H(h), Operand::F(x)) => return own(h, &|h| arith::mul(h, x)),
        (Div, Operand::H(h), Operand::F(x)) => return own(h, &|h| arith::div(h, x)),
        (Add | Sub, Operand::H(x), Operand::H(y)) => {
            let (kind, mut h) = (if op == Add { HistogramOp::Add } else { HistogramOp::Sub }, (**x).clone());
            let r = if op == Add { arith::add(&mut h, y) } else { arith::sub(&mut h, y) };
            let Ok(Combined { collision, reconciled }) = r else {
                ann.incompatible_bucket_layout(op.as_str(), at);
                return None;
            };
            if op == Sub {
                h.counter_reset = CounterReset::Gauge;
            }
            // Of contradicting hints no sum is made.
            if collision {
                ann.reset_collision(kind, at);
                return None;
            }
            if reconciled {
                ann.bounds_reconciled(kind, at);
            }
            compact(&mut h);
            return Some((Made::H(h), true));
        }
        (Eq, Operand::H(x), Operand::H(y)) => return Some((Made::Same(x.clone()), equal(x, y))),
        (Ne, Operand::H(x), Operand::H(y)) => return Some((Made::Same(x.clone()), !equal(x, y))),
        _ => {}
    }
    ann.incompatible_types(names(&a), op.as_str(), names(&b), at);
    None
}

/// An operator between a series and a scalar, in place.
#[allow(clippy::too_many_arguments)]
pub(crate) fn scalar_stage(
    op: BinaryOp,
    scalar: &[f64],
    swap: bool,
    return_bool: bool,
    at: Span,
    v: &mut [f64],
    h: &mut [Option<Hist>],
    ann: &mut Annotations,
) {
    let had_hists = h.iter().any(Option::is_some);
    if !op.is_trim() {
        for (x, s) in v.iter_mut().zip(scalar) {
            if is_absent(*x) {
                continue;
            }
            let (a, b) = if swap { (*s, *x) } else { (*x, *s) };
            let (out, keep) = floats(op, a, b);
            *x = if return_bool {
                f64::from(u8::from(keep))
            } else if !keep {
                ABSENT
            } else if op.is_comparison() {
                // The vector's value stays, on whichever side it stands.
                *x
            } else {
                out
            };
        }
    } else if !had_hists || v.iter().any(|x| !is_absent(*x)) {
        for x in v.iter_mut().filter(|x| !is_absent(**x)) {
            ann.incompatible_types("float", op.as_str(), "float", at);
            *x = ABSENT;
        }
    }
    if !had_hists {
        return;
    }
    for i in 0..h.len() {
        let Some(x) = h[i].take() else { continue };
        let (a, b) = if swap { (Operand::F(scalar[i]), Operand::H(&x)) } else { (Operand::H(&x), Operand::F(scalar[i])) };
        let Some((made, keep)) = samples(op, a, b, at, ann) else { continue };
        if return_bool {
            v[i] = f64::from(u8::from(keep));
        } else if keep {
            match made {
                Made::F(x) => v[i] = x,
                Made::H(x) => h[i] = Some(x.into()),
                Made::Same(x) => h[i] = Some(x),
            }
        }
    }
}

/// An operator between two vectors.
pub(crate) fn vectors(
    ctx: &Context<'_>,
    b: &Binary,
    span: Span,
    lhs: Vec<Series>,
    rhs: Vec<Series>,
    steps: Steps,
    ann: &mut Annotations,
) -> Result<Vec<Series>> {
    let Some(m) = &b.matching else { return Err(Error::Internal("vector operator without matching".into())) };
    if b.op.is_set() { sets::set_operator(b.op, m, lhs, rhs, steps) } else { matching::binary(ctx, b, m, span, lhs, rhs, steps, ann) }
}
