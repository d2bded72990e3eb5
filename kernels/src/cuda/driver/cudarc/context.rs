//! The GPU's context: what all handles of one GPU share.

use std::sync::Arc;

use ::cudarc::driver::sys::{self, CUcontext, CUctx_flags, CUresult};

use super::call::check;
use super::captures::while_nobody_records;
use super::probe::Gpu;
use crate::Result;

/// The primary context of a GPU, which other libraries in this process use too (NCCL does).
pub(super) struct Context {
    gpu: Gpu,
    raw: CUcontext,
}

// SAFETY: a context is no thread's own; the driver's functions may be called by several threads at once.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Opens a GPU, and makes its context the calling thread's.
    pub(super) fn open(gpu: Gpu) -> Result<Arc<Self>> {
        // A host thread that waits for the GPU sleeps: its core has other ranks' work to do.
        let flags = CUctx_flags::CU_CTX_SCHED_BLOCKING_SYNC as u32;
        // SAFETY: the device comes from the driver.
        let answer = unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(gpu.raw, flags) };
        // Whoever has opened it before has chosen how to wait.
        if answer != CUresult::CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE {
            check("cuDevicePrimaryCtxSetFlags", answer)?;
        }
        let mut raw = std::ptr::null_mut();
        // SAFETY: the device comes from the driver, which writes one handle.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut raw, gpu.raw) })?;
        // From here on dropping it releases it.
        let context = Context { gpu, raw };
        context.enter()?;
        Ok(Arc::new(context))
    }

    /// Makes it the calling thread's: before every call that means the current context.
    pub(super) fn enter(&self) -> Result<()> {
        // SAFETY: the context was retained and is released only when nobody holds it any more.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.raw) })
    }

    /// Returns when all work of all its streams is done: before anything that such work may use goes away. A context
    /// that has failed does no work any more.
    ///
    /// False if the calling thread records a graph: then nothing was waited for, and what was to go away must stay.
    pub(super) fn finish(&self) -> bool {
        while_nobody_records(|| {
            if self.enter().is_ok() {
                // SAFETY: takes no pointer. There is nobody to tell of an error.
                let _ = unsafe { sys::cuCtxSynchronize() };
            }
        })
    }

    /// The GPU behind it.
    pub(super) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Whether the two are one: handles that were opened one by one share the GPU's context.
    pub(super) fn is(&self, other: &Context) -> bool {
        self.raw == other.raw
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, released once, here. Streams, memory and kernels hold the context, so they are gone.
        // There is nobody to tell of an error.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.gpu.raw) };
    }
}
