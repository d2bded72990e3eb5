//! Elementwise ops and plain sums on a GPU.

use super::driver::Driver;
use super::{Cuda, LaunchConfig, not_there};
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
        _how: Combine,
        _before: &[TensorRef<'_, Self>],
        _own: TensorMut<'_, Self>,
        _after: &[TensorRef<'_, Self>],
    ) -> Result<()> {
        not_there("elementwise::combine")
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
        _x: TensorRef<'_, Self>,
        _sums: TensorMut<'_, Self>,
        _partials: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("elementwise::column_sum")
    }

    fn chunk_sums(&self, _x: TensorRef<'_, Self>, _partials: TensorMut<'_, Self>) -> Result<()> {
        not_there("elementwise::sum")
    }
}

/// For a kernel that goes through two tensors of `len` elements side by side.
fn pairs(len: usize, a: DType, b: DType) -> LaunchConfig {
    LaunchConfig::elements(len, a.size_bytes().max(b.size_bytes()))
}
