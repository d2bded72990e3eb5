//! The arena's memory on the host, and the only way from views to slices.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use crate::{Element, KernelError, Result, Storage, TensorMut, TensorRef};

/// Page-aligned zeroed host memory. Its bytes are reached only through views of arena blocks.
pub struct HostMemory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `HostMemory` owns its allocation and hands out no reference by itself; slices are made from
// views, whose borrow of a `Block` keeps writers exclusive (see `as_slice` and `as_mut_slice`).
unsafe impl Send for HostMemory {}
// SAFETY: as above: a shared `HostMemory` gives access to no byte without a view.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    const ALIGNMENT_BYTES: usize = 4096;

    /// Allocates `bytes` zeroed bytes. The pages are touched first by whoever writes them.
    pub fn allocate(bytes: usize) -> Result<Self> {
        let out_of_memory = KernelError::OutOfMemory { device: "cpu", bytes };
        let Ok(layout) = Layout::from_size_align(bytes.max(1), Self::ALIGNMENT_BYTES) else {
            return Err(out_of_memory);
        };
        // SAFETY: the layout has a size of at least one byte.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(out_of_memory)?;
        Ok(HostMemory { start, layout })
    }

    /// Address of the bytes `offset .. offset + len`.
    ///
    /// # Panics
    /// If the range leaves the allocation.
    fn address(&self, offset_bytes: usize, len_bytes: usize) -> *mut u8 {
        let inside = offset_bytes.checked_add(len_bytes).is_some_and(|end| end <= self.layout.size());
        assert!(inside, "bytes {offset_bytes}..+{len_bytes} leave an allocation of {}", self.layout.size());
        // SAFETY: the offset was just checked to lie inside the one allocation that `start` begins.
        unsafe { self.start.as_ptr().add(offset_bytes) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this very layout, and views cannot outlive us.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl<'a, D: Storage<Memory = HostMemory>> TensorRef<'a, D> {
    /// The elements.
    ///
    /// # Panics
    /// If the tensor has another dtype: kernels are called behind checked front doors.
    pub fn as_slice<T: Element>(&self) -> &'a [T] {
        assert_eq!(self.dtype(), T::DTYPE, "tensor read with another element type");
        let start = self.memory.address(self.offset_bytes, self.size_bytes()).cast::<T>();
        // SAFETY: the range is inside the allocation, initialised (zeroed, then only plain data written)
        // and aligned: blocks start at 256 bytes and views step by whole elements. The view borrows its
        // block for 'a and blocks are disjoint, so no `TensorMut` to these elements exists meanwhile.
        // `T: Pod` admits every bit pattern.
        unsafe { std::slice::from_raw_parts(start, self.len()) }
    }
}

impl<'a, D: Storage<Memory = HostMemory>> TensorMut<'a, D> {
    /// The elements, writable for as long as this view is kept.
    ///
    /// # Panics
    /// If the tensor has another dtype: kernels are called behind checked front doors.
    pub fn into_slice<T: Element>(self) -> &'a mut [T] {
        let view = self.as_ref();
        assert_eq!(view.dtype(), T::DTYPE, "tensor written with another element type");
        let start = view.memory.address(view.offset_bytes, view.size_bytes()).cast::<T>();
        // SAFETY: bounds, alignment and initialisation as in `as_slice`. A `TensorMut` comes from a
        // mutable borrow of its block (or a split of one) for 'a and is consumed here, so this slice is
        // the only way to these elements for 'a.
        unsafe { std::slice::from_raw_parts_mut(start, view.len()) }
    }

    /// The elements, writable while this view is borrowed; panics as [`TensorMut::into_slice`] does.
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        self.reborrow().into_slice()
    }
}
