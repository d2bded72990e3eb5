//! The gate of the feed-forward layer on a GPU.

use super::driver::Driver;
use super::{Cuda, not_there};
use crate::ops::swiglu::{SwigluKernels, SwigluShape};
use crate::{Result, TensorMut, TensorRef};

impl<Dr: Driver> SwigluKernels for Cuda<Dr> {
    fn swiglu_forward(
        &self,
        _shape: SwigluShape,
        _gate_up: TensorRef<'_, Self>,
        _out: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("swiglu: swiglu_forward")
    }

    fn swiglu_backward(
        &self,
        _shape: SwigluShape,
        _gate_up: TensorRef<'_, Self>,
        _dout: TensorRef<'_, Self>,
        _dgate_up: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("swiglu: swiglu_backward")
    }
}
