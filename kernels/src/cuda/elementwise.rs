//! Elementwise ops and plain sums on a GPU.

use super::combine::combine;
use super::driver::Driver;
use super::sums::{add_partials, chunks_config, column_sum_partials};
use super::{Cuda, LaunchConfig};
use crate::ops::elementwise::{Combine, ElementwiseKernels};
use crate::{DType, Result, TensorMut, TensorRef, kernel_name};

impl<Dr: Driver> ElementwiseKernels for Cuda<Dr> {
    fn add_assign(&self, x: TensorRef<'_, Self>, y: TensorMut<'_, Self>) -> Result<()> {
        let kernel = kernel_name!("add_assign", x.dtype(), y.dtype());
        let (config, len) = (pairs(x.len(), x.dtype(), y.dtype()), x.len() as u64);
        self.launch(kernel, config, &[x.into(), y.into(), len.into()])
    }

    fn combine(
        &self,
        how: Combine,
        before: &[TensorRef<'_, Self>],
        own: TensorMut<'_, Self>,
        after: &[TensorRef<'_, Self>],
    ) -> Result<()> {
        combine(self, how, before, own, after)
    }

    fn cast(&self, src: TensorRef<'_, Self>, dst: TensorMut<'_, Self>) -> Result<()> {
        let kernel = kernel_name!("cast", src.dtype(), dst.dtype());
        let (config, len) = (pairs(src.len(), src.dtype(), dst.dtype()), src.len() as u64);
        self.launch(kernel, config, &[src.into(), dst.into(), len.into()])
    }

    fn fill(&self, value: f32, dst: TensorMut<'_, Self>) -> Result<()> {
        let kernel = kernel_name!("fill", dst.dtype());
        let len = dst.len();
        let config = LaunchConfig::elements(len, dst.dtype().size_bytes());
        self.launch(kernel, config, &[dst.into(), value.into(), (len as u64).into()])
    }

    fn column_sum(
        &self,
        x: TensorRef<'_, Self>,
        sums: TensorMut<'_, Self>,
        mut partials: TensorMut<'_, Self>,
    ) -> Result<()> {
        column_sum_partials(self, x, partials.reborrow())?;
        add_partials(self, partials.into_ref(), sums)
    }

    fn chunk_sums(&self, x: TensorRef<'_, Self>, partials: TensorMut<'_, Self>) -> Result<()> {
        let len = x.len();
        self.launch("chunk_sums", chunks_config(len), &[x.into(), partials.into(), (len as u64).into()])
    }
}

/// For a kernel that goes through two tensors of `len` elements side by side.
fn pairs(len: usize, a: DType, b: DType) -> LaunchConfig {
    LaunchConfig::elements(len, a.size_bytes().max(b.size_bytes()))
}
