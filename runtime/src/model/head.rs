//! The head: last norm, output projection, loss.

use tisserand_kernels::ops::cross_entropy::{self, CrossEntropyParams, Whole};
use tisserand_kernels::ops::{Write, gemm};
use tisserand_kernels::{Block, Class, DType, Device, Result, TensorMut, TensorRef};

use super::Pass;
use super::norm::Norm;
use crate::params::{ParamId, UnitGradients, UnitWeights};

/// Last norm and output projection; with tied embeddings the projection is the embedding's table.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Head {
    /// Last norm.
    pub norm: Norm,
    /// Output projection [vocab_size, hidden].
    pub projection: ParamId,
    /// Rows of the projection.
    pub vocab_size: usize,
}

impl Head {
    /// Losses of the pass's tokens ([2, tokens]: cross-entropy, z-loss) and, since the loss is the end of
    /// the forward pass, its backward pass at once: returns the gradient of `loss_scale` times their sum
    /// with respect to `x` [tokens, hidden]. Logits are never stored whole.
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
        let grid = [pass.tokens(), self.norm.width];
        let (normed, saved) = self.norm.forward(pass, weights, x.view(grid))?;
        let mut dnormed = pass.activations(self.norm.width)?;
        cross_entropy::linear_forward_backward(
            pass.ctx,
            params,
            self.vocab_size,
            &mut Whole,
            normed.view(grid),
            weights.get(self.projection),
            pass.labels(),
            loss_scale,
            losses,
            dnormed.view_mut(grid),
            gradients.get(self.projection),
        )?;
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
        let grid = [pass.tokens(), self.norm.width];
        let (normed, _) = self.norm.forward(pass, weights, x.view(grid))?;
        let projection = weights.get(self.projection);
        let (x, labels) = (normed.view(grid), pass.labels());
        cross_entropy::linear_forward(
            pass.ctx,
            params,
            self.vocab_size,
            &mut Whole,
            x,
            projection,
            labels,
            losses,
        )
    }

    /// Logits [rows, vocab_size] of the last `rows` tokens, for generation and tests.
    pub fn logits<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: Block<D>,
        rows: usize,
    ) -> Result<Block<D>> {
        let grid = [pass.tokens(), self.norm.width];
        let (normed, _) = self.norm.forward(pass, weights, x.view(grid))?;
        let last = normed.view(grid).rows(pass.tokens() - rows, rows);
        let mut logits = pass.ctx.arena.block(Class::Activations, pass.dtype, rows * self.vocab_size)?;
        let out = logits.view_mut([rows, self.vocab_size]);
        gemm::linear_forward(pass.ctx, last, weights.get(self.projection), None, out)?;
        Ok(logits)
    }

    /// Elements of the buffer of losses.
    pub fn losses<D: Device>(pass: &Pass<'_, D>) -> Result<Block<D>> {
        pass.ctx.arena.block(Class::Activations, DType::F32, 2 * pass.tokens())
    }
}
