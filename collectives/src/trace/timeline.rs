//! Intervals of a device's work. A GPU reaches them long after the host has queued them, so they wait here for their
//! times; on a CPU they have them at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use tisserand_kernels::{Result, Storage};

use super::{Event, Trace, What, lock};

/// Intervals of one kind of work, in the order of their ends.
pub struct Timeline<D: Storage> {
    trace: Trace,
    /// The rank's own handle.
    device: D,
    /// Not reached yet. It grows to the most that is ever under way and no further.
    open: Mutex<VecDeque<Interval<D>>>,
}

/// What has intervals that may have been reached.
pub(super) trait Settle: Send + Sync {
    /// Takes up those that have.
    fn settle(&self);
}

/// From one moment to another.
pub(super) struct Interval<D: Storage> {
    pub(super) begin: D::Moment,
    pub(super) end: D::Moment,
    /// Whether its length is added to the time waited.
    pub(super) is_counted: bool,
    /// The events to keep.
    pub(super) kept: [Option<Label>; 2],
}

/// An [`Event`] without its times.
pub(super) struct Label {
    pub(super) name: &'static str,
    pub(super) unit: Option<Arc<str>>,
    pub(super) what: What,
}

impl<D: Storage> Timeline<D> {
    /// A timeline of `trace`. `device` is the rank's own handle.
    pub fn new(trace: &Trace, device: &D) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| {
            trace.add(this.clone());
            Timeline { trace: trace.clone(), device: device.clone(), open: Mutex::default() }
        })
    }

    /// Begins an action of the rank's own handle. `None` while nothing is recorded.
    ///
    /// # Errors
    /// The device has failed.
    pub fn begin_action(&self) -> Result<Option<D::Moment>> {
        self.trace.is_recording().then(|| self.device.moment()).transpose()
    }

    /// Ends what [`Timeline::begin_action`] began.
    ///
    /// # Errors
    /// The device has failed.
    pub fn end_action(
        &self,
        begin: Option<D::Moment>,
        name: &'static str,
        unit: Option<Arc<str>>,
        micro_batch: Option<usize>,
    ) -> Result<()> {
        let Some(begin) = begin else { return Ok(()) };
        let label = Label { name, unit, what: What::Action { micro_batch } };
        let end = self.device.moment()?;
        self.push(Interval { begin, end, is_counted: false, kept: [Some(label), None] });
        Ok(())
    }

    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(super) fn device(&self) -> &D {
        &self.device
    }

    pub(super) fn push(&self, interval: Interval<D>) {
        lock(&self.open).push_back(interval);
        self.settle();
    }

    /// Whether it could be taken up. An error of the device is told by whatever works on it; here a time is lost.
    fn take_up(&self, interval: &mut Interval<D>) -> bool {
        let Interval { begin, end, is_counted, kept } = interval;
        match self.device.elapsed(begin, end) {
            Ok(None) => return false,
            Ok(Some(time)) if *is_counted => self.trace.waited(time),
            Ok(Some(_)) | Err(_) => {}
        }
        for Label { name, unit, what } in kept.iter_mut().filter_map(Option::take) {
            match (self.device.reached_at(begin), self.device.reached_at(end)) {
                (Ok(Some(begin)), Ok(Some(end))) => self.trace.keep(Event { name, unit, what, begin, end }),
                _ => self.trace.lose(),
            }
        }
        true
    }
}

impl<D: Storage> Settle for Timeline<D> {
    fn settle(&self) {
        let mut open = lock(&self.open);
        while open.front_mut().is_some_and(|interval| self.take_up(interval)) {
            open.pop_front();
        }
    }
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use tisserand_kernels::Cuda;
    use tisserand_kernels::cuda::driver::emulated::{Completion, Emulated, Settings};

    use super::*;

    #[test]
    fn intervals_wait_for_the_device_and_take_no_more_room_than_before() {
        let settings = Settings { completion: Completion::Late, ..Settings::default() };
        let (trace, device) = (Trace::default(), Cuda::new(Emulated::new(settings)));
        let timeline = Timeline::new(&trace, &device);
        trace.reserve(200);
        trace.record(true);
        let mut rooms = Vec::new();
        for _ in 0..20 {
            for _ in 0..10 {
                let begin = timeline.begin_action().unwrap();
                timeline.end_action(begin, "forward", None, None).unwrap();
            }
            assert_eq!(lock(&timeline.open).len(), 10);
            device.synchronize().unwrap();
            trace.settle();
            assert!(lock(&timeline.open).is_empty());
            rooms.push(lock(&timeline.open).capacity());
        }
        assert!(rooms.iter().all(|room| *room == rooms[0]), "{rooms:?}");
        assert_eq!(trace.take().events.len(), 200);
    }
}
