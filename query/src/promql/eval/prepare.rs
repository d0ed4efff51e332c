//! What is known of an expression before any sample is read.

use super::super::ast::*;
use super::super::functions::is_at_unsafe;

/// Whether the value is the same at every step: all selectors are pinned by `@`, and no function looks at the time.
pub(crate) fn is_step_invariant(e: &Expr) -> bool {
    match &e.kind {
        ExprKind::Number(_) | ExprKind::String(_) => true,
        ExprKind::Vector(v) => v.at.is_some(),
        ExprKind::Matrix(m) => m.selector.at.is_some(),
        ExprKind::Subquery(s) => s.at.is_some(),
        ExprKind::Paren(e) | ExprKind::Unary(_, e) => is_step_invariant(e),
        ExprKind::Binary(b) => is_step_invariant(&b.rhs) && is_step_invariant(&b.lhs),
        ExprKind::Call(c) => !is_at_unsafe(c.func.name) && c.args.iter().all(is_step_invariant),
        ExprKind::Aggregate(a) => is_step_invariant(&a.expr),
    }
}

/// How the selectors below are used by the functions above them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// Only sums and counts of histograms are looked at, so that their buckets need not be kept.
    pub stats_only: bool,
}

impl Use {
    /// For the arguments of `name`.
    pub fn call(self, name: &str) -> Use {
        match name {
            // The nearest function decides, and one further up that needs buckets overrules it: so on the way
            // down a need for buckets sticks only until a function asks for less.
            "histogram_count" | "histogram_sum" | "histogram_avg" => Use { stats_only: true },
            "histogram_quantile" | "histogram_quantiles" | "histogram_fraction" => Use { stats_only: false },
            _ => self,
        }
    }
}

/// Whether anything above (a subquery, a function over buckets) forbids leaving buckets out below it.
pub(crate) fn forbids_stats(kind: &ExprKind) -> bool {
    match kind {
        ExprKind::Subquery(_) => true,
        ExprKind::Call(c) => matches!(c.func.name, "histogram_quantile" | "histogram_quantiles" | "histogram_fraction"),
        ExprKind::Binary(b) => b.op.is_trim(),
        _ => false,
    }
}
