//! The flight recorder: the newest calls of each communicator of a rank, for a look back when a run has failed or
//! hangs. Always on. [`Trace`](crate::Trace) keeps everything, but only of the steps that are to be traced; here a
//! call overwrites the one [`CALLS_KEPT`] before it, and nothing is allocated after a communicator's first call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Calls of a communicator that are kept.
pub const CALLS_KEPT: usize = 64;

/// The recorder of a rank. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Flight(Arc<Mutex<Vec<Recording>>>);

/// What is kept of one communicator.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Its axis. Communicators of one axis have one each, and tell apart by what they do.
    pub axis: Arc<str>,
    /// Calls so far.
    pub num_calls: u64,
    /// A ring: call i is at `i % CALLS_KEPT`.
    ring: Vec<CallRecord>,
}

/// A call of a communicator.
#[derive(Clone, PartialEq, Debug)]
pub struct CallRecord {
    /// Its number on the communicator.
    pub sequence: u64,
    /// The collective.
    pub kind: Arc<str>,
    /// The unit of the model on whose behalf it was begun.
    pub unit: Option<Arc<str>>,
    /// The step in which it was begun.
    pub step: u64,
    /// Bytes of the full tensor.
    pub payload_bytes: u64,
    /// When it was begun.
    pub begin: Instant,
    /// When it had ended on this rank; `None` while it has not.
    pub end: Option<Instant>,
}

impl Flight {
    /// A call begins. `axis` is the communicator's own, of which all its calls have a clone.
    pub(crate) fn begin(&self, axis: &Arc<str>, call: CallRecord) {
        let mut recordings = self.recordings();
        let known = recordings.iter().position(|recording| Arc::ptr_eq(&recording.axis, axis));
        let index = known.unwrap_or_else(|| {
            recordings.push(Recording::new(axis));
            recordings.len() - 1
        });
        recordings[index].push(call);
    }

    /// A call has ended well.
    pub(crate) fn end(&self, axis: &Arc<str>, kind: &str, sequence: u64) {
        let mut recordings = self.recordings();
        let recording = recordings.iter_mut().find(|recording| Arc::ptr_eq(&recording.axis, axis));
        if let Some(call) = recording.and_then(|recording| recording.open(kind, sequence)) {
            call.end = Some(Instant::now());
        }
    }

    /// What is kept now, in the order of the communicators' first calls.
    pub fn read(&self) -> Vec<Recording> {
        self.recordings().clone()
    }

    /// A thread that panicked with the lock in its hands must not take the record with it.
    fn recordings(&self) -> MutexGuard<'_, Vec<Recording>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recording {
    fn new(axis: &Arc<str>) -> Self {
        Recording { axis: Arc::clone(axis), num_calls: 0, ring: Vec::with_capacity(CALLS_KEPT) }
    }

    fn push(&mut self, call: CallRecord) {
        let at = self.num_calls as usize % CALLS_KEPT;
        self.num_calls += 1;
        match self.ring.get_mut(at) {
            Some(oldest) => *oldest = call,
            None => self.ring.push(call),
        }
    }

    /// Messages to several ranks may share a number: they end in the order in which they began.
    fn open(&mut self, kind: &str, sequence: u64) -> Option<&mut CallRecord> {
        let is_meant =
            |call: &CallRecord| call.end.is_none() && call.sequence == sequence && *call.kind == *kind;
        let index = self.in_order().position(is_meant)?;
        let start = self.start();
        self.ring.get_mut((start + index) % CALLS_KEPT)
    }

    /// The calls that are kept, oldest first.
    pub fn in_order(&self) -> impl Iterator<Item = &CallRecord> {
        let (newer, older) = self.ring.split_at(self.start());
        older.iter().chain(newer)
    }

    /// Where the oldest call is.
    fn start(&self) -> usize {
        if self.ring.len() < CALLS_KEPT { 0 } else { self.num_calls as usize % CALLS_KEPT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(kind: &str, sequence: u64) -> CallRecord {
        let (kind, begin) = (kind.into(), Instant::now());
        CallRecord { sequence, kind, unit: None, step: 1, payload_bytes: 64, begin, end: None }
    }

    #[test]
    fn the_newest_calls_of_each_communicator_are_kept_in_order() {
        let flight = Flight::default();
        let axes: [Arc<str>; 2] = ["dp_shard".into(), "dp_shard".into()];
        for sequence in 0..200 {
            flight.begin(&axes[0], call("all_gather", sequence));
            if sequence != 190 {
                flight.end(&axes[0], "all_gather", sequence);
            }
        }
        flight.begin(&axes[1], call("reduce_scatter", 0));
        // Too late: it has been overwritten.
        flight.end(&axes[0], "all_gather", 3);
        let [gathers, reductions] = &flight.read()[..] else { panic!("two communicators") };
        assert_eq!((gathers.num_calls, reductions.num_calls), (200, 1));
        let sequences: Vec<u64> = gathers.in_order().map(|call| call.sequence).collect();
        assert_eq!(sequences, (136..200).collect::<Vec<u64>>());
        let open: Vec<u64> =
            gathers.in_order().filter(|call| call.end.is_none()).map(|call| call.sequence).collect();
        assert_eq!(open, [190]);
        assert!(reductions.in_order().all(|call| call.end.is_none()));
    }

    #[test]
    fn messages_with_the_same_number_end_one_after_the_other() {
        let (flight, axis) = (Flight::default(), Arc::<str>::from("pp"));
        flight.begin(&axis, call("send", 0));
        flight.begin(&axis, call("send", 0));
        flight.end(&axis, "send", 0);
        let ended = |flight: &Flight| -> Vec<bool> {
            flight.read()[0].in_order().map(|call| call.end.is_some()).collect()
        };
        assert_eq!(ended(&flight), [true, false]);
        flight.end(&axis, "send", 0);
        assert_eq!(ended(&flight), [true, true]);
    }
}
