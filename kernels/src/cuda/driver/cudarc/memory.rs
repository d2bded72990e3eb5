//! Memory of a GPU, and pinned memory of the host that it can copy from while the host goes on.

use std::ptr::NonNull;
use std::sync::Arc;

use ::cudarc::driver::sys::{self, CUdeviceptr, CUresult};

use super::call::check;
use super::context::Context;
use crate::{KernelError, Result};

/// Memory of a GPU. Graphs keep it too, if they name it.
pub struct CudaMemory {
    allocation: Arc<Allocation>,
}

/// One allocation on a GPU, freed when it is dropped and all work queued on the GPU is done.
pub(super) struct Allocation {
    context: Arc<Context>,
    start: CUdeviceptr,
    len: usize,
}

impl CudaMemory {
    /// `len` bytes of no particular contents.
    pub(super) fn new(context: &Arc<Context>, len: usize) -> Result<Self> {
        context.enter()?;
        let mut start = 0;
        // The driver refuses to allocate nothing.
        // SAFETY: the context is current; the driver writes one address.
        match unsafe { sys::cuMemAlloc_v2(&mut start, len.max(1)) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Err(KernelError::OutOfMemory { device: "cuda", bytes: len })
            }
            answer => {
                check("cuMemAlloc", answer)?;
                let allocation = Allocation { context: Arc::clone(context), start, len };
                Ok(CudaMemory { allocation: Arc::new(allocation) })
            }
        }
    }

    /// What a graph keeps.
    pub(super) fn allocation(&self) -> &Arc<Allocation> {
        &self.allocation
    }

    /// Address of `len` bytes at `offset`, for work in `context`.
    ///
    /// # Errors
    /// If the memory is that of another GPU.
    ///
    /// # Panics
    /// If the bytes lie outside.
    pub(super) fn address(&self, context: &Context, offset: usize, len: usize) -> Result<CUdeviceptr> {
        let Allocation { context: home, start, len: size } = self.allocation.as_ref();
        if !home.is(context) {
            let (ours, theirs) = (context.gpu().ordinal, home.gpu().ordinal);
            let message = format!("work of GPU {ours} on memory of GPU {theirs} (please report this)");
            return Err(KernelError::Device(message));
        }
        let inside = offset.checked_add(len).is_some_and(|end| end <= *size);
        assert!(inside, "bytes {offset}..+{len} leave an allocation of {size}");
        Ok(start + offset as u64)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // Rather lost than freed under work that is not done.
        if self.context.finish() {
            // SAFETY: allocated once, freed once, here, when nothing that was queued needs it any more. There is nobody
            // to tell of an error.
            let _ = unsafe { sys::cuMemFree_v2(self.start) };
        }
    }
}

/// Bytes of the host that do not move, so that a GPU copies them by itself.
pub(super) struct PinnedMemory {
    context: Arc<Context>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: plain bytes, reached only through `&mut self` here and by copies that the owner waits for.
unsafe impl Send for PinnedMemory {}

impl PinnedMemory {
    /// `len` bytes.
    pub(super) fn new(context: &Arc<Context>, len: usize) -> Result<Self> {
        context.enter()?;
        let mut start = std::ptr::null_mut();
        // SAFETY: the context is current; the driver writes one pointer.
        let answer = unsafe { sys::cuMemHostAlloc(&mut start, len, sys::CU_MEMHOSTALLOC_PORTABLE) };
        check(&format!("cuMemHostAlloc of {len} bytes"), answer)?;
        let start = NonNull::new(start.cast()).expect("a successful allocation has an address");
        Ok(PinnedMemory { context: Arc::clone(context), start, len })
    }

    /// Copies `src` to `offset` and returns where it is now.
    ///
    /// # Safety
    /// No copy queued on a GPU still reads these bytes.
    ///
    /// # Panics
    /// If it does not fit.
    pub(super) unsafe fn write(&mut self, offset: usize, src: &[u8]) -> *const u8 {
        let inside = offset.checked_add(src.len()).is_some_and(|end| end <= self.len);
        assert!(inside, "bytes {offset}..+{} leave pinned memory of {}", src.len(), self.len);
        // SAFETY: just checked to lie inside; `src` is no part of it, since no reference to it is ever made; the
        // caller promises that nobody reads it meanwhile.
        unsafe {
            let to = self.start.as_ptr().add(offset);
            to.copy_from_nonoverlapping(src.as_ptr(), src.len());
            to
        }
    }
}

impl Drop for PinnedMemory {
    /// The owner has waited for all copies from it.
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated once, freed once, here. There is nobody to tell of an error.
            let _ = unsafe { sys::cuMemFreeHost(self.start.as_ptr().cast()) };
        }
    }
}
