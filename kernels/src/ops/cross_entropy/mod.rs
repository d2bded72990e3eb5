//! Output projection fused with softmax cross-entropy and z-loss, over chunks of tokens, so that
//! tokens × vocab_size logits never exist at once.
//!
//! With `logits[t, v] = sum_h x[t, h] · weight[v, h]` and `lse[t] = ln sum_v e^logits[t, v]`, a token's loss
//! is `lse - logits[label]` plus `z_loss · lse²` (PaLM, arXiv:2204.02311, §5). Its gradient is
//! `dlogits[t, v] = loss_scale · (softmax[t, v] · (1 + 2 · z_loss · lse) - [v = label])`; nothing comes from
//! tokens with the label [`IGNORED`].
//!
//! A chunk's logits are f32 in workspace whatever the storage of `x` and `weight`. So are their gradients, unless the
//! device [`rounds_dlogits`](Caps::rounds_dlogits).
//!
//! The classes may be cut over ranks: see [`AcrossRanks`].

mod ranks;
pub mod reference;

pub use ranks::{AcrossRanks, ShardShape, Whole};

use super::Write;
use super::gemm::{self, GemmShape, Layout};
use crate::device::Caps;
use crate::{Block, Class, Context, Cost, DType, Device, KernelError, Result, Storage, TensorMut, TensorRef};
use ranks::Losses;

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
    /// Rows of the projection: the classes, padding included.
    pub vocab_size: usize,
    /// Elements of a token's hidden state.
    pub hidden_size: usize,
}

impl CrossEntropyShape {
    /// Tokens whose logits are in memory at once: about [`Caps::chunk_logits`] logits, in multiples of 64 so
    /// that products keep whole tiles.
    pub fn chunk_tokens(self, caps: Caps) -> usize {
        (caps.chunk_logits / self.vocab_size.max(1) / 64 * 64).max(64).min(self.tokens)
    }
}

/// Device side of this family beyond the products. Arguments have been checked by the functions below.
pub trait CrossEntropyKernels: Storage {
    /// Losses of `shape.tokens` rows of f32 `logits` [tokens, vocab_size], which it may overwrite. Where there is
    /// a `loss_scale` `[1]`, their gradient goes to `dlogits` [tokens, vocab_size] bf16 if that is there, else in
    /// place of the logits. `cross_entropy` and `z_losses` are `[tokens]` f32.
    fn softmax_cross_entropy_rows(
        &self,
        shape: CrossEntropyShape,
        params: &CrossEntropyParams,
        loss_scale: Option<TensorRef<'_, Self>>,
        logits: TensorMut<'_, Self>,
        dlogits: Option<TensorMut<'_, Self>>,
        labels: TensorRef<'_, Self>,
        cross_entropy: TensorMut<'_, Self>,
        z_losses: TensorMut<'_, Self>,
    ) -> Result<()>;

    /// `maxima[t] = max_c logits[t, c]` over the classes of this rank that are numbers; negative infinity if
    /// there is none. `logits` [tokens, classes], `maxima` `[tokens]`, f32.
    fn shard_maxima(
        &self,
        shape: ShardShape,
        logits: TensorRef<'_, Self>,
        maxima: TensorMut<'_, Self>,
    ) -> Result<()>;

    /// `terms` [2, tokens] f32: `sum_c e^(logits[t, c] - maxima[t])` over the classes of this rank, then
    /// `logits[t, label]` where the label is one of them and 0 elsewhere; both 0 for an ignored token.
    /// Replaces `logits` [tokens, classes] by those exponentials (by anything for an ignored token). `maxima`
    /// `[tokens]` f32 are those over all ranks.
    fn shard_terms(
        &self,
        shape: ShardShape,
        labels: TensorRef<'_, Self>,
        maxima: TensorRef<'_, Self>,
        logits: TensorMut<'_, Self>,
        terms: TensorMut<'_, Self>,
    ) -> Result<()>;

    /// Losses as [`softmax_cross_entropy_rows`](Self::softmax_cross_entropy_rows) gives them and, where there
    /// is a `loss_scale`, the gradient of this rank's logits in `dlogits` or in place of the `exponentials`
    /// [tokens, classes]. `maxima` and `terms` are those over all ranks.
    fn shard_losses(
        &self,
        shape: ShardShape,
        params: &CrossEntropyParams,
        loss_scale: Option<TensorRef<'_, Self>>,
        labels: TensorRef<'_, Self>,
        maxima: TensorRef<'_, Self>,
        terms: TensorRef<'_, Self>,
        exponentials: TensorMut<'_, Self>,
        dlogits: Option<TensorMut<'_, Self>>,
        cross_entropy: TensorMut<'_, Self>,
        z_losses: TensorMut<'_, Self>,
    ) -> Result<()>;
}

/// Losses, and the gradient of `loss_scale · (sum of all losses)`.
///
/// Shapes: `x`, `dx` [tokens, hidden_size] of one dtype, f32 or bf16, `dx` replaced; `weight`
/// [rows, hidden_size] f32 or bf16; `labels` `[tokens]` i32, each a class or [`IGNORED`] (a precondition:
/// values on a device are not seen here); `loss_scale` `[1]` f32, usually 1 / labelled tokens; `losses`
/// [2, tokens] f32: cross-entropies, then z-losses, both 0 for ignored tokens; `dweight` [rows, hidden_size]
/// f32, added to, chunk by chunk in order.
///
/// Rank r of `across` holds the classes `[r · rows, (r + 1) · rows)` of `vocab_size`, the rows beyond being
/// padding, which is not read and gets no gradient. `x`, `labels`, `loss_scale` and `losses` are the same on
/// every rank; `dx` is this rank's part of a sum over ranks that the caller completes. One maximum and one
/// sum over ranks per chunk ([`CrossEntropyShape::chunk_tokens`] of the rows); none for one rank.
///
/// # Errors
/// Shapes and dtypes; ranks whose rows are fewer than `vocab_size`; what `across` meets.
pub fn linear_forward_backward<D: Device, A: AcrossRanks<D> + ?Sized>(
    ctx: &Context<D>,
    params: &CrossEntropyParams,
    vocab_size: usize,
    across: &mut A,
    x: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
    labels: TensorRef<'_, D>,
    loss_scale: TensorRef<'_, D>,
    mut losses: TensorMut<'_, D>,
    mut dx: TensorMut<'_, D>,
    dweight: TensorMut<'_, D>,
) -> Result<(), A::Error> {
    const OP: &str = "cross_entropy::linear_forward_backward";
    let shape = check_inputs(OP, x, weight, labels, losses.as_ref())?;
    loss_scale.expect(OP, "loss_scale", &[1])?;
    loss_scale.expect_dtype(OP, "loss_scale", DType::F32)?;
    dx.expect(OP, "dx", x.shape().dims())?;
    dx.expect_dtype(OP, "dx", x.dtype())?;
    dweight.expect(OP, "dweight", weight.shape().dims())?;
    dweight.expect_dtype(OP, "dweight", DType::F32)?;
    let shard = ShardShape::new(OP, shape, vocab_size, across.rank(), across.size())?;
    // Padding takes no part in anything below, the products included.
    let (weight, mut dweight) = (weight.rows(0, shard.classes), dweight.rows(0, shard.classes));
    let bytes = 2 * x.size_bytes() + weight.size_bytes() + 2 * dweight.as_ref().size_bytes();
    record(ctx, OP, shard, shape.hidden_size, 3, bytes + labels.size_bytes() + losses.as_ref().size_bytes());

    let mut narrow = narrow_dlogits(ctx, shape, shard, x.dtype(), weight.dtype())?;
    let mut losses_of = Losses { ctx, params, loss_scale: Some(loss_scale), shard, across };
    for_each_chunk(ctx, shape, shard, |start, logits| {
        let tokens = logits.shape().dims()[0];
        let x = x.rows(start, tokens);
        let grid = [tokens, shard.classes];
        let dlogits = narrow.as_mut().map(|dlogits| dlogits.range_mut(0, grid));
        losses_of.chunk(x, weight, labels, start, logits.reborrow(), dlogits, &mut losses)?;
        let dlogits = narrow.as_ref().map_or(logits.as_ref(), |dlogits| dlogits.range(0, grid));
        let dx = dx.reborrow().rows(start, tokens);
        let [m, n, k] = [tokens, shape.hidden_size, shard.classes];
        let dx_shape = GemmShape { m, n, k };
        gemm::product(ctx, Layout::Nn, dx_shape, dlogits, weight, None, Write::Replace, dx)?;
        let dweight_shape = GemmShape { m: k, n, k: m };
        let dweight = dweight.reborrow();
        Ok(gemm::product(ctx, Layout::Tn, dweight_shape, dlogits, x, None, Write::Add, dweight)?)
    })
}

/// Losses alone, for evaluation. Shapes and ranks as in [`linear_forward_backward`].
///
/// # Errors
/// As [`linear_forward_backward`].
pub fn linear_forward<D: Device, A: AcrossRanks<D> + ?Sized>(
    ctx: &Context<D>,
    params: &CrossEntropyParams,
    vocab_size: usize,
    across: &mut A,
    x: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
    labels: TensorRef<'_, D>,
    mut losses: TensorMut<'_, D>,
) -> Result<(), A::Error> {
    const OP: &str = "cross_entropy::linear_forward";
    let shape = check_inputs(OP, x, weight, labels, losses.as_ref())?;
    let shard = ShardShape::new(OP, shape, vocab_size, across.rank(), across.size())?;
    let weight = weight.rows(0, shard.classes);
    let bytes = x.size_bytes() + weight.size_bytes() + labels.size_bytes() + losses.as_ref().size_bytes();
    record(ctx, OP, shard, shape.hidden_size, 1, bytes);
    let mut losses_of = Losses { ctx, params, loss_scale: None, shard, across };
    for_each_chunk(ctx, shape, shard, |start, logits| {
        let x = x.rows(start, logits.shape().dims()[0]);
        losses_of.chunk(x, weight, labels, start, logits.reborrow(), None, &mut losses)
    })
}

/// Calls `work(first token, logits [tokens, classes])` for each chunk, in order. Chunks depend on the rows of
/// the projection, not on the classes among them, so that all ranks have the same.
fn for_each_chunk<D: Device, E: From<KernelError>>(
    ctx: &Context<D>,
    shape: CrossEntropyShape,
    shard: ShardShape,
    mut work: impl FnMut(usize, &mut TensorMut<'_, D>) -> Result<(), E>,
) -> Result<(), E> {
    let chunk_tokens = shape.chunk_tokens(ctx.device.caps());
    let mut logits = ctx.arena.block(Class::Workspace, DType::F32, chunk_tokens * shard.classes)?;
    let mut start = 0;
    while start < shape.tokens {
        let tokens = chunk_tokens.min(shape.tokens - start);
        work(start, &mut logits.range_mut(0, [tokens, shard.classes]))?;
        start += tokens;
    }
    Ok(())
}

/// Room for a chunk's gradients apart from its logits, where they are rounded.
fn narrow_dlogits<D: Device>(
    ctx: &Context<D>,
    shape: CrossEntropyShape,
    shard: ShardShape,
    x: DType,
    weight: DType,
) -> Result<Option<Block<D>>> {
    let caps = ctx.device.caps();
    let is_rounded = caps.rounds_dlogits && [x, weight] == [DType::Bf16; 2];
    let block = || ctx.arena.block(Class::Workspace, DType::Bf16, shape.chunk_tokens(caps) * shard.classes);
    is_rounded.then(block).transpose()
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
    shard: ShardShape,
    hidden_size: usize,
    products: u64,
    bytes: usize,
) {
    let product = gemm::flops(GemmShape { m: shard.tokens, n: shard.classes, k: hidden_size });
    let logits = shard.tokens as u64 * shard.classes as u64;
    ctx.device.record(Cost { op, flops: products * product + 5 * logits, bytes: bytes as u64 });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_as_large_as_the_device_wants_them() {
        let chunk = |vocab_size, chunk_logits| {
            let shape = CrossEntropyShape { tokens: 8192, vocab_size, hidden_size: 1 };
            shape.chunk_tokens(Caps { chunk_logits, ..Caps::CUDA })
        };
        assert_eq!([chunk(128_256, 1 << 27), chunk(32_000, 1 << 27)], [1024, 4160]);
        assert_eq!([chunk(128_256, 1 << 20), chunk(1000, 1 << 20), chunk(0, 1 << 20)], [64, 1024, 8192]);
    }
}
