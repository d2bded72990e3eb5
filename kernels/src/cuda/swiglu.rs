//! The gate of the feed-forward layer on a GPU.

use super::driver::Driver;
use super::{Cuda, LaunchConfig};
use crate::ops::swiglu::{SwigluKernels, SwigluShape};
use crate::{Result, TensorMut, TensorRef, kernel_name};

impl<Dr: Driver> SwigluKernels for Cuda<Dr> {
    fn swiglu_forward(
        &self,
        shape: SwigluShape,
        gate_up: TensorRef<'_, Self>,
        out: TensorMut<'_, Self>,
    ) -> Result<()> {
        let kernel = kernel_name!("swiglu_forward", gate_up.dtype());
        let (config, len, width) = launch(shape);
        self.launch(kernel, config, &[gate_up.into(), out.into(), len.into(), width.into()])
    }

    fn swiglu_backward(
        &self,
        shape: SwigluShape,
        gate_up: TensorRef<'_, Self>,
        dout: TensorRef<'_, Self>,
        dgate_up: TensorMut<'_, Self>,
    ) -> Result<()> {
        let kernel = kernel_name!("swiglu_backward", gate_up.dtype());
        let (config, len, width) = launch(shape);
        let args = [gate_up.into(), dout.into(), dgate_up.into(), len.into(), width.into()];
        self.launch(kernel, config, &args)
    }
}

/// The launch, and the two extents that the kernels take.
///
/// # Panics
/// If the kernels cannot count groups in 32 bits: no shape of training comes near.
fn launch(shape: SwigluShape) -> (LaunchConfig, u64, u32) {
    let len = shape.tokens * shape.width;
    assert!(len < 1 << 35 && shape.width < 1 << 32, "{shape:?}: the kernels count groups in 32 bits");
    (LaunchConfig::groups(len), len as u64, shape.width as u32)
}
