//! Sums of squares and trees of partial sums on a GPU.

use super::driver::Driver;
use super::{Cuda, not_there};
use crate::ops::Write;
use crate::ops::grad_norm::GradNormKernels;
use crate::{Result, TensorMut, TensorRef};

impl<Dr: Driver> GradNormKernels for Cuda<Dr> {
    fn sum_of_squares(&self, _x: TensorRef<'_, Self>, _partials: TensorMut<'_, Self>) -> Result<()> {
        not_there("grad_norm: sum_of_squares")
    }

    fn tree_sum(
        &self,
        _write: Write,
        _partials: TensorMut<'_, Self>,
        _out: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("grad_norm: tree_sum")
    }
}
