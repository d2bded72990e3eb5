//! Memory of an emulated device: allocations that live until nothing queued needs them.

use std::sync::Arc;

use super::abi::Allocation;
use crate::cuda::driver::Span;

/// One allocation; ranges of it keep it.
pub struct EmulatedMemory {
    pub(super) allocation: Arc<Allocation>,
}

/// A range of an allocation, which it keeps: what the queue holds in place of a borrowed [`Span`].
pub(super) struct Range {
    pub(super) allocation: Arc<Allocation>,
    pub(super) offset_bytes: usize,
    pub(super) size_bytes: usize,
}

impl From<Span<'_, EmulatedMemory>> for Range {
    fn from(span: Span<'_, EmulatedMemory>) -> Self {
        let allocation = Arc::clone(&span.memory.allocation);
        Range { allocation, offset_bytes: span.offset_bytes, size_bytes: span.size_bytes }
    }
}
