//! What a rank did and when: actions, collectives and the waits for them, each from begin to end.
//! [`Progress`](crate::Progress) keeps the newest of them for a hang report; here all are kept while a trace is
//! taken. The time spent waiting is always summed.
//!
//! Nothing is allocated when an event is kept: [`Trace::reserve`] makes the room, outside of steps.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Collective;

/// Where the events of a rank are kept. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether what begins now is kept.
    recording: AtomicBool,
    waited_ns: AtomicU64,
    /// Number of the next communicator.
    streams: AtomicUsize,
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
    /// When it began. A collective: when it was asked for, whether or not those before it had ended.
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
    /// The thread that computes waited for a collective.
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

    /// Whether what begins now is kept.
    pub fn is_recording(&self) -> bool {
        self.shared.recording.load(Ordering::Relaxed)
    }

    /// Everything kept so far; its room goes with it.
    pub fn take(&self) -> Kept {
        std::mem::take(&mut *self.kept())
    }

    /// How long the thread that computes has waited for collectives so far.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.shared.waited_ns.load(Ordering::Relaxed))
    }

    /// Begins an action. `None` while nothing is recorded.
    pub fn begin(&self) -> Option<Instant> {
        self.is_recording().then(Instant::now)
    }

    /// Ends what [`Trace::begin`] began.
    pub fn end_action(
        &self,
        begin: Option<Instant>,
        name: &'static str,
        unit: Option<Arc<str>>,
        micro_batch: Option<usize>,
    ) {
        if let Some(begin) = begin {
            let what = What::Action { micro_batch };
            self.keep(Event { name, unit, what, begin, end: Instant::now() });
        }
    }

    /// A communicator's place in the trace.
    pub fn stream(&self, axis: Arc<str>) -> Stream {
        let number = self.shared.streams.fetch_add(1, Ordering::Relaxed);
        Stream { trace: self.clone(), number, axis }
    }

    fn keep(&self, event: Event) {
        let mut kept = self.kept();
        if kept.events.len() < kept.events.capacity() {
            kept.events.push(event);
        } else {
            kept.lost += 1;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One communicator of a rank.
#[derive(Clone, Debug)]
pub struct Stream {
    trace: Trace,
    number: usize,
    axis: Arc<str>,
}

/// Where a collective is carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CarriedOut {
    /// While the rank computes; whoever needs the result waits for it.
    InTheBackground,
    /// By the thread that computes, which waits all the time.
    ByTheCaller,
}

impl Stream {
    /// Begins a collective.
    pub fn begin(
        &self,
        kind: Collective,
        sequence: u64,
        payload_bytes: usize,
        unit: Option<Arc<str>>,
        carried_out: CarriedOut,
    ) -> Span {
        Span {
            trace: self.trace.clone(),
            id: CollectiveId { stream: self.number, axis: Arc::clone(&self.axis), sequence },
            kind,
            payload_bytes: payload_bytes as u64,
            unit,
            carried_out,
            is_kept: self.trace.shared.recording.load(Ordering::Relaxed),
            begin: Instant::now(),
        }
    }
}

/// A collective under way.
#[derive(Debug)]
pub struct Span {
    trace: Trace,
    id: CollectiveId,
    kind: Collective,
    payload_bytes: u64,
    unit: Option<Arc<str>>,
    carried_out: CarriedOut,
    is_kept: bool,
    begin: Instant,
}

impl Span {
    /// The collective has ended.
    pub(crate) fn ended(&self) {
        let end = Instant::now();
        self.keep(
            What::Collective { id: self.id.clone(), payload_bytes: self.payload_bytes },
            self.begin,
            end,
        );
        if self.carried_out == CarriedOut::ByTheCaller {
            self.waited(self.begin, end);
        }
    }

    /// The thread that computes begins to wait. `None` if it has done so already.
    pub(crate) fn begin_wait(&self) -> Option<Instant> {
        (self.carried_out == CarriedOut::InTheBackground).then(Instant::now)
    }

    /// It waits no longer.
    pub(crate) fn end_wait(&self, begin: Option<Instant>) {
        if let Some(begin) = begin {
            self.waited(begin, Instant::now());
        }
    }

    fn waited(&self, begin: Instant, end: Instant) {
        let ns = u64::try_from((end - begin).as_nanos()).unwrap_or(u64::MAX);
        self.trace.shared.waited_ns.fetch_add(ns, Ordering::Relaxed);
        self.keep(What::Wait(self.id.clone()), begin, end);
    }

    fn keep(&self, what: What, begin: Instant, end: Instant) {
        if self.is_kept {
            let (name, unit) = (self.kind.name(), self.unit.clone());
            self.trace.keep(Event { name, unit, what, begin, end });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_without_recording_and_waits_are_summed_all_the_same() {
        let trace = Trace::default();
        let stream = trace.stream("dp_shard".into());
        trace.reserve(4);
        let pass = Duration::from_millis(2);
        let collective = |carried_out| {
            let span = stream.begin(Collective::AllGather, 7, 64, Some("head".into()), carried_out);
            std::thread::sleep(pass);
            span.ended();
            span.end_wait(span.begin_wait());
        };
        collective(CarriedOut::ByTheCaller);
        assert!(trace.waited() >= pass && trace.begin().is_none());
        assert!(trace.take().events.is_empty());

        trace.reserve(3);
        trace.record(true);
        let begin = trace.begin();
        collective(CarriedOut::InTheBackground);
        trace.end_action(begin, "forward", Some("head".into()), Some(1));
        trace.end_action(trace.begin(), "norm", None, None);
        let Kept { events, lost } = trace.take();
        let names: Vec<_> = events.iter().map(|event| event.name).collect();
        assert_eq!((names.as_slice(), lost), (["all_gather", "all_gather", "forward"].as_slice(), 1));
        let id = CollectiveId { stream: 0, axis: "dp_shard".into(), sequence: 7 };
        assert_eq!(events[0].what, What::Collective { id: id.clone(), payload_bytes: 64 });
        assert_eq!(events[1].what, What::Wait(id));
        assert!(events[0].end - events[0].begin >= pass && events[1].begin >= events[0].end);
        assert!(events[2].begin <= events[0].begin && events[2].end >= events[1].end);
    }
}
