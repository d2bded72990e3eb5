//! Root-mean-square norms on a GPU.

use super::driver::Driver;
use super::{Cuda, not_there};
use crate::ops::Write;
use crate::ops::rms_norm::{RmsNormKernels, RmsNormShape};
use crate::{Result, TensorMut, TensorRef};

impl<Dr: Driver> RmsNormKernels for Cuda<Dr> {
    fn rms_norm_forward(
        &self,
        _shape: RmsNormShape,
        _eps: f32,
        _x: TensorRef<'_, Self>,
        _weight: TensorRef<'_, Self>,
        _out: TensorMut<'_, Self>,
        _rstd: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("rms_norm: rms_norm_forward")
    }

    fn add_rms_norm_forward(
        &self,
        _shape: RmsNormShape,
        _eps: f32,
        _x: TensorRef<'_, Self>,
        _residual: TensorRef<'_, Self>,
        _weight: TensorRef<'_, Self>,
        _sum: TensorMut<'_, Self>,
        _out: TensorMut<'_, Self>,
        _rstd: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("rms_norm: add_rms_norm_forward")
    }

    fn rms_norm_backward(
        &self,
        _shape: RmsNormShape,
        _dout: TensorRef<'_, Self>,
        _x: TensorRef<'_, Self>,
        _weight: TensorRef<'_, Self>,
        _rstd: TensorRef<'_, Self>,
        _write: Write,
        _dx: TensorMut<'_, Self>,
        _dweight: TensorMut<'_, Self>,
        _partials: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("rms_norm: rms_norm_backward")
    }
}
