//! The decision about the update on the host: the definition itself.

use super::Cpu;
use crate::ops::step_scalars::{StepScalars, StepScalarsKernels};
use crate::{Result, TensorMut, TensorRef};

impl StepScalarsKernels for Cpu {
    fn finish_step_scalars(
        &self,
        sum_of_squares: TensorRef<'_, Self>,
        loss_sums: TensorRef<'_, Self>,
        scalars: TensorMut<'_, Self>,
    ) -> Result<()> {
        let loss_sums = loss_sums.as_slice::<f32>();
        let scalars: &mut StepScalars =
            bytemuck::from_bytes_mut(bytemuck::cast_slice_mut(scalars.into_slice::<u32>()));
        scalars.finish(sum_of_squares.as_slice::<f32>()[0], [loss_sums[0], loss_sums[1]]);
        Ok(())
    }
}
