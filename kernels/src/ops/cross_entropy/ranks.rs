//! Classes cut over ranks: who holds which, what ranks exchange, and the losses of a chunk, fused where one
//! rank holds all classes and in three phases otherwise.
//!
//! With `M[t] = max_v logits[t, v]`, `S[t] = sum_v e^(logits[t, v] - M[t])` and the label's logit `z[t]` over
//! the classes of all ranks, `lse = M + ln S` and the cross-entropy is `lse - z`. A rank gives its part of M,
//! then of (S, z), and has with their totals all that the gradient of its own logits needs (Megatron-LM,
//! arXiv:1909.08053, §3).

use super::{CrossEntropyParams, CrossEntropyShape};
use crate::ops::Write;
use crate::ops::gemm::{self, GemmShape, Layout};
use crate::{Block, Class, Context, DType, Device, KernelError, Result, Storage, TensorMut, TensorRef};

/// The ranks over which classes are cut, seen from one of them. Every rank makes the same calls in the same
/// order, on f32 blocks of the same length; a block is moved in because it is the collective's while in
/// flight, and comes back with the result.
pub trait AcrossRanks<D: Storage> {
    /// What a collective may meet, or an op between two of them.
    type Error: From<KernelError>;

    /// This rank's place among those that hold classes.
    fn rank(&self) -> usize;

    /// Ranks that hold classes.
    fn size(&self) -> usize;

    /// The largest of every element over all ranks.
    ///
    /// # Errors
    /// What the collective meets.
    fn max(&mut self, values: Block<D>) -> Result<Block<D>, Self::Error>;

    /// The sum of every element over all ranks, the same bits on each.
    ///
    /// # Errors
    /// What the collective meets.
    fn sum(&mut self, values: Block<D>) -> Result<Block<D>, Self::Error>;
}

/// One rank that holds all classes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Whole;

impl<D: Storage> AcrossRanks<D> for Whole {
    type Error = KernelError;

    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn max(&mut self, values: Block<D>) -> Result<Block<D>> {
        Ok(values)
    }

    fn sum(&mut self, values: Block<D>) -> Result<Block<D>> {
        Ok(values)
    }
}

/// The classes of one rank among all, and some tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardShape {
    /// Tokens: one loss each.
    pub tokens: usize,
    /// The first class of this rank.
    pub first_class: usize,
    /// Classes of this rank, without padding; none if the ranks before it hold all.
    pub classes: usize,
    /// Classes of all ranks.
    pub vocab_size: usize,
}

impl ShardShape {
    /// The classes of rank `rank` of `size` with the rows of `shape` each.
    ///
    /// All have as many rows, so each class is of exactly one rank if the rows of all suffice, which is
    /// checked here: no label that is a class can be in no shard.
    pub(super) fn new(
        op: &'static str,
        shape: CrossEntropyShape,
        vocab_size: usize,
        rank: usize,
        size: usize,
    ) -> Result<Self> {
        let rows = shape.vocab_size;
        let suffices = rows.checked_mul(size).is_some_and(|held| held >= vocab_size);
        if rank >= size || !suffices {
            let message =
                format!("rank {rank} of {size} with {rows} rows each cannot hold {vocab_size} classes");
            return Err(KernelError::Parameter { op, message });
        }
        let first_class = rank * rows;
        let classes = vocab_size.saturating_sub(first_class).min(rows);
        Ok(ShardShape { tokens: shape.tokens, first_class, classes, vocab_size })
    }

    /// Where the class stands among those of this rank, if it is one.
    #[inline(always)]
    pub fn local(self, class: usize) -> Option<usize> {
        class.checked_sub(self.first_class).filter(|local| *local < self.classes)
    }
}

/// What the losses of every chunk need.
pub(super) struct Losses<'a, D: Device, A: ?Sized> {
    pub(super) ctx: &'a Context<D>,
    pub(super) params: &'a CrossEntropyParams,
    pub(super) loss_scale: Option<TensorRef<'a, D>>,
    pub(super) shard: ShardShape,
    pub(super) across: &'a mut A,
}

impl<D: Device, A: AcrossRanks<D> + ?Sized> Losses<'_, D, A> {
    /// Logits of the chunk `x` that starts at token `start`, then their losses and, if there is a `loss_scale`, their
    /// gradient in `dlogits` or in place.
    pub(super) fn chunk(
        &mut self,
        x: TensorRef<'_, D>,
        weight: TensorRef<'_, D>,
        labels: TensorRef<'_, D>,
        start: usize,
        mut logits: TensorMut<'_, D>,
        dlogits: Option<TensorMut<'_, D>>,
        losses: &mut TensorMut<'_, D>,
    ) -> Result<(), A::Error> {
        let Losses { ctx, params, loss_scale, shard: all, .. } = *self;
        let [tokens, k] = [x.shape().dims()[0], x.shape().dims()[1]];
        let shard = ShardShape { tokens, ..all };
        let product = GemmShape { m: tokens, n: shard.classes, k };
        gemm::product(ctx, Layout::Nt, product, x, weight, None, Write::Replace, logits.reborrow())?;
        let labels = labels.rows(start, tokens);
        let (cross_entropy, z_losses) = losses.reborrow().split_rows(1);
        let [cross_entropy, z_losses] =
            [cross_entropy, z_losses].map(|losses| losses.reshape([all.tokens]).rows(start, tokens));

        // An unsharded model has a kernel of its own, although the phases below would give the same bits: it
        // goes over a row three times while the row is in a cache near the core, they over a whole chunk, which
        // costs them a twentieth more of everything but the products (2,048 tokens, 16,384 classes, 2 threads).
        // The choice is made by what all ranks know, so that none waits for another in vain.
        if self.across.size() == 1 {
            let shape = CrossEntropyShape { tokens, vocab_size: shard.classes, hidden_size: k };
            return Ok(ctx.device.softmax_cross_entropy_rows(
                shape,
                params,
                loss_scale,
                logits,
                dlogits,
                labels,
                cross_entropy,
                z_losses,
            )?);
        }
        let block = |len| ctx.arena.block(Class::Communication, DType::F32, len);
        let (mut maxima, mut terms) = (block(tokens)?, block(2 * tokens)?);
        ctx.device.shard_maxima(shard, logits.as_ref(), maxima.view_mut([tokens]))?;
        let maxima = self.across.max(maxima)?;
        let maxima = maxima.view([tokens]);
        let terms_view = terms.view_mut([2, tokens]);
        ctx.device.shard_terms(shard, labels, maxima, logits.reborrow(), terms_view)?;
        let terms = self.across.sum(terms)?;
        let terms = terms.view([2, tokens]);
        Ok(ctx.device.shard_losses(
            shard,
            params,
            loss_scale,
            labels,
            maxima,
            terms,
            logits,
            dlogits,
            cross_entropy,
            z_losses,
        )?)
    }
}
