//! A pipe: series from a source, one at a time, through stages that need no other series.
//! Aggregations fold what comes out, so that never all series are in memory at once.

use strandline_storage::model::{FloatHistogram, Labels};

use super::super::annotations::Annotations;
use super::super::ast::{BinaryOp, Span};
use super::super::binary::scalar_stage;
use super::super::error::Result;
use super::context::{Context, Steps};
use super::holding::Held;
use super::series::{ABSENT, Hist, Series, is_absent};
use super::source::{InstantKind, Scratch, Source};

/// A step of the pipe. All but comparisons and trims make the name go.
pub(crate) enum Stage {
    /// Floats by a function; histograms fall away.
    Map(fn(f64) -> f64),
    /// Floats by a function that knows the step; histograms fall away.
    MapStep(Box<dyn Fn(usize, f64) -> f64 + Send + Sync>),
    /// Histograms to floats; floats fall away.
    OfHistogram(fn(&FloatHistogram) -> f64),
    /// The time of the step, wherever there is a sample.
    StepTime,
    /// Everything negated.
    Negate,
    /// An operator with a scalar on one side.
    Scalar { op: BinaryOp, scalar: Vec<f64>, swap: bool, return_bool: bool, span: Span },
}

impl Stage {
    fn drops_name(&self) -> bool {
        match self {
            Stage::Scalar { op, return_bool, .. } => op.changes_schema() || *return_bool,
            _ => true,
        }
    }

    fn apply(&self, steps: &Steps, v: &mut [f64], h: &mut Vec<Option<Hist>>, ann: &mut Annotations) {
        match self {
            Stage::Map(f) => {
                h.clear();
                v.iter_mut().filter(|v| !is_absent(**v)).for_each(|v| *v = f(*v));
            }
            Stage::MapStep(f) => {
                h.clear();
                v.iter_mut().enumerate().filter(|(_, v)| !is_absent(**v)).for_each(|(i, v)| *v = f(i, *v));
            }
            Stage::OfHistogram(f) => {
                for (i, x) in v.iter_mut().enumerate() {
                    *x = h.get(i).and_then(|h| h.as_ref()).map_or(ABSENT, |h| f(h));
                }
                h.clear();
            }
            Stage::StepTime => {
                for (i, x) in v.iter_mut().enumerate() {
                    if !is_absent(*x) || h.get(i).is_some_and(Option::is_some) {
                        *x = steps.at(i) as f64 / 1000.0;
                    }
                }
                h.clear();
            }
            Stage::Negate => {
                v.iter_mut().filter(|v| !is_absent(**v)).for_each(|v| *v = -*v);
                for h in h.iter_mut().flatten() {
                    let mut x = (**h).clone();
                    super::super::histogram::arith::mul(&mut x, -1.0);
                    *h = x.into();
                }
            }
            Stage::Scalar { op, scalar, swap, return_bool, span } => scalar_stage(*op, scalar, *swap, *return_bool, *span, v, h, ann),
        }
    }
}

/// Series on their way.
pub(crate) struct Pipe {
    pub source: Source,
    pub stages: Vec<Stage>,
    pub steps: Steps,
    drops: bool,
}

/// One series as it comes out.
pub(crate) struct Item<'a> {
    pub index: usize,
    pub v: &'a [f64],
    pub h: &'a [Option<Hist>],
    pub pipe: &'a Pipe,
}

impl Item<'_> {
    pub fn labels(&self) -> Labels {
        self.pipe.source.labels(self.index)
    }
    pub fn drop_name(&self) -> bool {
        self.pipe.drops_name(self.index)
    }
    #[inline]
    pub fn hist(&self, i: usize) -> Option<&Hist> {
        self.h.get(i).and_then(|h| h.as_ref())
    }
}

/// Series whose chunks are announced to storage together.
const PREFETCH: usize = 256;
/// Work that is worth a thread of its own, in units of some four nanoseconds: where two cores share what is inside
/// them, a query that is done in a few milliseconds costs more CPU on both than it saves time.
const PART_WORK: usize = 750_000;

impl Pipe {
    pub fn new(source: Source, steps: Steps) -> Self {
        Pipe { source, stages: Vec::new(), steps, drops: false }
    }

    pub fn stage(mut self, s: Stage) -> Self {
        self.drops |= s.drops_name();
        self.stages.push(s);
        self
    }

    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// Says that nobody looks at the values that come out, only at where there are any.
    pub fn only_presence(&mut self) {
        if let (Source::Instant { kind, .. }, true) = (&mut self.source, self.stages.is_empty())
            && *kind == InstantKind::Value
        {
            *kind = InstantKind::Presence;
        }
    }

    /// Whether series `i` loses its name in the end.
    pub fn drops_name(&self, i: usize) -> bool {
        self.drops || self.source.drop_name(i)
    }

    /// Series that are worth a thread of their own.
    pub fn min_part(&self) -> usize {
        // Samples are assumed to come every 15 s.
        let samples = self.source.read_ms().map_or(0, |ms| 100 + (ms / 10_000) as usize);
        PART_WORK / (samples + self.steps.n).max(1) + 1
    }

    /// Runs series `range` through and hands each that has a sample to `f`.
    pub fn run(
        &self,
        ctx: &Context<'_>,
        range: std::ops::Range<usize>,
        ann: &mut Annotations,
        f: &mut dyn FnMut(&Item<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut s = Scratch::default();
        let end = range.end;
        for i in range {
            if i % PREFETCH == 0 {
                self.source.prefetch(i, (i + 2 * PREFETCH).min(end));
                ctx.check()?;
            }
            if !self.source.load(ctx, i, self.steps.n, &mut s, ann)? {
                continue;
            }
            for stage in &self.stages {
                stage.apply(&self.steps, &mut s.v, &mut s.h, ann);
            }
            f(&Item { index: i, v: &s.v, h: &s.h, pipe: self })?;
        }
        Ok(())
    }

    /// All series, in memory.
    pub fn collect(self, ctx: &Context<'_>, ann: &mut Annotations) -> Result<Vec<Series>> {
        if self.stages.is_empty()
            && let Source::Rows(rows) = self.source
        {
            return Ok(rows);
        }
        let parts = ctx.parallel(self.len(), self.min_part(), |range| {
            let (mut rows, mut ann, mut owed) = (Vec::new(), Annotations::default(), Held::default());
            self.run(ctx, range, &mut ann, &mut |item| {
                let any_h = item.h.iter().any(Option::is_some);
                if !any_h && item.v.iter().all(|v| is_absent(*v)) {
                    return Ok(());
                }
                let h = if any_h { item.h.to_vec() } else { Vec::new() };
                let row = Series { labels: item.labels(), drop_name: item.drop_name(), v: item.v.to_vec(), h };
                owed.add(&row);
                rows.push(row);
                if owed.is_worth_it() { ctx.memory.hold_rows(std::mem::take(&mut owed)) } else { Ok(()) }
            })?;
            ctx.memory.hold_rows(owed)?;
            Ok((rows, ann))
        })?;
        let mut out = Vec::with_capacity(parts.iter().map(|p| p.0.len()).sum());
        for (rows, a) in parts {
            out.extend(rows);
            ann.merge(a);
        }
        Ok(out)
    }
}
