//! Output projection fused with softmax cross-entropy and z-loss, over chunks of tokens, so that
//! tokens × vocab_size logits never exist at once.
//!
//! With `logits[t, v] = sum_h x[t, h] · weight[v, h]` and `lse[t] = ln sum_v e^logits[t, v]`, a token's loss
//! is `lse - logits[label]` plus `z_loss · lse²` (PaLM, arXiv:2204.02311, §5). Its gradient is
//! `dlogits[t, v] = loss_scale · (softmax[t, v] · (1 + 2 · z_loss · lse) - [v = label])`; nothing comes from
//! tokens with the label [`IGNORED`].
//!
//! A chunk's logits and their gradients are f32 in workspace whatever the storage of `x` and `weight`.

use super::Write;
use super::gemm::{self, GemmKernels, GemmShape, Layout};
use crate::{Class, Context, Cost, DType, Device, Result, Storage, TensorMut, TensorRef};

/// The label of a token that has no target.
pub const IGNORED: i32 = -100;

/// Parameters of the loss.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CrossEntropyParams {
    /// Weight of the squared logsumexp; 0 for plain cross-entropy.
    pub z_loss: f32,
}

/// Extents of one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrossEntropyShape {
    /// Tokens: one loss each.
    pub tokens: usize,
    /// Classes.
    pub vocab_size: usize,
    /// Elements of a token's hidden state.
    pub hidden_size: usize,
}

impl CrossEntropyShape {
    /// Tokens whose logits are in memory at once: about [`CHUNK_LOGITS`] logits, in multiples of 64 so
    /// that products keep whole tiles.
    pub fn chunk_tokens(self) -> usize {
        (CHUNK_LOGITS / self.vocab_size.max(1) / 64 * 64).max(64).min(self.tokens)
    }

    /// The product of one chunk's logits.
    fn logits(self, tokens: usize) -> GemmShape {
        GemmShape { m: tokens, n: self.vocab_size, k: self.hidden_size }
    }
}

/// Logits per chunk: enough that a chunk's products run at full speed, few beside the activations.
pub const CHUNK_LOGITS: usize = 1 << 20;

/// Device side of this family beyond the products. Arguments have been checked by the functions below.
pub trait CrossEntropyKernels: Storage {
    /// Losses of `shape.tokens` rows of f32 `logits` [tokens, vocab_size], which it overwrites: with
    /// `dlogits` where there is a `loss_scale` `[1]`, with anything where there is none.
    /// `cross_entropy` and `z_losses` are `[tokens]` f32.
    fn softmax_cross_entropy_rows(
        &self,
        shape: CrossEntropyShape,
        params: &CrossEntropyParams,
        loss_scale: Option<TensorRef<'_, Self>>,
        logits: TensorMut<'_, Self>,
        labels: TensorRef<'_, Self>,
        cross_entropy: TensorMut<'_, Self>,
        z_losses: TensorMut<'_, Self>,
    ) -> Result<()>;
}

/// Losses, and the gradient of `loss_scale · (sum of all losses)`.
///
/// Shapes: `x`, `dx` [tokens, hidden_size] of one dtype, f32 or bf16, `dx` replaced; `weight`
/// [vocab_size, hidden_size] f32 or bf16; `labels` `[tokens]` i32, each a class or [`IGNORED`] (a
/// precondition: values on a device are not seen here); `loss_scale` `[1]` f32, usually 1 / labelled tokens;
/// `losses` [2, tokens] f32: cross-entropies, then z-losses, both 0 for ignored tokens; `dweight`
/// [vocab_size, hidden_size] f32, added to, chunk by chunk in order.
pub fn linear_forward_backward<D: Device>(
    ctx: &Context<D>,
    params: &CrossEntropyParams,
    x: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
    labels: TensorRef<'_, D>,
    loss_scale: TensorRef<'_, D>,
    mut losses: TensorMut<'_, D>,
    mut dx: TensorMut<'_, D>,
    mut dweight: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "cross_entropy::linear_forward_backward";
    let shape = check_inputs(OP, x, weight, labels, losses.as_ref())?;
    loss_scale.expect(OP, "loss_scale", &[1])?;
    loss_scale.expect_dtype(OP, "loss_scale", DType::F32)?;
    dx.expect(OP, "dx", x.shape().dims())?;
    dx.expect_dtype(OP, "dx", x.dtype())?;
    dweight.expect(OP, "dweight", weight.shape().dims())?;
    dweight.expect_dtype(OP, "dweight", DType::F32)?;
    let bytes = 2 * x.size_bytes() + weight.size_bytes() + 2 * dweight.as_ref().size_bytes();
    record(ctx, OP, shape, 3, bytes + labels.size_bytes() + losses.as_ref().size_bytes());

    for_each_chunk(ctx, shape, |start, tokens, logits| {
        let x = x.rows(start, tokens);
        let loss_scale = Some(loss_scale);
        losses_of_chunk(
            ctx,
            shape,
            params,
            loss_scale,
            x,
            weight,
            labels,
            start,
            logits.reborrow(),
            &mut losses,
        )?;
        let (dlogits, dx) = (logits.as_ref(), dx.reborrow().rows(start, tokens));
        let [m, n, k] = [tokens, shape.hidden_size, shape.vocab_size];
        let dx_shape = GemmShape { m, n, k };
        gemm::product(ctx, Layout::Nn, dx_shape, dlogits, weight, None, Write::Replace, dx)?;
        let dweight_shape = GemmShape { m: k, n, k: m };
        gemm::product(ctx, Layout::Tn, dweight_shape, dlogits, x, None, Write::Add, dweight.reborrow())
    })
}

/// Losses alone, for evaluation. Shapes as in [`linear_forward_backward`].
pub fn linear_forward<D: Device>(
    ctx: &Context<D>,
    params: &CrossEntropyParams,
    x: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
    labels: TensorRef<'_, D>,
    mut losses: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "cross_entropy::linear_forward";
    let shape = check_inputs(OP, x, weight, labels, losses.as_ref())?;
    let bytes = x.size_bytes() + weight.size_bytes() + labels.size_bytes() + losses.as_ref().size_bytes();
    record(ctx, OP, shape, 1, bytes);
    for_each_chunk(ctx, shape, |start, tokens, logits| {
        let x = x.rows(start, tokens);
        losses_of_chunk(ctx, shape, params, None, x, weight, labels, start, logits.reborrow(), &mut losses)
    })
}

/// Calls `work(first token, tokens, logits [tokens, vocab_size])` for each chunk, in order.
fn for_each_chunk<D: Device>(
    ctx: &Context<D>,
    shape: CrossEntropyShape,
    mut work: impl FnMut(usize, usize, &mut TensorMut<'_, D>) -> Result<()>,
) -> Result<()> {
    let chunk_tokens = shape.chunk_tokens();
    let mut logits = ctx.arena.block(Class::Workspace, DType::F32, chunk_tokens * shape.vocab_size)?;
    let mut start = 0;
    while start < shape.tokens {
        let tokens = chunk_tokens.min(shape.tokens - start);
        work(start, tokens, &mut logits.range_mut(0, [tokens, shape.vocab_size]))?;
        start += tokens;
    }
    Ok(())
}

/// Logits of the chunk `x` that starts at token `start`, then their losses.
fn losses_of_chunk<D: GemmKernels + CrossEntropyKernels>(
    ctx: &Context<D>,
    shape: CrossEntropyShape,
    params: &CrossEntropyParams,
    loss_scale: Option<TensorRef<'_, D>>,
    x: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
    labels: TensorRef<'_, D>,
    start: usize,
    mut logits: TensorMut<'_, D>,
    losses: &mut TensorMut<'_, D>,
) -> Result<()> {
    let tokens = x.shape().dims()[0];
    gemm::product(ctx, Layout::Nt, shape.logits(tokens), x, weight, None, Write::Replace, logits.reborrow())?;
    let (cross_entropy, z_losses) = losses.reborrow().split_rows(1);
    ctx.device.softmax_cross_entropy_rows(
        CrossEntropyShape { tokens, ..shape },
        params,
        loss_scale,
        logits,
        labels.rows(start, tokens),
        cross_entropy.reshape([shape.tokens]).rows(start, tokens),
        z_losses.reshape([shape.tokens]).rows(start, tokens),
    )
}

fn check_inputs<D: Storage>(
    op: &'static str,
    x: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
    labels: TensorRef<'_, D>,
    losses: TensorRef<'_, D>,
) -> Result<CrossEntropyShape> {
    let [tokens, hidden_size] = x.dims(op, "x")?;
    let [vocab_size, _] = weight.dims(op, "weight")?;
    x.expect_float(op, "x")?;
    weight.expect(op, "weight", &[vocab_size, hidden_size])?;
    weight.expect_float(op, "weight")?;
    labels.expect(op, "labels", &[tokens])?;
    labels.expect_dtype(op, "labels", DType::I32)?;
    losses.expect(op, "losses", &[2, tokens])?;
    losses.expect_dtype(op, "losses", DType::F32)?;
    Ok(CrossEntropyShape { tokens, vocab_size, hidden_size })
}

/// `products` matrix products, and per logit: a maximum, a difference, an exponential, a sum, a scaling.
fn record<D: Storage>(
    ctx: &Context<D>,
    op: &'static str,
    shape: CrossEntropyShape,
    products: u64,
    bytes: usize,
) {
    let logits = shape.tokens as u64 * shape.vocab_size as u64;
    let flops = products * gemm::flops(shape.logits(shape.tokens)) + 5 * logits;
    ctx.device.record(Cost { op, flops, bytes: bytes as u64 });
}

/// The definition in f64, one token after the other.
pub mod reference {
    use super::{CrossEntropyShape, IGNORED};

    /// What the op computes.
    #[derive(Clone, Debug)]
    pub struct Outputs {
        /// [2, tokens]: cross-entropies, then z-losses.
        pub losses: Vec<f64>,
        /// [tokens, hidden_size]
        pub dx: Vec<f64>,
        /// [vocab_size, hidden_size], from zero.
        pub dweight: Vec<f64>,
    }

    /// Losses and gradients.
    pub fn linear_forward_backward(
        shape: CrossEntropyShape,
        z_loss: f64,
        x: &[f64],
        weight: &[f64],
        labels: &[i32],
        loss_scale: f64,
    ) -> Outputs {
        let CrossEntropyShape { tokens, vocab_size, hidden_size } = shape;
        let mut losses = vec![0.0; 2 * tokens];
        let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
        for t in 0..tokens {
            if labels[t] == IGNORED {
                continue;
            }
            let label = labels[t] as usize;
            let hidden = t * hidden_size..(t + 1) * hidden_size;
            let (x, dx) = (&x[hidden.clone()], &mut dx[hidden]);
            let row = |v: usize| v * hidden_size..(v + 1) * hidden_size;
            let dot = |v: usize| x.iter().zip(&weight[row(v)]).map(|(x, w)| x * w).sum::<f64>();
            let logits: Vec<f64> = (0..vocab_size).map(dot).collect();
            let max = logits.iter().fold(f64::NEG_INFINITY, |max, &l| max.max(l));
            let lse = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
            losses[t] = lse - logits[label];
            losses[tokens + t] = z_loss * lse * lse;
            for v in 0..vocab_size {
                let target = if v == label { 1.0 } else { 0.0 };
                let dlogit = loss_scale * ((logits[v] - lse).exp() * (1.0 + 2.0 * z_loss * lse) - target);
                for h in 0..hidden_size {
                    dx[h] += dlogit * weight[v * hidden_size + h];
                    dweight[v * hidden_size + h] += dlogit * x[h];
                }
            }
        }
        Outputs { losses, dx, dweight }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::ops::check_gradient;
        use crate::testing::normal_f64;

        #[test]
        fn gradients_equal_central_differences() {
            let shape = CrossEntropyShape { tokens: 4, vocab_size: 5, hidden_size: 3 };
            let (x, weight) = (normal_f64(1, 12), normal_f64(2, 15));
            let (labels, scale, z_loss) = ([4, IGNORED, 0, 2], 0.25, 0.1);
            let run =
                |x: &[f64], weight: &[f64]| linear_forward_backward(shape, z_loss, x, weight, &labels, scale);
            let loss = |x: &[f64], weight: &[f64]| scale * run(x, weight).losses.iter().sum::<f64>();
            let outputs = run(&x, &weight);
            check_gradient("dx", &x, &outputs.dx, |x| loss(x, &weight));
            check_gradient("dweight", &weight, &outputs.dweight, |weight| loss(&x, weight));
        }
    }
}
