//! What a rank did and when: actions, collectives and the waits for them, each from begin to end on its device.
//! [`Progress`](crate::Progress) keeps the newest of them for a hang report; here all are kept while a trace is
//! taken. The time spent waiting is summed in any case.
//!
//! - here: [`Trace`], where both come together; `timeline`: what the device has not reached yet, and so has no time;
//!   `span`: a collective and the wait for it.
//!
//! Nothing is allocated when an event is kept: [`Trace::reserve`] makes the room, outside of steps.

mod span;
mod timeline;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

pub use span::{CarriedOut, Span, Stream};
use timeline::Settle;
pub use timeline::Timeline;

/// Where the events of a rank are kept. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether what begins now is kept.
    recording: AtomicBool,
    skipping_waits: AtomicBool,
    waited_ns: AtomicU64,
    /// Number of the next communicator.
    streams: AtomicUsize,
    /// What may have something that the device has not reached.
    timelines: Mutex<Vec<Weak<dyn Settle>>>,
    kept: Mutex<Kept>,
}

/// Events so far.
#[derive(Debug, Default)]
pub struct Kept {
    /// In the order in which they ended.
    pub events: Vec<Event>,
    /// Events for which there was no room.
    pub lost: usize,
}

/// Something from its begin to its end.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// The name of the action or of the kind of collective.
    pub name: &'static str,
    /// The unit of the model that it works on, or on whose behalf it was begun.
    pub unit: Option<Arc<str>>,
    /// What it is.
    pub what: What,
    /// When it began. A collective of MPI: when it was asked for, whether or not those before it had ended.
    pub begin: Instant,
    /// When it ended.
    pub end: Instant,
}

/// A kind of [`Event`].
#[derive(Clone, PartialEq, Debug)]
pub enum What {
    /// An action of the step.
    Action {
        /// Which micro-batch of the step, for actions that have one.
        micro_batch: Option<usize>,
    },
    /// What computes waited for a collective: the thread, or on a GPU the stream.
    Wait(CollectiveId),
    /// A collective. The calls of a communicator are carried out one after the other.
    Collective {
        /// Which.
        id: CollectiveId,
        /// Bytes of the full tensor.
        payload_bytes: u64,
    },
}

/// A collective of a rank.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CollectiveId {
    /// Number of its communicator among those of the rank.
    pub stream: usize,
    /// Axis of the communicator.
    pub axis: Arc<str>,
    /// Its number on the communicator.
    pub sequence: u64,
}

impl Trace {
    /// Makes room for `events` events more.
    pub fn reserve(&self, events: usize) {
        self.kept().events.reserve_exact(events);
    }

    /// From now on what begins is kept, or is not.
    pub fn record(&self, on: bool) {
        self.shared.recording.store(on, Ordering::Relaxed);
    }

    /// Everything kept so far; its room goes with it. What the device has not reached yet is not there.
    pub fn take(&self) -> Kept {
        self.settle();
        std::mem::take(&mut *self.kept())
    }

    /// Waits that begin from now on are summed, or are not. At first they are.
    pub fn count_waits(&self, on: bool) {
        self.shared.skipping_waits.store(!on, Ordering::Relaxed);
    }

    /// How long the compute streams have waited for collectives since the last call, as far as the device has got:
    /// after it has answered something, all that was queued before.
    pub fn take_waited(&self) -> Duration {
        self.settle();
        Duration::from_nanos(self.shared.waited_ns.swap(0, Ordering::Relaxed))
    }

    /// Takes up what the device has reached. Nobody waits.
    fn settle(&self) {
        let timeline = |i: usize| lock(&self.shared.timelines).get(i).cloned();
        for timeline in (0..).map_while(timeline).filter_map(|timeline| timeline.upgrade()) {
            timeline.settle();
        }
    }

    /// Has a timeline settled with the others.
    fn add(&self, timeline: Weak<dyn Settle>) {
        let mut timelines = lock(&self.shared.timelines);
        timelines.retain(|timeline| timeline.strong_count() > 0);
        timelines.push(timeline);
    }

    /// Whether what begins now is kept.
    pub fn is_recording(&self) -> bool {
        self.shared.recording.load(Ordering::Relaxed)
    }

    fn counts_waits(&self) -> bool {
        !self.shared.skipping_waits.load(Ordering::Relaxed)
    }

    fn waited(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.shared.waited_ns.fetch_add(ns, Ordering::Relaxed);
    }

    fn keep(&self, event: Event) {
        let mut kept = self.kept();
        if kept.events.len() < kept.events.capacity() {
            kept.events.push(event);
        } else {
            kept.lost += 1;
        }
    }

    fn lose(&self) {
        self.kept().lost += 1;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.shared.kept)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
