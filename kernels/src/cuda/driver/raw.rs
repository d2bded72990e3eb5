//! What another library needs to work on a GPU's memory in the order of its streams: NCCL.

use std::ffi::c_void;

use super::{Driver, Span};
use crate::cuda::Cuda;
use crate::{Result, TensorMut};

/// A driver of a GPU whose streams and addresses have a meaning outside of this program.
pub trait RawDriver: Driver {
    /// The stream as the vendor's libraries take it. The GPU becomes the calling thread's.
    fn raw_stream(&self) -> Result<*mut c_void>;

    /// Where a range lies in the GPU's memory.
    fn raw_address(&self, span: Span<'_, Self::Memory>) -> Result<u64>;

    /// Whether a stream has come to an event. Nobody waits.
    fn is_reached(&self, event: &Self::Event) -> Result<bool>;
}

impl<Dr: RawDriver> Cuda<Dr> {
    /// As [`RawDriver::raw_stream`].
    pub fn raw_stream(&self) -> Result<*mut c_void> {
        self.driver.raw_stream()
    }

    /// Where the elements of a tensor lie. Whoever uses the address answers for what the borrow checker no longer sees:
    /// that the memory is there, and nobody else's, until the work is done.
    pub fn raw_address(&self, tensor: TensorMut<'_, Self>) -> Result<u64> {
        self.driver.raw_address(Span::of_mut(tensor))
    }

    /// As [`RawDriver::is_reached`].
    pub fn is_reached(&self, event: &Dr::Event) -> Result<bool> {
        self.driver.is_reached(event)
    }
}
