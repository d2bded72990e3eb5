//! The scalars of a step on a GPU.

use super::driver::Driver;
use super::{Cuda, not_there};
use crate::ops::step_scalars::StepScalarsKernels;
use crate::{Result, TensorMut, TensorRef};

impl<Dr: Driver> StepScalarsKernels for Cuda<Dr> {
    fn finish_step_scalars(
        &self,
        _sum_of_squares: TensorRef<'_, Self>,
        _loss_sums: TensorRef<'_, Self>,
        _scalars: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("step_scalars: finish_step_scalars")
    }
}
