//! Tells what this rank is doing: the newest action for a hang report, all of them for a trace.

use std::sync::Arc;

use tisserand_collectives::Progress;
use tisserand_collectives::trace::Timeline;
use tisserand_kernels::Storage;

use super::Action;
use crate::error::Result;
use crate::model::Transformer;

/// Where an executor tells it. Names are made once: a step does not allocate.
pub(super) struct Notes<D: Storage> {
    progress: Progress,
    timeline: Arc<Timeline<D>>,
    actions: [Arc<str>; Action::NAMES.len()],
    units: Vec<Arc<str>>,
    graph: Arc<str>,
}

impl<D: Storage> Notes<D> {
    pub(super) fn new(model: &Transformer, device: &D, progress: Progress) -> Self {
        let units = model.units.iter().map(|unit| unit.name.as_str().into()).collect();
        let timeline = Timeline::new(progress.trace(), device);
        Notes { progress, timeline, actions: Action::NAMES.map(Into::into), units, graph: "graph".into() }
    }

    /// A step begins.
    pub(super) fn begin_step(&self, step: u32) {
        self.progress.note(|activity| activity.step = step.into());
    }

    /// An action begins; the result is for [`Notes::end`].
    pub(super) fn begin(&self, action: Action) -> Result<Option<D::Moment>> {
        let name = Arc::clone(&self.actions[action.index()]);
        let unit = action.unit().map(|unit| Arc::clone(&self.units[unit]));
        self.progress.note(|activity| (activity.action, activity.unit) = (Some(name), unit));
        Ok(self.timeline.begin_action()?)
    }

    /// It ends.
    pub(super) fn end(&self, action: Action, begin: Option<D::Moment>) -> Result<()> {
        let unit = action.unit().map(|unit| Arc::clone(&self.units[unit]));
        Ok(self.timeline.end_action(begin, action.name(), unit, action.micro_batch())?)
    }

    /// Many actions at once, which nobody can tell apart.
    pub(super) fn begin_graph(&self) {
        let name = Arc::clone(&self.graph);
        self.progress.note(|activity| (activity.action, activity.unit) = (Some(name), None));
    }

    /// Whether a trace is taken.
    pub(super) fn is_tracing(&self) -> bool {
        self.progress.trace().is_recording()
    }
}
