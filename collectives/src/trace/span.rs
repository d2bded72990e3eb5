//! A collective and the wait for it, as a trace shows them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tisserand_kernels::{KernelError, Storage};

use super::timeline::{Interval, Label};
use super::{CollectiveId, Timeline, Trace, What};
use crate::{Collective, CommError};

/// One communicator of a rank. Clones share it.
pub struct Stream<D: Storage> {
    shared: Arc<Shared<D>>,
}

struct Shared<D: Storage> {
    number: usize,
    axis: Arc<str>,
    /// What the rank's own handle waits for.
    waits: Arc<Timeline<D>>,
    /// What is carried out by other handles.
    collectives: Arc<Timeline<D>>,
}

impl<D: Storage> Clone for Stream<D> {
    fn clone(&self) -> Self {
        Stream { shared: Arc::clone(&self.shared) }
    }
}

/// Where a collective is carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CarriedOut {
    /// While the rank computes; whatever needs the result waits for it.
    InTheBackground,
    /// By the rank's own handle, which waits all the time.
    ByTheCaller,
}

impl<D: Storage> Stream<D> {
    /// A communicator's place in the trace; `compute` is the rank's own handle.
    pub(crate) fn new(trace: &Trace, axis: Arc<str>, compute: &D) -> Self {
        let number = trace.shared.streams.fetch_add(1, Ordering::Relaxed);
        let (waits, collectives) = (Timeline::new(trace, compute), Timeline::new(trace, compute));
        Stream { shared: Arc::new(Shared { number, axis, waits, collectives }) }
    }

    /// A collective that was asked for. Kept if something is recorded now.
    pub(crate) fn span(
        &self,
        kind: Collective,
        sequence: u64,
        payload_bytes: usize,
        unit: Option<Arc<str>>,
        carried_out: CarriedOut,
    ) -> Span<D> {
        let is_kept = self.shared.waits.trace().is_recording();
        let payload_bytes = payload_bytes as u64;
        Span { stream: self.clone(), kind, sequence, payload_bytes, unit, carried_out, is_kept }
    }
}

/// A collective. Clones are the same one.
pub struct Span<D: Storage> {
    stream: Stream<D>,
    kind: Collective,
    sequence: u64,
    payload_bytes: u64,
    unit: Option<Arc<str>>,
    carried_out: CarriedOut,
    is_kept: bool,
}

impl<D: Storage> Clone for Span<D> {
    fn clone(&self) -> Self {
        Span { stream: self.stream.clone(), unit: self.unit.clone(), ..*self }
    }
}

impl<D: Storage> Span<D> {
    /// The rank's own handle.
    pub(crate) fn compute(&self) -> &D {
        self.stream.shared.waits.device()
    }

    /// It begins with what is queued on `device` from now on. `None` if nobody will ask for how long it took.
    pub(crate) fn begin(&self, device: &D) -> Result<Option<D::Moment>, KernelError> {
        let is_counted = self.carried_out == CarriedOut::ByTheCaller && self.counts_waits();
        (self.is_kept || is_counted).then(|| device.moment()).transpose()
    }

    /// It ends with what has been queued on `device`.
    pub(crate) fn end(&self, device: &D, begin: Option<D::Moment>) -> Result<(), KernelError> {
        let Some(begin) = begin else { return Ok(()) };
        let (end, collective) = (device.moment()?, self.collective());
        let Shared { waits, collectives, .. } = &*self.stream.shared;
        match self.carried_out {
            CarriedOut::InTheBackground => {
                collectives.push(Interval { begin, end, is_counted: false, kept: [collective, None] });
            }
            CarriedOut::ByTheCaller => {
                let (is_counted, kept) = (self.counts_waits(), [collective, self.wait()]);
                waits.push(Interval { begin, end, is_counted, kept });
            }
        }
        Ok(())
    }

    /// Makes the rank's own handle wait, by `wait`, and notes how long it does.
    pub(crate) fn waiting<R>(&self, wait: impl FnOnce(&D) -> Result<R, CommError>) -> Result<R, CommError> {
        let compute = self.compute();
        // What the caller has carried out was a wait from its begin to its end.
        let is_noted =
            self.carried_out == CarriedOut::InTheBackground && (self.is_kept || self.counts_waits());
        let begin = is_noted.then(|| compute.moment()).transpose()?;
        let waited = wait(compute)?;
        if let Some(begin) = begin {
            let (end, is_counted) = (compute.moment()?, self.counts_waits());
            self.stream.shared.waits.push(Interval { begin, end, is_counted, kept: [self.wait(), None] });
        }
        Ok(waited)
    }

    fn counts_waits(&self) -> bool {
        self.stream.shared.waits.trace().counts_waits()
    }

    fn id(&self) -> CollectiveId {
        let Shared { number, axis, .. } = &*self.stream.shared;
        CollectiveId { stream: *number, axis: Arc::clone(axis), sequence: self.sequence }
    }

    fn collective(&self) -> Option<Label> {
        self.label(|id| What::Collective { id, payload_bytes: self.payload_bytes })
    }

    fn wait(&self) -> Option<Label> {
        self.label(What::Wait)
    }

    fn label(&self, what: impl FnOnce(CollectiveId) -> What) -> Option<Label> {
        let label = || Label { name: self.kind.name(), unit: self.unit.clone(), what: what(self.id()) };
        self.is_kept.then(label)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tisserand_kernels::Cpu;

    use super::*;
    use crate::trace::{Kept, Timeline};

    #[test]
    fn nothing_is_kept_without_recording_and_waits_are_summed_all_the_same() {
        let (trace, device) = (Trace::default(), Cpu::new(1).unwrap());
        let stream = Stream::new(&trace, "dp_shard".into(), &device);
        let actions = Timeline::new(&trace, &device);
        trace.reserve(4);
        let pass = Duration::from_millis(2);
        let collective = |carried_out| {
            let span = stream.span(Collective::AllGather, 7, 64, Some("head".into()), carried_out);
            let begun = span.begin(&device).unwrap();
            std::thread::sleep(pass);
            span.end(&device, begun).unwrap();
            span.waiting(|_| Ok(())).unwrap();
        };
        collective(CarriedOut::ByTheCaller);
        assert!(trace.take_waited() >= pass && actions.begin_action().unwrap().is_none());
        assert!(trace.take().events.is_empty());
        trace.count_waits(false);
        collective(CarriedOut::ByTheCaller);
        assert_eq!(trace.take_waited(), Duration::ZERO);

        trace.reserve(3);
        trace.record(true);
        let begin = actions.begin_action().unwrap();
        collective(CarriedOut::InTheBackground);
        actions.end_action(begin, "forward", Some("head".into()), Some(1)).unwrap();
        actions.end_action(actions.begin_action().unwrap(), "norm", None, None).unwrap();
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
