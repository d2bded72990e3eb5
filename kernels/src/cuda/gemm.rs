//! Matrix products on a GPU.

use super::driver::Driver;
use super::{Cuda, not_there};
use crate::ops::Write;
use crate::ops::gemm::{GemmKernels, GemmShape, Layout};
use crate::{Result, TensorMut, TensorRef};

impl<Dr: Driver> GemmKernels for Cuda<Dr> {
    fn gemm(
        &self,
        _layout: Layout,
        _shape: GemmShape,
        _a: TensorRef<'_, Self>,
        _b: TensorRef<'_, Self>,
        _bias: Option<TensorRef<'_, Self>>,
        _write: Write,
        _c: TensorMut<'_, Self>,
        _workspace: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("gemm: gemm")
    }
}
