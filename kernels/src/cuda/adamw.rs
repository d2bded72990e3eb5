//! AdamW on a GPU.

use super::driver::Driver;
use super::{Cuda, not_there};
use crate::ops::adamw::{AdamwKernels, AdamwParams};
use crate::{Result, TensorMut, TensorRef};

impl<Dr: Driver> AdamwKernels for Cuda<Dr> {
    fn adamw_update(
        &self,
        _params: &AdamwParams,
        _scalars: TensorRef<'_, Self>,
        _grad: TensorRef<'_, Self>,
        _master: TensorMut<'_, Self>,
        _m: TensorMut<'_, Self>,
        _v: TensorMut<'_, Self>,
        _weights: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("adamw: adamw_update")
    }
}
