//! Ops over rows of activations, and both ends of a model. 16k tokens of Llama 3 8B: hidden size 4,096, intermediate size
//! 14,336.

use tisserand_kernels::ops::cross_entropy::{self, CrossEntropyParams, CrossEntropyShape, Whole};
use tisserand_kernels::ops::rope::{self, RopeScaling};
use tisserand_kernels::ops::{Write, embedding, rms_norm, swiglu};
use tisserand_kernels::{Cost, DType, Device};

use super::inputs::{Cases, bf16_bytes};

const TOKENS: usize = 16_384;
const HIDDEN: usize = 4096;
const INTERMEDIATE: usize = 14_336;
const HEAD_DIM: usize = 128;
const SEQ: usize = 4096;
const EPS: f32 = 1e-5;
const GRID: [usize; 2] = [TOKENS, HIDDEN];
const LEN: usize = TOKENS * HIDDEN;

/// RMS norms: forward, with the residual's addition, backward.
pub(crate) fn add_norms<D: Device>(cases: &mut Cases<D>) {
    cases.add("rms_norm forward 16384x4096", |inputs| {
        let (x, w) = (inputs.bf16(LEN)?, inputs.bf16(HIDDEN)?);
        let (mut y, mut rstd) = (inputs.room(DType::Bf16, LEN)?, inputs.room(DType::F32, TOKENS)?);
        Ok(Box::new(move |ctx| {
            let (y, rstd) = (y.view_mut(GRID), rstd.view_mut([TOKENS]));
            rms_norm::forward(ctx, EPS, x.view(GRID), w.view([HIDDEN]), y, rstd)
        }))
    });
    cases.add("rms_norm add-forward 16384x4096", |inputs| {
        let (x, residual, w) = (inputs.bf16(LEN)?, inputs.bf16(LEN)?, inputs.bf16(HIDDEN)?);
        let (mut sum, mut y) = (inputs.room(DType::Bf16, LEN)?, inputs.room(DType::Bf16, LEN)?);
        let mut rstd = inputs.room(DType::F32, TOKENS)?;
        Ok(Box::new(move |ctx| {
            let (x, residual, w) = (x.view(GRID), residual.view(GRID), w.view([HIDDEN]));
            let (sum, y, rstd) = (sum.view_mut(GRID), y.view_mut(GRID), rstd.view_mut([TOKENS]));
            rms_norm::add_forward(ctx, EPS, x, residual, w, sum, y, rstd)
        }))
    });
    for (name, write) in [("backward", Write::Replace), ("backward-add", Write::Add)] {
        cases.add(format!("rms_norm {name} 16384x4096"), move |inputs| {
            let (dy, x, w) = (inputs.bf16(LEN)?, inputs.bf16(LEN)?, inputs.bf16(HIDDEN)?);
            let rstd = inputs.filled(DType::F32, 1.0, TOKENS)?;
            let mut dx = inputs.filled(DType::Bf16, 0.0, LEN)?;
            let mut dw = inputs.filled(DType::F32, 0.0, HIDDEN)?;
            Ok(Box::new(move |ctx| {
                let (dy, x, w, rstd) = (dy.view(GRID), x.view(GRID), w.view([HIDDEN]), rstd.view([TOKENS]));
                rms_norm::backward(ctx, dy, x, w, rstd, write, dx.view_mut(GRID), dw.view_mut([HIDDEN]))
            }))
        });
    }
}

/// The activation function and the rotation of queries and keys.
pub(crate) fn add_activations<D: Device>(cases: &mut Cases<D>) {
    const WIDE: [usize; 2] = [TOKENS, 2 * INTERMEDIATE];
    const NARROW: [usize; 2] = [TOKENS, INTERMEDIATE];
    cases.add("swiglu forward 16384x14336", |inputs| {
        let (x, mut y) = (inputs.bf16(WIDE[0] * WIDE[1])?, inputs.room(DType::Bf16, NARROW[0] * NARROW[1])?);
        Ok(Box::new(move |ctx| swiglu::forward(ctx, x.view(WIDE), y.view_mut(NARROW))))
    });
    cases.add("swiglu backward 16384x14336", |inputs| {
        let (x, dy) = (inputs.bf16(WIDE[0] * WIDE[1])?, inputs.bf16(NARROW[0] * NARROW[1])?);
        let mut dx = inputs.room(DType::Bf16, WIDE[0] * WIDE[1])?;
        Ok(Box::new(move |ctx| swiglu::backward(ctx, x.view(WIDE), dy.view(NARROW), dx.view_mut(WIDE))))
    });
    for (name, is_forward) in [("forward", true), ("backward", false)] {
        cases.add(format!("rope {name} 16384x32x128"), move |inputs| {
            let positions: Vec<u32> = (0..TOKENS).map(|i| (i % SEQ) as u32).collect();
            let positions = inputs.values(&positions)?;
            let table = inputs.values(&rope::table(HEAD_DIM, 5e5, &RopeScaling::None, SEQ))?;
            let (mut x, heads) = (inputs.bf16(LEN)?, [TOKENS, HIDDEN / HEAD_DIM, HEAD_DIM]);
            Ok(Box::new(move |ctx| {
                let (positions, table) = (positions.view([TOKENS]), table.view([SEQ, HEAD_DIM]));
                let turn = if is_forward { rope::forward } else { rope::backward };
                turn(ctx, positions, table, x.view_mut(heads))
            }))
        });
    }
}

/// The embedding, and the loss: its rows alone, and with its three products.
pub(crate) fn add_ends<D: Device>(cases: &mut Cases<D>) {
    const VOCAB: usize = 32_000;
    const TABLE: [usize; 2] = [VOCAB, HIDDEN];
    cases.add("embedding forward 16384x4096 of 32000", |inputs| {
        let ids = inputs.below(VOCAB, TOKENS);
        let (ids, table) = (inputs.values(&ids)?, inputs.bf16(VOCAB * HIDDEN)?);
        let mut y = inputs.room(DType::Bf16, LEN)?;
        Ok(Box::new(move |ctx| {
            embedding::forward(ctx, 0, ids.view([TOKENS]), table.view(TABLE), y.view_mut(GRID))
        }))
    });
    cases.add("embedding backward 16384x4096 of 32000", |inputs| {
        let ids = inputs.below(VOCAB, TOKENS);
        let (ids, dy) = (inputs.values(&ids)?, inputs.bf16(LEN)?);
        let mut dtable = inputs.filled(DType::F32, 0.0, VOCAB * HIDDEN)?;
        Ok(Box::new(move |ctx| {
            embedding::backward(ctx, 0, ids.view([TOKENS]), dy.view(GRID), dtable.view_mut(TABLE))
        }))
    });
    add_loss_rows(cases);
    cases.add("cross_entropy with products 16384x4096x32000", |inputs| {
        let labels: Vec<i32> = inputs.below(VOCAB, TOKENS).into_iter().map(u32::cast_signed).collect();
        let (x, labels) = (inputs.bf16(LEN)?, inputs.values(&labels)?);
        let w = inputs.bf16(VOCAB * HIDDEN)?;
        let scale = inputs.values(&[1.0 / TOKENS as f32])?;
        let (mut losses, mut dx) = (inputs.room(DType::F32, 2 * TOKENS)?, inputs.room(DType::Bf16, LEN)?);
        let mut dw = inputs.filled(DType::F32, 0.0, VOCAB * HIDDEN)?;
        Ok(Box::new(move |ctx| {
            let (x, w, labels, scale) = (x.view(GRID), w.view(TABLE), labels.view([TOKENS]), scale.view([1]));
            let (losses, dx, dw) = (losses.view_mut([2, TOKENS]), dx.view_mut(GRID), dw.view_mut(TABLE));
            let params = CrossEntropyParams { z_loss: 0.0 };
            cross_entropy::linear_forward_backward(
                ctx, &params, VOCAB, &mut Whole, x, w, labels, scale, losses, dx, dw,
            )
        }))
    });
}

/// Softmax, loss and gradient of f32 logits, rounded to bf16 as in a bf16 model: floor, each logit read and each
/// gradient written once.
fn add_loss_rows<D: Device>(cases: &mut Cases<D>) {
    const ROWS: usize = 4096;
    const VOCAB: usize = 128_256;
    const OP: &str = "cross_entropy rows";
    let cost = Cost { op: OP, flops: 0, bytes: 3 * bf16_bytes(ROWS * VOCAB) };
    cases.add_costing("cross_entropy rows 4096x128256", cost, |inputs| {
        let labels: Vec<i32> = inputs.below(VOCAB, ROWS).into_iter().map(u32::cast_signed).collect();
        let (labels, mut logits) = (inputs.values(&labels)?, inputs.f32(ROWS * VOCAB)?);
        let scale = inputs.values(&[1.0 / ROWS as f32])?;
        let mut dlogits = inputs.room(DType::Bf16, ROWS * VOCAB)?;
        let (mut losses, mut z_losses) = (inputs.room(DType::F32, ROWS)?, inputs.room(DType::F32, ROWS)?);
        Ok(Box::new(move |ctx| {
            let shape = CrossEntropyShape { tokens: ROWS, vocab_size: VOCAB, hidden_size: HIDDEN };
            let (labels, scale) = (labels.view([ROWS]), Some(scale.view([1])));
            let (losses, z_losses) = (losses.view_mut([ROWS]), z_losses.view_mut([ROWS]));
            let (params, logits) = (CrossEntropyParams { z_loss: 0.0 }, logits.view_mut([ROWS, VOCAB]));
            let dlogits = Some(dlogits.view_mut([ROWS, VOCAB]));
            let kernels = &ctx.device;
            kernels
                .softmax_cross_entropy_rows(shape, &params, scale, logits, dlogits, labels, losses, z_losses)
        }))
    });
}
