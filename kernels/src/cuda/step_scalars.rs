//! The scalars of a step on a GPU.

use super::driver::Driver;
use super::{Cuda, LaunchConfig};
use crate::ops::step_scalars::StepScalarsKernels;
use crate::{Result, TensorMut, TensorRef};

impl<Dr: Driver> StepScalarsKernels for Cuda<Dr> {
    fn finish_step_scalars(
        &self,
        sum_of_squares: TensorRef<'_, Self>,
        loss_sums: TensorRef<'_, Self>,
        scalars: TensorMut<'_, Self>,
    ) -> Result<()> {
        // The smallest block there is; one thread decides.
        let config = LaunchConfig::blocks(1, 64);
        self.launch("finish_step_scalars", config, &[sum_of_squares.into(), loss_sums.into(), scalars.into()])
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use crate::ops::step_scalars::{StepScalars, WORDS};

    /// Name and word of every field.
    macro_rules! words {
        ($($field:ident),*) => { [$((stringify!($field), offset_of!(StepScalars, $field) / 4)),*] };
    }

    #[test]
    fn the_kernels_have_every_word_where_the_struct_has_it() {
        let source = include_str!("../../cuda/step_scalars.cuh");
        let (_, words) = source.split_once("enum class Scalar : u32 {").expect("the list of words");
        let (words, _) = words.split_once("};").expect("its end");
        let listed: Vec<&str> = words.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
        let fields = words![
            lr,
            loss_scale,
            max_grad_norm,
            beta1,
            beta2,
            step,
            seed_low,
            seed_high,
            max_skipped,
            num_updates,
            skipped_total,
            skipped_in_row,
            first_skipped_step,
            failed,
            grad_norm,
            clip_factor,
            bias_correction1,
            bias_correction2,
            update,
            loss,
            z_loss
        ];
        assert_eq!([listed.len(), fields.len()], [WORDS; 2]);
        for (field, word) in fields {
            assert_eq!(listed[word], field.to_uppercase(), "word {word}");
        }
    }
}
