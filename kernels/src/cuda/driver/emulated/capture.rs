//! Graphs: what a stream was asked to do, recorded instead of done.

use std::sync::Arc;

use super::Stream;
use super::gpu::Gpu;
use super::work::Work;
use crate::Result;
use crate::cuda::driver::refused_elsewhere;

/// Recorded work. Its ranges keep their allocations. It is done as if it had been queued piece by piece, so that a
/// piece which reads what was freed meanwhile, or never written, is found on every replay.
pub struct EmulatedGraph {
    gpu: Arc<Gpu>,
    works: Arc<[Work]>,
}

impl EmulatedGraph {
    /// Kernels, copies and zeros in it.
    pub fn commands(&self) -> usize {
        self.works.iter().filter(|work| work.is_command()).count()
    }

    /// All of it, as one piece of work for a stream of this device.
    pub(super) fn work_on(&self, gpu: &Arc<Gpu>) -> Result<Work> {
        if !Arc::ptr_eq(&self.gpu, gpu) {
            return Err(refused_elsewhere());
        }
        Ok(Work::Graph(Arc::clone(&self.works)))
    }
}

/// A stream that records, until this is dropped.
pub(super) struct Capture<'a> {
    stream: &'a Stream,
}

impl<'a> Capture<'a> {
    /// Begins.
    pub(super) fn begin(stream: &'a Stream) -> Result<Self> {
        stream.gpu.begin_capture(stream.number)?;
        Ok(Capture { stream })
    }

    /// What was recorded.
    pub(super) fn end(self) -> EmulatedGraph {
        let works = self.stream.gpu.end_capture(self.stream.number).into();
        EmulatedGraph { gpu: Arc::clone(&self.stream.gpu), works }
    }
}

impl Drop for Capture<'_> {
    /// After [`Capture::end`] nothing is left to end.
    fn drop(&mut self) {
        drop(self.stream.gpu.end_capture(self.stream.number));
    }
}
