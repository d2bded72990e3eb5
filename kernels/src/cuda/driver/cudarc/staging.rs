//! Uploads: host bytes go through a ring of pinned buffers, so that the host may go on and change them.
//!
//! A buffer is used again when the copy from it is done. The host waits for that only when it is as many uploads
//! ahead of the GPU as there are buffers: several micro-batches.

use std::sync::Arc;

use ::cudarc::driver::sys::{self, CUdeviceptr};

use super::call::check;
use super::memory::PinnedMemory;
use super::stream::{Event, Stream};
use crate::Result;

/// Bytes of a buffer: large enough that a copy takes longer than its start.
const BUFFER_BYTES: usize = 1 << 20;

/// Buffers of a stream that uploads; a micro-batch takes four, a step one more.
const BUFFERS: usize = 32;

/// The ring of one stream.
pub(super) struct Staging {
    memory: PinnedMemory,
    /// Of each buffer: the end of the last copy from it.
    copied: Vec<Event>,
    next: usize,
    stream: Arc<Stream>,
}

impl Staging {
    /// A ring for the uploads of this stream.
    pub(super) fn new(stream: &Arc<Stream>) -> Result<Self> {
        let memory = PinnedMemory::new(stream.context(), BUFFERS * BUFFER_BYTES)?;
        let copied = (0..BUFFERS).map(|_| Event::new(stream.context())).collect::<Result<_>>()?;
        Ok(Staging { memory, copied, next: 0, stream: Arc::clone(stream) })
    }

    /// Queues the copy of `src` to device memory.
    ///
    /// # Safety
    /// `to` leads to as many bytes as `src` has, in memory that lives until the stream has passed this copy.
    pub(super) unsafe fn upload(&mut self, src: &[u8], to: CUdeviceptr) -> Result<()> {
        for (piece, src) in src.chunks(BUFFER_BYTES).enumerate() {
            let buffer = self.next;
            self.next = (self.next + 1) % BUFFERS;
            self.copied[buffer].synchronize()?;
            // SAFETY: the last copy from this buffer has ended, as its event has just said.
            let from = unsafe { self.memory.write(buffer * BUFFER_BYTES, src) };
            let to = to + (piece * BUFFER_BYTES) as u64;
            let stream = self.stream.enter()?;
            // SAFETY: `from` leads to `src.len()` pinned bytes that are not written again before the event recorded
            // below, and that are freed only after the stream has been waited for. `to` is the caller's promise.
            let answer = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), src.len(), stream) };
            check("cuMemcpyHtoDAsync", answer)?;
            self.copied[buffer].record(&self.stream)?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    /// The buffers must outlive the copies from them. A stream that fails copies nothing any more.
    fn drop(&mut self) {
        let _failed = self.stream.synchronize();
    }
}
