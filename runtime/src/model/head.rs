//! The head: last norm, output projection, loss.

use tisserand_collectives::Call;
use tisserand_kernels::ops::cross_entropy::{self, CrossEntropyParams};
use tisserand_kernels::ops::{Write, gemm};
use tisserand_kernels::{Block, Class, DType, Device, TensorMut, TensorRef};

use super::Pass;
use super::norm::Norm;
use crate::error::Result;
use crate::parallel::tensor::AcrossVocabulary;
use crate::params::{ParamId, UnitGradients, UnitWeights};

/// Last norm and output projection; with tied embeddings the projection is the embedding's table.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Head {
    /// Last norm.
    pub norm: Norm,
    /// Output projection [local_rows, hidden].
    pub projection: ParamId,
    /// Classes.
    pub vocab_size: usize,
    /// Rows of the projection here: all classes, or this rank's, padding included.
    pub local_rows: usize,
}

impl Head {
    /// Losses of the pass's tokens ([2, tokens]: cross-entropy, z-loss) and, since the loss is the end of
    /// the forward pass, its backward pass at once: returns the gradient of `loss_scale` times their sum
    /// with respect to `x` [stream_tokens, hidden]. Logits are never stored whole.
    pub fn loss_and_gradient<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        params: &CrossEntropyParams,
        loss_scale: TensorRef<'_, D>,
        x: Block<D>,
        losses: TensorMut<'_, D>,
    ) -> Result<Block<D>> {
        let (grid, whole) = ([pass.stream_tokens(), self.norm.width], [pass.tokens(), self.norm.width]);
        let (normed, saved) = self.norm.forward(pass, weights, x.view(grid))?;
        let mut dnormed = pass.activations(self.norm.width)?;
        cross_entropy::linear_forward_backward(
            pass.ctx,
            params,
            self.vocab_size,
            &mut AcrossVocabulary(pass.tp),
            pass.gather_tokens(&normed)?.view(whole),
            weights.get(self.projection),
            pass.labels(),
            loss_scale,
            losses,
            dnormed.view_mut(whole),
            gradients.get(self.projection),
        )?;
        let dnormed = pass.scatter_tokens(dnormed)?;
        // The normed stream is read for the last time above: its block takes the gradient of `x`.
        let mut dx = normed;
        let (x, dout, dx_view) = (x.view(grid), dnormed.view(grid), dx.view_mut(grid));
        self.norm.backward(pass, weights, gradients, &saved, x, dout, Write::Replace, dx_view)?;
        Ok(dx)
    }

    /// Losses only, for evaluation.
    pub fn loss<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        params: &CrossEntropyParams,
        x: Block<D>,
        losses: TensorMut<'_, D>,
    ) -> Result<()> {
        let (grid, whole) = ([pass.stream_tokens(), self.norm.width], [pass.tokens(), self.norm.width]);
        let (normed, _) = self.norm.forward(pass, weights, x.view(grid))?;
        cross_entropy::linear_forward(
            pass.ctx,
            params,
            self.vocab_size,
            &mut AcrossVocabulary(pass.tp),
            pass.gather_tokens(&normed)?.view(whole),
            weights.get(self.projection),
            pass.labels(),
            losses,
        )
    }

    /// Logits of the last `rows` tokens, for generation and tests: [tp, rows, local_rows], every rank's classes one
    /// behind the other; see [`Head::in_order`].
    pub fn logits<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: Block<D>,
        rows: usize,
    ) -> Result<Block<D>> {
        let (grid, whole) = ([pass.stream_tokens(), self.norm.width], [pass.tokens(), self.norm.width]);
        let (normed, _) = self.norm.forward(pass, weights, x.view(grid))?;
        let normed = pass.gather_tokens(&normed)?;
        let last = normed.view(whole).rows(pass.tokens() - rows, rows);
        let (place, len) = (pass.tp.place(), rows * self.local_rows);
        let mut logits = pass.ctx.arena.block(Class::Activations, pass.dtype, place.size * len)?;
        let out = logits.range_mut(place.rank * len, [rows, self.local_rows]);
        gemm::linear_forward(pass.ctx, last, weights.get(self.projection), None, out)?;
        if place.size == 1 { Ok(logits) } else { pass.tp.run(Call::AllGather, logits) }
    }

    /// The logits [rows, vocab_size] of what [`Head::logits`] gives, without those of padding.
    pub fn in_order(&self, rows: usize, logits: &[f32]) -> Vec<f32> {
        let ranks = logits.chunks_exact(rows * self.local_rows);
        let row_of = |row: usize, rank: &[f32]| rank[row * self.local_rows..][..self.local_rows].to_vec();
        (0..rows)
            .flat_map(|row| {
                let classes = ranks.clone().flat_map(move |rank| row_of(row, rank));
                classes.take(self.vocab_size).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Elements of the buffer of losses.
    pub fn losses<D: Device>(pass: &Pass<'_, D>) -> Result<Block<D>> {
        Ok(pass.ctx.arena.block(Class::Activations, DType::F32, 2 * pass.tokens())?)
    }
}
