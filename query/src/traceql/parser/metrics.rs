//! Metrics functions, what may follow them, and hints.

use super::*;

/// Words with a meaning of their own, which can't name a hint.
const KEYWORDS: [&str; 58] = [
    "true",
    "false",
    "nil",
    "ok",
    "error",
    "unset",
    "unspecified",
    "internal",
    "server",
    "client",
    "producer",
    "consumer",
    "duration",
    "childCount",
    "name",
    "status",
    "statusMessage",
    "kind",
    "rootName",
    "rootServiceName",
    "rootService",
    "traceDuration",
    "nestedSetLeft",
    "nestedSetRight",
    "nestedSetParent",
    "id",
    "traceID",
    "spanID",
    "parentID",
    "timeSinceStart",
    "version",
    "parent",
    "count",
    "avg",
    "max",
    "min",
    "sum",
    "by",
    "coalesce",
    "select",
    "rate",
    "count_over_time",
    "min_over_time",
    "max_over_time",
    "avg_over_time",
    "sum_over_time",
    "quantile_over_time",
    "histogram_over_time",
    "compare",
    "topk",
    "bottomk",
    "with",
    "span",
    "resource",
    "event",
    "link",
    "instrumentation",
    "trace",
];

impl Parser<'_> {
    pub(super) fn metrics_op(&mut self) -> Result<Option<MetricsOp>> {
        let Some(name) = self.ident().map(str::to_owned) else { return Ok(None) };
        let known = ["rate", "count_over_time", "min_over_time", "max_over_time", "avg_over_time", "sum_over_time"];
        let further = ["quantile_over_time", "histogram_over_time", "compare"];
        if !known.contains(&name.as_str()) && !further.contains(&name.as_str()) {
            return Ok(None);
        }
        self.advance();
        self.expect("(")?;
        let op = match name.as_str() {
            "rate" => MetricsOp::Rate,
            "count_over_time" => MetricsOp::CountOverTime,
            "min_over_time" => MetricsOp::MinOverTime(self.attr()?),
            "max_over_time" => MetricsOp::MaxOverTime(self.attr()?),
            "avg_over_time" => MetricsOp::AvgOverTime(self.attr()?),
            "sum_over_time" => MetricsOp::SumOverTime(self.attr()?),
            "histogram_over_time" => MetricsOp::HistogramOverTime(self.attr()?),
            "quantile_over_time" => self.quantiles()?,
            _ => self.compare()?,
        };
        self.expect(")")?;
        Ok(Some(op))
    }

    fn quantiles(&mut self) -> Result<MetricsOp> {
        let attr = self.attr()?;
        let mut q = Vec::new();
        while self.eat(",") {
            let v = match *self.peek() {
                Tok::Int(i) => i as f64,
                Tok::Float(f) => f,
                _ => return self.fail("expected a quantile"),
            };
            self.advance();
            q.push(v);
        }
        if q.is_empty() { self.fail("expected a quantile") } else { Ok(MetricsOp::QuantileOverTime(attr, q)) }
    }

    fn compare(&mut self) -> Result<MetricsOp> {
        let selection = self.filter()?;
        let mut numbers = Vec::new();
        while numbers.len() < 3 && self.eat(",") {
            numbers.push(self.whole_number()?);
        }
        let (top, start_nano, end_nano) = match numbers[..] {
            [] => (10, 0, 0),
            [top] => (top, 0, 0),
            [top, start, end] => (top, start, end),
            _ => return self.fail("compare() takes a start and an end, or neither"),
        };
        Ok(MetricsOp::Compare(Comparison { selection, top, start_nano, end_nano }))
    }

    pub(super) fn metrics(&mut self, pipeline: Pipeline, op: MetricsOp, at: usize) -> Result<MetricsExpr> {
        let mut by = Vec::new();
        if self.ident() == Some("by") && !matches!(op, MetricsOp::Compare(..)) {
            self.advance();
            by = self.attrs()?;
        }
        Ok(MetricsExpr::Query(MetricsQuery { pipeline, op, by, at }))
    }

    /// `topk(n)` or `bottomk(n)`.
    pub(super) fn top(&mut self, of: MetricsExpr) -> Result<MetricsExpr> {
        let at = self.offset();
        let largest = match self.ident() {
            Some("topk") => true,
            Some("bottomk") => false,
            _ => return self.fail("only topk() and bottomk() can follow a metrics function"),
        };
        self.advance();
        self.expect("(")?;
        let n = self.whole_number()?;
        self.expect(")")?;
        Ok(MetricsExpr::TopK { largest, n, of: Box::new(of), at })
    }

    /// What is below 0 counts as 0, which the check refuses.
    fn whole_number(&mut self) -> Result<u64> {
        let Tok::Int(n) = *self.peek() else { return self.fail("expected a whole number") };
        self.advance();
        Ok(u64::try_from(n).unwrap_or(0))
    }

    pub(super) fn metrics_filter(&mut self, of: MetricsExpr, op: BinOp, at: usize) -> Result<MetricsExpr> {
        match self.operand_chain(ADDITION)? {
            Node::Const(c) => Ok(MetricsExpr::Filter { op, bound: plain(&c), of: Box::new(of) }),
            _ => self.fail_at(at, "series can be compared with numbers only"),
        }
    }

    /// `with(name=value, …)`, once or several times.
    pub(super) fn hints(&mut self) -> Result<Vec<(String, Static)>> {
        let mut out = Vec::new();
        while self.ident() == Some("with") {
            self.advance();
            self.expect("(")?;
            loop {
                out.push(self.hint()?);
                if !self.eat(",") {
                    break;
                }
            }
            self.expect(")")?;
        }
        Ok(out)
    }

    fn hint(&mut self) -> Result<(String, Static)> {
        let Some(name) = self.ident().filter(|n| !KEYWORDS.contains(n)).map(str::to_owned) else {
            return self.fail("expected the name of a hint");
        };
        self.advance();
        self.expect("=")?;
        match self.literal() {
            Some(s) => {
                self.advance();
                Ok((name, s))
            }
            None => self.fail("a hint's value must be a literal"),
        }
    }
}
