//! Memory of an emulated device: allocations that live until nothing queued needs them.

use std::sync::Arc;

use super::abi::Allocation;

/// One allocation; ranges of it keep it. All devices of the program reach it, as GPUs do that are each other's peers.
pub struct EmulatedMemory {
    pub(super) allocation: Arc<Allocation>,
}

impl EmulatedMemory {
    /// The bytes of a span of this memory.
    ///
    /// # Panics
    /// If they lie outside.
    pub(super) fn range(&self, offset_bytes: usize, size_bytes: usize) -> Range {
        self.allocation.check(offset_bytes, size_bytes);
        Range { allocation: Arc::clone(&self.allocation), offset_bytes, size_bytes }
    }
}

/// A range of an allocation, which it keeps: what a queue holds in place of a borrowed span.
pub(super) struct Range {
    pub(super) allocation: Arc<Allocation>,
    pub(super) offset_bytes: usize,
    pub(super) size_bytes: usize,
}

impl Range {
    /// Whether the two have a byte in common.
    pub(super) fn overlaps(&self, other: &Range) -> bool {
        Arc::ptr_eq(&self.allocation, &other.allocation)
            && self.offset_bytes < other.offset_bytes + other.size_bytes
            && other.offset_bytes < self.offset_bytes + self.size_bytes
    }
}
