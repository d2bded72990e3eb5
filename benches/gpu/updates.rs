//! Elementwise ops and the end of a step.

use tisserand_kernels::ops::adamw::{self, AdamwParams};
use tisserand_kernels::ops::elementwise::{self, Combine};
use tisserand_kernels::ops::philox::{self, GlobalIndex, NormalParams};
use tisserand_kernels::ops::step_scalars::{self, StepScalars};
use tisserand_kernels::ops::{CHUNK, Write, grad_norm};
use tisserand_kernels::{DType, Device};

use super::inputs::Cases;

/// Elements of 16k tokens of 4,096.
const ROWS: usize = 16_384;
const WIDTH: usize = 4096;
const LEN: usize = ROWS * WIDTH;

/// Parameters of an update: 2^28.
const PARAMETERS: usize = 1 << 28;

/// The elements of whole tensors.
const WHOLE: GlobalIndex = GlobalIndex::contiguous(0);

/// Plain passes over activations.
pub(crate) fn add_elementwise<D: Device>(cases: &mut Cases<D>) {
    for (from, to) in [(DType::F32, DType::Bf16), (DType::Bf16, DType::F32), (DType::Bf16, DType::Bf16)] {
        cases.add(format!("cast {from}->{to} 16384x4096"), move |inputs| {
            let (x, mut y) = (inputs.normal(from, LEN)?, inputs.room(to, LEN)?);
            Ok(Box::new(move |ctx| elementwise::cast(ctx, x.view([LEN]), y.view_mut([LEN]))))
        });
    }
    cases.add("add_assign bf16 16384x4096", |inputs| {
        let (x, mut y) = (inputs.bf16(LEN)?, inputs.bf16(LEN)?);
        Ok(Box::new(move |ctx| elementwise::add_assign(ctx, x.view([LEN]), y.view_mut([LEN]))))
    });
    cases.add("fill bf16 16384x4096", |inputs| {
        let mut y = inputs.room(DType::Bf16, LEN)?;
        Ok(Box::new(move |ctx| elementwise::fill(ctx, 1.0, y.view_mut([LEN]))))
    });
    cases.add("column_sum bf16 16384x4096", |inputs| {
        let (x, mut sums) = (inputs.bf16(LEN)?, inputs.filled(DType::F32, 0.0, WIDTH)?);
        Ok(Box::new(move |ctx| elementwise::column_sum(ctx, x.view([ROWS, WIDTH]), sums.view_mut([WIDTH]))))
    });
    cases.add("sum f32 16384x4096", |inputs| {
        let (x, mut sum) = (inputs.f32(LEN)?, inputs.room(DType::F32, 1)?);
        Ok(Box::new(move |ctx| elementwise::sum(ctx, x.view([LEN]), Write::Replace, sum.view_mut([1]))))
    });
    cases.add("combine sum of 2 f32 16384x4096", |inputs| {
        let (x, mut y) = (inputs.f32(LEN)?, inputs.f32(LEN)?);
        Ok(Box::new(move |ctx| {
            elementwise::combine(&ctx.device, Combine::Sum, &[x.view([LEN])], y.view_mut([LEN]), &[])
        }))
    });
    cases.add("philox normal f32 16384x4096", |inputs| {
        let mut x = inputs.room(DType::F32, LEN)?;
        let params = NormalParams { seed: 1, tensor_key: 1, index: WHOLE, std: 1.0, mean: 0.0 };
        Ok(Box::new(move |ctx| philox::normal(ctx, &params, x.view_mut([LEN]))))
    });
}

/// Clipping and AdamW. Of the time of an update, a billion parameters take 3.73 times as much.
pub(crate) fn add_updates<D: Device>(cases: &mut Cases<D>) {
    cases.add("grad_norm sum_of_squares 2^28", |inputs| {
        let (x, mut partials) = (inputs.f32(PARAMETERS)?, inputs.room(DType::F32, PARAMETERS / CHUNK)?);
        Ok(Box::new(move |ctx| {
            grad_norm::sum_of_squares(ctx, x.view([PARAMETERS]), partials.view_mut([PARAMETERS / CHUNK]))
        }))
    });
    cases.add("grad_norm tree_sum 2^18", |inputs| {
        let (mut partials, mut sum) = (inputs.f32(PARAMETERS / CHUNK)?, inputs.room(DType::F32, 1)?);
        Ok(Box::new(move |ctx| {
            grad_norm::tree_sum(ctx, partials.view_mut([PARAMETERS / CHUNK]), sum.view_mut([1]))
        }))
    });
    for (master, moments) in [(DType::F32, DType::F32), (DType::F32, DType::Bf16), (DType::Bf16, DType::Bf16)]
    {
        cases.add(format!("adamw master {master} moments {moments} 2^28"), move |inputs| {
            let scalars = StepScalars {
                lr: 1e-4,
                beta1: 0.9,
                beta2: 0.95,
                step: 1,
                clip_factor: 1.0,
                bias_correction1: 1.0,
                bias_correction2: 1.0,
                update: 1,
                ..StepScalars::default()
            };
            let scalars = inputs.values(&scalars.to_words())?;
            let (grad, mut p) = (inputs.f32(PARAMETERS)?, inputs.normal(master, PARAMETERS)?);
            let mut m = inputs.filled(moments, 0.0, PARAMETERS)?;
            let mut v = inputs.filled(moments, 0.0, PARAMETERS)?;
            let mut weights = inputs.room(DType::Bf16, PARAMETERS)?;
            let params =
                AdamwParams { lr_scale: 1.0, eps: 1e-8, weight_decay: 0.1, tensor_key: 1, index: WHOLE };
            let all = [PARAMETERS];
            Ok(Box::new(move |ctx| {
                let (scalars, grad) = (scalars.view([step_scalars::WORDS]), grad.view(all));
                let (p, m, v) = (p.view_mut(all), m.view_mut(all), v.view_mut(all));
                adamw::update(ctx, &params, scalars, grad, p, m, v, weights.view_mut(all))
            }))
        });
    }
}
