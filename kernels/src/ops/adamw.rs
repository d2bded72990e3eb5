//! AdamW: the update of master weights and moments, and the compute copy of the weights, in one pass.
//!
//! Decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101) in the order of `torch.optim.AdamW`:
//! ```text
//! g = clip_factor · grad
//! p = p · (1 - lr · weight_decay)
//! m = m + (1 - beta1) · (g - m)
//! v = beta2 · v + (1 - beta2) · g²
//! p = p - lr / bias_correction1 · m / (sqrt(v) / sqrt(bias_correction2) + eps)
//! ```
//! Arithmetic is f32. What is stored as f32 is exact; master weights and moments stored as bf16 are rounded
//! stochastically by [`philox::round_stochastic`] with noise of (seed, tensor, global index, step) and one
//! stream each, so small updates are kept on average and do not depend on the slicing. The update uses the
//! moments before they are rounded.

use super::philox::{self, GlobalIndex, RoundingStream};
use super::step_scalars::{self, StepScalars};
use crate::{Context, Cost, DType, Device, Result, Storage, TensorMut, TensorRef};

/// What differs from one group of parameters to the next. All else is in [`StepScalars`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamwParams {
    /// Factor on the learning rate of the step.
    pub lr_scale: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decay of the weights per unit of learning rate.
    pub weight_decay: f32,
    /// [`philox::tensor_key`] of the tensor, for rounding noise.
    pub tensor_key: u64,
    /// Where the elements updated stand in the whole tensor.
    pub index: GlobalIndex,
}

/// The constants of one call, the same for all its elements. Every device computes them by these very f32
/// operations.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Coefficients {
    /// Factor on the gradient.
    pub clip_factor: f32,
    /// `1 - lr · weight_decay`.
    pub decay: f32,
    /// `1 - beta1`.
    pub beta1_complement: f32,
    /// `beta2`.
    pub beta2: f32,
    /// `1 - beta2`, exact in f32 from 1/2 up.
    pub beta2_complement: f32,
    /// `lr / bias_correction1`.
    pub step_size: f32,
    /// `1 / sqrt(bias_correction2)`.
    pub root_scale: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

impl Coefficients {
    /// From the parameters of the group and the scalars of the step.
    pub fn new(params: &AdamwParams, scalars: &StepScalars) -> Self {
        let lr = scalars.lr * params.lr_scale;
        Coefficients {
            clip_factor: scalars.clip_factor,
            decay: (-lr).mul_add(params.weight_decay, 1.0),
            beta1_complement: 1.0 - scalars.beta1,
            beta2: scalars.beta2,
            beta2_complement: 1.0 - scalars.beta2,
            step_size: lr / scalars.bias_correction1,
            root_scale: 1.0 / scalars.bias_correction2.sqrt(),
            eps: params.eps,
        }
    }

    /// One element: from (gradient, weight, first moment, second moment) to the new weight and moments.
    #[inline(always)]
    pub fn apply(&self, grad: f32, p: f32, m: f32, v: f32) -> (f32, f32, f32) {
        let g = self.clip_factor * grad;
        let m = self.beta1_complement.mul_add(g - m, m);
        let v = self.beta2_complement.mul_add(g * g, self.beta2 * v);
        let denominator = v.sqrt().mul_add(self.root_scale, self.eps);
        let p = (-self.step_size).mul_add(m / denominator, self.decay * p);
        (p, m, v)
    }
}

/// The keys of the rounding noise of one step: of master weights, first and second moments.
pub fn rounding_keys(scalars: &StepScalars) -> [[u32; 2]; 3] {
    [RoundingStream::Master, RoundingStream::FirstMoment, RoundingStream::SecondMoment]
        .map(|stream| philox::rounding_key(scalars.seed(), scalars.step, stream))
}

/// Device side of this family. Arguments have been checked by the function below.
pub trait AdamwKernels: Storage {
    /// See [`update`].
    fn adamw_update(
        &self,
        params: &AdamwParams,
        scalars: TensorRef<'_, Self>,
        grad: TensorRef<'_, Self>,
        master: TensorMut<'_, Self>,
        m: TensorMut<'_, Self>,
        v: TensorMut<'_, Self>,
        weights: TensorMut<'_, Self>,
    ) -> Result<()>;
}

/// Updates `master`, `m` and `v` in place and writes `weights`, the compute copy: the stored master weight,
/// rounded to nearest. Does nothing at all if `scalars.update` is 0.
///
/// Shapes: `scalars` `[WORDS]` U32; the others `[n]`: `grad` f32; `master` f32 or bf16; `m`, `v` f32 or bf16,
/// equal; `weights` f32 or bf16. Elements are independent: any part of the tensor has the same bits, provided
/// that its `index` goes with it.
pub fn update<D: Device>(
    ctx: &Context<D>,
    params: &AdamwParams,
    scalars: TensorRef<'_, D>,
    grad: TensorRef<'_, D>,
    master: TensorMut<'_, D>,
    m: TensorMut<'_, D>,
    v: TensorMut<'_, D>,
    weights: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "adamw::update";
    const FLOPS_PER_ELEMENT: u64 = 15;
    scalars.expect(OP, "scalars", &[step_scalars::WORDS])?;
    scalars.expect_dtype(OP, "scalars", DType::U32)?;
    let [len] = grad.dims(OP, "grad")?;
    grad.expect_dtype(OP, "grad", DType::F32)?;
    for (argument, tensor) in [("master", &master), ("m", &m), ("v", &v), ("weights", &weights)] {
        tensor.expect(OP, argument, &[len])?;
        tensor.expect_float(OP, argument)?;
    }
    v.expect_dtype(OP, "v", m.dtype())?;
    params.index.check(OP, len)?;
    let state_bytes = master.dtype().size_bytes() + m.dtype().size_bytes() + v.dtype().size_bytes();
    let bytes = len * (4 + 2 * state_bytes + weights.dtype().size_bytes());
    ctx.device.record(Cost { op: OP, flops: FLOPS_PER_ELEMENT * len as u64, bytes: bytes as u64 });
    ctx.device.adamw_update(params, scalars, grad, master, m, v, weights)
}

/// The definition in f64.
pub mod reference {
    /// Hyperparameters of one group.
    #[derive(Clone, Copy, Debug)]
    pub struct Hyper {
        /// Learning rate of the group.
        pub lr: f64,
        /// Decay of the first moment.
        pub beta1: f64,
        /// Decay of the second moment.
        pub beta2: f64,
        /// Added to the root of the second moment.
        pub eps: f64,
        /// Decay of the weights per unit of learning rate.
        pub weight_decay: f64,
    }

    /// Update number `count` (from 1) of weights `p` and moments `m`, `v` by gradients already clipped.
    pub fn update(hyper: Hyper, count: i32, grad: &[f64], p: &mut [f64], m: &mut [f64], v: &mut [f64]) {
        let Hyper { lr, beta1, beta2, eps, weight_decay } = hyper;
        let (correction1, correction2) = (1.0 - beta1.powi(count), 1.0 - beta2.powi(count));
        for (i, &g) in grad.iter().enumerate() {
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            let denominator = v[i].sqrt() / correction2.sqrt() + eps;
            p[i] = p[i] * (1.0 - lr * weight_decay) - lr / correction1 * m[i] / denominator;
        }
    }
}
