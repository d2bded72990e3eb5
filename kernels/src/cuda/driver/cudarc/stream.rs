//! A stream of a GPU and the events that mark points in its work.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::cudarc::driver::sys::{self, CUevent, CUevent_flags, CUresult, CUstream, CUstream_flags};

use super::call::check;
use super::context::Context;
use super::graph::Recorded;
use crate::Result;

/// Points of a stream that can be waited for at a time; see [`Stream::point`].
const POINTS: usize = 256;

/// Whose blocks a GPU starts first, of streams that have some waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Priority {
    /// Of the work itself.
    Usual,
    /// Of collectives, for which others wait: they are short, and would otherwise stand behind every block of the
    /// product that is under way.
    High,
}

/// A queue of work that no other stream waits for, but by events.
pub(super) struct Stream {
    points: Vec<Event>,
    next_point: AtomicUsize,
    recorded: Recorded,
    raw: CUstream,
    context: Arc<Context>,
}

// SAFETY: a stream belongs to its context, not to a thread; several threads may queue work on it.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// An event.
pub(super) struct Event {
    raw: CUevent,
    context: Arc<Context>,
}

// SAFETY: an event belongs to its context, not to a thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Stream {
    /// A stream without work.
    pub(super) fn new(context: &Arc<Context>, priority: Priority) -> Result<Self> {
        context.enter()?;
        let points = (0..POINTS).map(|_| Event::new(context)).collect::<Result<_>>()?;
        let (mut usual, mut high) = (0, 0);
        // SAFETY: the context is current; the driver writes two integers, both 0 where streams have no priorities.
        let answer = unsafe { sys::cuCtxGetStreamPriorityRange(&mut usual, &mut high) };
        check("cuCtxGetStreamPriorityRange", answer)?;
        let priority = if priority == Priority::High { high } else { usual };
        let mut raw = std::ptr::null_mut();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current; the driver writes one handle.
        let answer = unsafe { sys::cuStreamCreateWithPriority(&mut raw, flags, priority) };
        check("cuStreamCreateWithPriority", answer)?;
        let (next_point, recorded) = (AtomicUsize::new(0), Recorded::default());
        Ok(Stream { points, next_point, recorded, raw, context: Arc::clone(context) })
    }

    /// The context, made current, and the stream for a call of the driver.
    pub(super) fn enter(&self) -> Result<CUstream> {
        self.context.enter()?;
        Ok(self.raw)
    }

    /// Its context.
    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Whether it records a graph, and of what memory.
    pub(super) fn recorded(&self) -> &Recorded {
        &self.recorded
    }

    /// Marks the point behind all work so far.
    ///
    /// Events are used again after [`POINTS`] calls, so that a step creates none. Who waits so late for an old point
    /// waits for a later one instead, which is as right: everything queued refers to what was queued before it, so that
    /// waits never form a circle.
    pub(super) fn point(&self) -> Result<usize> {
        let point = self.next_point.fetch_add(1, Ordering::Relaxed) % POINTS;
        self.points[point].record(self)?;
        Ok(point)
    }

    /// The event of a point.
    pub(super) fn event(&self, point: usize) -> &Event {
        &self.points[point]
    }

    /// Lets later work begin after the event. The host does not wait.
    pub(super) fn wait(&self, event: &Event) -> Result<()> {
        let stream = self.enter()?;
        // SAFETY: stream and event are alive. An event of another GPU would do as well.
        check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(stream, event.raw, 0) })
    }

    /// Returns when all work so far is done.
    pub(super) fn synchronize(&self) -> Result<()> {
        let stream = self.enter()?;
        // SAFETY: the stream is alive.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(stream) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: created once, destroyed once, here. The driver keeps what it needs until queued work is done.
            // There is nobody to tell of an error.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.raw) };
        }
    }
}

impl Event {
    /// An event without times that marks nothing yet: who waits for it does not wait.
    pub(super) fn new(context: &Arc<Context>) -> Result<Self> {
        Self::with(context, CUevent_flags::CU_EVENT_DISABLE_TIMING as u32)
    }

    /// An event with times, which costs the GPU a write more.
    pub(super) fn timed(context: &Arc<Context>) -> Result<Self> {
        Self::with(context, 0)
    }

    fn with(context: &Arc<Context>, flags: u32) -> Result<Self> {
        context.enter()?;
        let mut raw = std::ptr::null_mut();
        let flags = flags | CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
        // SAFETY: the context is current; the driver writes one handle.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut raw, flags) })?;
        Ok(Event { raw, context: Arc::clone(context) })
    }

    /// Marks the point behind all work of a stream so far.
    pub(super) fn record(&self, stream: &Stream) -> Result<()> {
        let stream = stream.enter()?;
        // SAFETY: stream and event are alive and, made by one driver handle, of one context.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.raw, stream) })
    }

    /// The event for a call of the driver.
    pub(super) fn raw(&self) -> CUevent {
        self.raw
    }

    /// Whether the point is reached.
    pub(super) fn is_reached(&self) -> Result<bool> {
        self.context.enter()?;
        // SAFETY: the event is alive.
        match unsafe { sys::cuEventQuery(self.raw) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            answer => check("cuEventQuery", answer).map(|()| true),
        }
    }

    /// Returns when the point is reached.
    pub(super) fn synchronize(&self) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the event is alive.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.raw) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: created once, destroyed once, here; the driver keeps what queued work needs of it. There is
            // nobody to tell of an error.
            let _ = unsafe { sys::cuEventDestroy_v2(self.raw) };
        }
    }
}
