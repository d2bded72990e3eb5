//! The steps of `log.trace_steps`: records them and writes one file per rank.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tisserand_collectives::Trace;

use super::setup::Run;
use crate::error::Result;
use crate::files::Access;
use crate::log::trace::{self, Clocks, StepSpan};
use crate::step::schedule;

/// The recorder of one rank.
pub(super) struct Tracing {
    trace: Trace,
    /// First and last step to be traced; `None` once they are written, or if none are left.
    steps: Option<[u64; 2]>,
    spans: Vec<StepSpan>,
    events_per_step: usize,
    clocks: Clocks,
    rank: usize,
    path: PathBuf,
    access: Access,
}

impl Tracing {
    pub(super) fn new(run: &Run) -> Self {
        let config = &run.config;
        let steps = config.log.trace_steps;
        let left = steps.filter(|[_, last]| *last > run.state.step);
        let actions = schedule::train_step(run.engine.model(), &run.engine.sharding(), config.grad_accum());
        let calls: u64 = run.plan.traffic.iter().map(|audit| audit.calls()).sum();
        let [first, last] = steps.unwrap_or_default();
        let trace = run.control.progress().trace().clone();
        trace.count_waits(false);
        Tracing {
            trace,
            steps: left,
            spans: Vec::new(),
            // Every collective is one event, and the wait for it another.
            events_per_step: actions.len() + 2 * calls as usize,
            clocks: Clocks::now(),
            rank: run.control.rank(),
            path: run.folder.trace([first, last], run.control.rank()),
            access: run.folder.access().clone(),
        }
    }

    /// How long steps have waited for collectives since the last call, as far as the device has got.
    pub(super) fn take_waited(&self) -> Duration {
        self.trace.take_waited()
    }

    /// A step begins.
    pub(super) fn begin(&mut self, step: u64) {
        self.trace.count_waits(true);
        let Some([first, last]) = self.steps else { return };
        if !(first..=last).contains(&step) {
            return;
        }
        if self.spans.is_empty() {
            let count = (last - step + 1) as usize;
            self.spans.reserve_exact(count);
            self.trace.reserve(count * self.events_per_step);
            self.clocks = Clocks::now();
        }
        self.trace.record(true);
        let now = Instant::now();
        self.spans.push(StepSpan { step, begin: now, end: now });
    }

    /// It ends. Returns whether it was the last one.
    pub(super) fn end(&mut self, step: u64) -> bool {
        self.trace.count_waits(false);
        let Some(span) = self.spans.last_mut().filter(|span| span.step == step) else { return false };
        span.end = Instant::now();
        self.trace.record(false);
        self.steps.is_some_and(|[_, last]| step == last)
    }

    /// Whether steps were recorded and are not written yet.
    pub(super) fn has_steps(&self) -> bool {
        !self.spans.is_empty()
    }

    /// Writes what was recorded. What was begun in these steps must have ended, on the device too.
    pub(super) fn write(&mut self) -> Result<Written> {
        self.steps = None;
        let (kept, spans) = (self.trace.take(), std::mem::take(&mut self.spans));
        let text = trace::chrome(self.rank, self.clocks, &spans, &kept);
        if let Some(folder) = self.path.parent() {
            self.access.create_dir_all(folder)?;
        }
        self.access.replace(&self.path, text.as_bytes())?;
        Ok(Written { path: self.path.clone(), lost: kept.lost })
    }
}

/// A trace that is there.
pub(super) struct Written {
    pub(super) path: PathBuf,
    /// Events that found no room.
    pub(super) lost: usize,
}
