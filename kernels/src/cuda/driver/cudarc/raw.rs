//! The driver for other libraries of the vendor.

use std::ffi::c_void;

use super::{CudaEvent, CudaMemory, Cudarc};
use crate::Result;
use crate::cuda::driver::{RawDriver, Span};

impl RawDriver for Cudarc {
    fn raw_stream(&self) -> Result<*mut c_void> {
        // Whatever the library queues, it is not ours to record.
        self.stream.recorded().refuse("work of another library")?;
        Ok(self.stream.enter()?.cast())
    }

    fn raw_address(&self, span: Span<'_, CudaMemory>) -> Result<u64> {
        self.address(span)
    }

    fn is_reached(&self, event: &CudaEvent) -> Result<bool> {
        event.event().is_reached()
    }
}
