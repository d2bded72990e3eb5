//! Everything that changes from step to step, in one struct on the device: the host uploads the inputs and
//! starts the step without waiting for any result; [`finish`] decides on the device whether the update is
//! applied, and the host reads the outcome with the next line that it logs.

use std::mem::{offset_of, size_of};

use bytemuck::{Pod, Zeroable};

use crate::{Context, Cost, DType, Device, Result, Storage, TensorMut, TensorRef};

/// Words of [`StepScalars`]: the length of the U32 tensor that holds it.
pub const WORDS: usize = size_of::<StepScalars>() / 4;

/// Words that the host uploads before a step: all fields before `num_updates`.
pub const INPUT_WORDS: usize = offset_of!(StepScalars, num_updates) / 4;

/// Word of `loss_scale`: that element of the tensor, reinterpreted as f32, is an argument of the loss.
pub const LOSS_SCALE_WORD: usize = offset_of!(StepScalars, loss_scale) / 4;

/// The struct as host and device see it: words of 32 bits, inputs first, then state, then outputs.
#[repr(C)]
#[derive(Pod, Zeroable, Default, Clone, Copy, Debug, PartialEq)]
pub struct StepScalars {
    /// Input: learning rate before the scales of parameter groups.
    pub lr: f32,
    /// Input: 1 / valid tokens of the global batch.
    pub loss_scale: f32,
    /// Input: gradients are scaled down to this norm; infinity: never.
    pub max_grad_norm: f32,
    /// Input: decay of the first moment.
    pub beta1: f32,
    /// Input: decay of the second moment.
    pub beta2: f32,
    /// Input: the step, counted from 1; skipped steps count.
    pub step: u32,
    /// Input: low word of the run's seed, for rounding noise.
    pub seed_low: u32,
    /// Input: high word of the run's seed.
    pub seed_high: u32,
    /// Input: the run has failed after this many skipped steps in a row; 0 means 1.
    pub max_skipped: u32,

    /// State: updates applied since the start of training: the step count of the bias corrections.
    pub num_updates: u32,
    /// State: steps skipped since the start.
    pub skipped_total: u32,
    /// State: steps skipped in a row, up to and with the last one.
    pub skipped_in_row: u32,
    /// State: the first step of the last row of skipped steps; 0: none yet.
    pub first_skipped_step: u32,
    /// State: 1 once a row has reached `max_skipped`; no later step is applied.
    pub failed: u32,

    /// Output: global norm of the gradient before clipping.
    pub grad_norm: f32,
    /// Output: factor on every gradient; 0 in a skipped step.
    pub clip_factor: f32,
    /// Output: `1 - beta1^num_updates`.
    pub bias_correction1: f32,
    /// Output: `1 - beta2^num_updates`.
    pub bias_correction2: f32,
    /// Output: 1 if this step's update is applied, 0 if it is skipped.
    pub update: u32,
    /// Output: mean cross-entropy per valid token.
    pub loss: f32,
    /// Output: mean z-loss per valid token.
    pub z_loss: f32,
}

impl StepScalars {
    /// The words as the tensor holds them.
    pub fn to_words(self) -> [u32; WORDS] {
        bytemuck::must_cast(self)
    }

    /// The struct that these words are.
    pub fn from_words(words: [u32; WORDS]) -> Self {
        bytemuck::must_cast(words)
    }

    /// The words that the host uploads before a step.
    pub fn input_words(self) -> [u32; INPUT_WORDS] {
        std::array::from_fn(|word| self.to_words()[word])
    }

    /// The seed of the run.
    pub fn seed(&self) -> u64 {
        u64::from(self.seed_high) << 32 | u64::from(self.seed_low)
    }

    /// State and outputs after the backward pass: what the op of the same name does on the device.
    ///
    /// The update is applied if gradient norm and loss are finite and the run has not failed. Then
    /// `clip_factor = min(1, max_grad_norm / (grad_norm + 1e-6))` (as `torch.nn.utils.clip_grad_norm_`),
    /// and the bias corrections count one update more.
    pub fn finish(&mut self, sum_of_squares: f32, loss_sums: [f32; 2]) {
        self.grad_norm = sum_of_squares.sqrt();
        self.loss = loss_sums[0] * self.loss_scale;
        self.z_loss = loss_sums[1] * self.loss_scale;
        // `is_finite` is false for NaN, and so for the root of a sum that overflowed into one.
        let apply = self.grad_norm.is_finite() && self.loss.is_finite() && self.failed == 0;
        self.update = u32::from(apply);
        if apply {
            let ratio = self.max_grad_norm / (self.grad_norm + 1e-6);
            self.clip_factor = if ratio < 1.0 { ratio } else { 1.0 };
            self.num_updates += 1;
            self.skipped_in_row = 0;
        } else {
            self.skip();
        }
        self.bias_correction1 = bias_correction(self.beta1, self.num_updates);
        self.bias_correction2 = bias_correction(self.beta2, self.num_updates);
    }

    fn skip(&mut self) {
        self.clip_factor = 0.0;
        if self.skipped_in_row == 0 {
            self.first_skipped_step = self.step;
        }
        self.skipped_total += 1;
        self.skipped_in_row += 1;
        if self.skipped_in_row >= self.max_skipped {
            self.failed = 1;
        }
    }
}

/// `1 - beta^updates`, by repeated squaring in f64: 1 - 0.999 would lose three digits in f32.
fn bias_correction(beta: f32, updates: u32) -> f32 {
    let (mut power, mut square, mut exponent) = (1.0, f64::from(beta), updates);
    while exponent > 0 {
        if exponent % 2 == 1 {
            power *= square;
        }
        square *= square;
        exponent /= 2;
    }
    (1.0 - power) as f32
}

/// Device side of this family. Arguments have been checked by the function below.
pub trait StepScalarsKernels: Storage {
    /// See [`finish`].
    fn finish_step_scalars(
        &self,
        sum_of_squares: TensorRef<'_, Self>,
        loss_sums: TensorRef<'_, Self>,
        scalars: TensorMut<'_, Self>,
    ) -> Result<()>;
}

/// Decides about the update and writes state and outputs of `scalars`: [`StepScalars::finish`].
///
/// Shapes: `sum_of_squares` `[1]` f32, of all gradients; `loss_sums` `[2]` f32, the cross-entropy and the
/// z-loss summed over the tokens of the global batch, before `loss_scale`; `scalars` `[WORDS]` U32.
pub fn finish<D: Device>(
    ctx: &Context<D>,
    sum_of_squares: TensorRef<'_, D>,
    loss_sums: TensorRef<'_, D>,
    scalars: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "step_scalars::finish";
    sum_of_squares.expect(OP, "sum_of_squares", &[1])?;
    sum_of_squares.expect_dtype(OP, "sum_of_squares", DType::F32)?;
    loss_sums.expect(OP, "loss_sums", &[2])?;
    loss_sums.expect_dtype(OP, "loss_sums", DType::F32)?;
    scalars.expect(OP, "scalars", &[WORDS])?;
    scalars.expect_dtype(OP, "scalars", DType::U32)?;
    ctx.device.record(Cost { op: OP, flops: 0, bytes: 4 * (3 + 2 * WORDS as u64) });
    ctx.device.finish_step_scalars(sum_of_squares, loss_sums, scalars)
}
