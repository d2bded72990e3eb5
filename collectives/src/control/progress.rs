//! What each rank is doing: noted by the rank as it goes, read when somebody must be told why a run hangs
//! ([`super::table`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::Trace;
use crate::flight::{CallRecord, Flight};

/// The newest action and collective of a rank.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Activity {
    /// What the rank computes on, in words.
    pub device: Option<Arc<str>>,
    /// Slurm's name of its machine.
    pub node: Option<Arc<str>>,
    /// The step, from 1; 0 before the first.
    pub step: u64,
    /// The action of the step, "graph" for those of a whole micro-batch, or what is done between steps.
    pub action: Option<Arc<str>>,
    /// The unit of the model that the action works on.
    pub unit: Option<Arc<str>>,
    /// The newest collective that was begun.
    pub collective: Option<CollectiveActivity>,
}

/// A collective of a rank.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CollectiveActivity {
    /// Axis of the mesh.
    pub axis: Arc<str>,
    /// What it does: "all_gather".
    pub kind: Arc<str>,
    /// Its number on this communicator, from 0.
    pub sequence: u64,
    /// The unit on whose behalf it was begun.
    pub unit: Option<Arc<str>>,
    /// Whether it has ended on this rank.
    pub done: bool,
}

/// Where a rank notes its [`Activity`]. Clones share it.
#[derive(Clone, Debug)]
pub struct Progress {
    shared: Arc<Mutex<(Activity, Instant)>>,
    trace: Trace,
    flight: Flight,
}

impl Default for Progress {
    fn default() -> Self {
        let newest = Mutex::new((Activity::default(), Instant::now()));
        Progress { shared: Arc::new(newest), trace: Trace::default(), flight: Flight::default() }
    }
}

impl Progress {
    /// Where everything is noted, not only the newest.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The newest calls of each communicator.
    pub fn flight(&self) -> &Flight {
        &self.flight
    }

    /// A communicator begins a call: the rank's newest. `axis` is the communicator's own, of which every call has a
    /// clone. Returns the unit on whose behalf it is.
    pub(crate) fn begin_call(
        &self,
        axis: &Arc<str>,
        kind: &Arc<str>,
        sequence: u64,
        payload_bytes: usize,
    ) -> Option<Arc<str>> {
        let (mut unit, mut step) = (None, 0);
        self.note(|activity| {
            unit.clone_from(&activity.unit);
            step = activity.step;
            let (axis, kind, unit) = (Arc::clone(axis), Arc::clone(kind), unit.clone());
            activity.collective = Some(CollectiveActivity { axis, kind, sequence, unit, done: false });
        });
        let (kind, payload_bytes, begin) = (Arc::clone(kind), payload_bytes as u64, Instant::now());
        let call = CallRecord { sequence, kind, unit: unit.clone(), step, payload_bytes, begin, end: None };
        self.flight.begin(axis, call);
        unit
    }

    /// A call has ended well. It stays the rank's newest, if no newer one was begun.
    pub(crate) fn end_call(&self, axis: &Arc<str>, kind: &str, sequence: u64) {
        self.note(|activity| {
            let is_this = |newest: &&mut CollectiveActivity| {
                newest.sequence == sequence && *newest.kind == *kind && Arc::ptr_eq(&newest.axis, axis)
            };
            if let Some(newest) = activity.collective.as_mut().filter(is_this) {
                newest.done = true;
            }
        });
        self.flight.end(axis, kind, sequence);
    }

    /// Changes the note and its time.
    pub fn note(&self, change: impl FnOnce(&mut Activity)) {
        let mut shared = self.lock();
        change(&mut shared.0);
        shared.1 = Instant::now();
    }

    /// The newest note, and the seconds since.
    pub fn read(&self) -> (Activity, f64) {
        let (activity, noted) = self.snapshot();
        (activity, noted.elapsed().as_secs_f64())
    }

    /// The newest note, and when it was made.
    pub(super) fn snapshot(&self) -> (Activity, Instant) {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, (Activity, Instant)> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
