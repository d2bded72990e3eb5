//! Graphs: what a stream was asked to do, recorded instead of done, and launched as one.
//!
//! Recorded addresses are used at every launch, so a graph keeps the allocations that they lead to, and the modules of
//! its kernels. CUDA C++ Programming Guide, "CUDA Graphs"; CUDA Driver API, "Stream Management", "Graph Management".

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ::cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUstreamCaptureMode};

use super::call::check;
use super::captures::Recording;
use super::context::Context;
use super::kernels::Kernels;
use super::memory::Allocation;
use super::stream::Stream;
use crate::Result;
use crate::cuda::driver::{refused_elsewhere, refused_in_capture};

/// Whether a stream records, and the memory that it has recorded so far.
#[derive(Default)]
pub(super) struct Recorded {
    is_recording: AtomicBool,
    memory: Mutex<Vec<Arc<Allocation>>>,
}

impl Recorded {
    /// Refuses `call` on a stream that records.
    pub(super) fn refuse(&self, call: &str) -> Result<()> {
        if self.is_recording.load(Ordering::Acquire) { Err(refused_in_capture(call)) } else { Ok(()) }
    }

    /// Memory that is about to be named by work.
    pub(super) fn names(&self, allocation: &Arc<Allocation>) {
        if self.is_recording.load(Ordering::Acquire) {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            // One or two: an arena, and what a peer has.
            if !memory.iter().any(|known| Arc::ptr_eq(known, allocation)) {
                memory.push(Arc::clone(allocation));
            }
        }
    }

    fn take(&self) -> Vec<Arc<Allocation>> {
        std::mem::take(&mut *self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A stream that records what the calling thread queues on it, until this is dropped. Never leaves its thread.
pub(super) struct Capture<'a> {
    stream: &'a Stream,
    is_open: bool,
    recording: Option<Recording>,
}

impl<'a> Capture<'a> {
    /// Begins.
    pub(super) fn begin(stream: &'a Stream) -> Result<Self> {
        if stream.recorded().is_recording.swap(true, Ordering::AcqRel) {
            return Err(refused_in_capture("capture"));
        }
        // From here on dropping it ends it.
        let mut capture = Capture { stream, is_open: false, recording: Some(Recording::begin()) };
        let raw = stream.enter()?;
        // Other threads may go on to allocate and the like.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive, and is not the context's default one, which cannot record.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(raw, mode) })?;
        capture.is_open = true;
        Ok(capture)
    }

    /// What was recorded, ready to be launched.
    pub(super) fn end(mut self, kernels: &Arc<Kernels>) -> Result<CudaGraph> {
        let template = self.close()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: a graph that the driver has just made; the driver copies it and writes one handle.
        let answer = unsafe { sys::cuGraphInstantiateWithFlags(&mut raw, template.raw, 0) };
        check("cuGraphInstantiate", answer)?;
        Ok(CudaGraph {
            raw: Mutex::new(raw),
            context: Arc::clone(self.stream.context()),
            _memory: self.stream.recorded().take(),
            _kernels: Arc::clone(kernels),
        })
    }

    fn close(&mut self) -> Result<Template> {
        self.is_open = false;
        let (stream, mut raw) = (self.stream.enter()?, std::ptr::null_mut());
        // SAFETY: the stream is alive, and this thread began its capture; the driver writes one handle, null where
        // it has given the recording up.
        let answer = unsafe { sys::cuStreamEndCapture(stream, &mut raw) };
        let template = Template { raw };
        check("cuStreamEndCapture", answer)?;
        Ok(template)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.is_open {
            // There is nobody to tell of an error: whoever comes here has one already.
            let _ended = self.close();
        }
        self.stream.recorded().is_recording.store(false, Ordering::Release);
        // Before the memory of a recording that failed, which may have no other owner.
        self.recording = None;
        drop(self.stream.recorded().take());
    }
}

/// A graph as it is recorded, of which those that are launched are made.
struct Template {
    raw: CUgraph,
}

impl Drop for Template {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: made once by the driver, destroyed once, here; what was made of it is a copy.
            let _ = unsafe { sys::cuGraphDestroy(self.raw) };
        }
    }
}

/// Recorded work that can be launched.
pub struct CudaGraph {
    /// The driver's functions on a graph must not meet on several threads.
    raw: Mutex<CUgraphExec>,
    context: Arc<Context>,
    _memory: Vec<Arc<Allocation>>,
    _kernels: Arc<Kernels>,
}

// SAFETY: a graph belongs to its context, not to a thread.
unsafe impl Send for CudaGraph {}
// SAFETY: as above; the handle is used behind its lock.
unsafe impl Sync for CudaGraph {}

impl CudaGraph {
    /// Queues it on a stream, behind its launches before.
    pub(super) fn launch(&self, stream: &Stream) -> Result<()> {
        if !self.context.is(stream.context()) {
            return Err(refused_elsewhere());
        }
        let raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = stream.enter()?;
        // SAFETY: graph and stream are alive and of one context. All that the graph names is kept by `self`, whose drop
        // waits for its launches.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(*raw, stream) })
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // What cannot be waited for is not destroyed; its memory and its kernels, which go next, then stay likewise.
        if self.context.finish() {
            let raw = *self.raw.get_mut().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: made once, destroyed once, here, when no launch of it is under way. There is nobody to tell of an
            // error.
            let _ = unsafe { sys::cuGraphExecDestroy(raw) };
        }
    }
}
