//! One block: `x1 = x + attention(norm1(x))`, `y = x1 + mlp(norm2(x1))`, and what is kept of it.
//!
//! The stream and what the norms make of it have `stream_tokens` rows; attention and feed-forward layer see all
//! tokens. `gather_tokens` and `scatter_tokens` are the passages, and do nothing on one rank.

use tisserand_kernels::ops::{Write, elementwise};
use tisserand_kernels::{Block as Buffer, Device, Storage};

use super::Pass;
use super::attention::{Attention, AttentionSaved, KvCache};
use super::mlp::{Mlp, MlpSaved};
use super::norm::{Norm, NormSaved};
use crate::error::Result;
use crate::params::{UnitGradients, UnitWeights};
use tisserand_kernels::TensorRef;

/// What the forward pass of a block keeps for its backward pass; the rest is computed again, with the same
/// bits. `docs/memory.md` lists the tensors and their bytes per token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recompute {
    /// Keep everything: no work is done twice.
    None,
    /// Drop the outputs of both norms and of the activation function: cheap to compute, large to keep.
    Selective,
    /// Keep the block's input only.
    Full,
}

/// One transformer block.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Block {
    /// Before attention.
    pub attention_norm: Norm,
    /// Attention.
    pub attention: Attention,
    /// Before the feed-forward layer.
    pub mlp_norm: Norm,
    /// Feed-forward layer.
    pub mlp: Mlp,
}

/// What a block keeps between forward and backward.
pub struct BlockSaved<D: Storage> {
    /// The block's input [stream_tokens, hidden].
    x: Buffer<D>,
    /// Everything else; absent with full recompute.
    inner: Option<Inner<D>>,
}

struct Inner<D: Storage> {
    attention_norm: NormSaved<D>,
    /// Output of the first norm [stream_tokens, hidden]; recomputed if absent.
    attention_input: Option<Buffer<D>>,
    attention: AttentionSaved<D>,
    /// The stream between attention and feed-forward layer [stream_tokens, hidden].
    middle: Buffer<D>,
    mlp_norm: NormSaved<D>,
    /// Output of the second norm [stream_tokens, hidden]; recomputed if absent.
    mlp_input: Option<Buffer<D>>,
    mlp: MlpSaved<D>,
}

impl Block {
    fn grid<D: Device>(&self, pass: &Pass<'_, D>) -> [usize; 2] {
        [pass.stream_tokens(), self.attention_norm.width]
    }

    /// The grid of all tokens.
    fn whole<D: Device>(&self, pass: &Pass<'_, D>) -> [usize; 2] {
        [pass.tokens(), self.attention_norm.width]
    }

    /// The block's output, and what its backward pass needs.
    pub fn forward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        recompute: Recompute,
        x: Buffer<D>,
    ) -> Result<(Buffer<D>, BlockSaved<D>)> {
        let mut inner = self.inner(pass, weights, &x)?;
        let mut y = pass.scatter_tokens(self.mlp.output(pass, weights, &inner.mlp)?)?;
        let grid = self.grid(pass);
        elementwise::add_assign(pass.ctx, inner.middle.view(grid), y.view_mut(grid))?;
        let inner = match recompute {
            Recompute::None => Some(inner),
            Recompute::Selective => {
                inner.attention_input = None;
                inner.mlp_input = None;
                inner.mlp.thin();
                Some(inner)
            }
            Recompute::Full => None,
        };
        Ok((y, BlockSaved { x, inner }))
    }

    /// Everything up to the last projection, whose output the backward pass does not need.
    fn inner<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: &Buffer<D>,
    ) -> Result<Inner<D>> {
        let grid = self.grid(pass);
        let (attention_input, attention_norm) = self.attention_norm.forward(pass, weights, x.view(grid))?;
        let whole = self.whole(pass);
        let attention =
            self.attention.mix(pass, weights, pass.gather_tokens(&attention_input)?.view(whole))?;
        let attended = pass.scatter_tokens(self.attention.output(pass, weights, &attention)?)?;
        let (middle, mlp_input, mlp_norm) =
            self.mlp_norm.forward_of_sum(pass, weights, attended.view(grid), x.view(grid))?;
        drop(attended);
        let mlp = self.mlp.activate(pass, weights, pass.gather_tokens(&mlp_input)?.view(whole))?;
        Ok(Inner {
            attention_norm,
            attention_input: Some(attention_input),
            attention,
            middle,
            mlp_norm,
            mlp_input: Some(mlp_input),
            mlp,
        })
    }

    /// Adds the gradients of the block's parameters and turns the gradient of its output into that of its
    /// input, in the same buffer.
    pub fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        saved: BlockSaved<D>,
        mut stream: Buffer<D>,
    ) -> Result<Buffer<D>> {
        let grid = self.grid(pass);
        let BlockSaved { x, inner } = saved;
        let inner = match inner {
            Some(inner) => inner,
            None => self.inner(pass, weights, &x)?,
        };

        let mlp_input = match inner.mlp_input {
            Some(mlp_input) => mlp_input,
            None => self.mlp_norm.forward(pass, weights, inner.middle.view(grid))?.0,
        };
        let whole = self.whole(pass);
        let dmlp_input = {
            let (input, dout) = (pass.gather_tokens(&mlp_input)?, pass.gather_tokens(&stream)?);
            let (input, dout) = (input.view(whole), dout.view(whole));
            self.mlp.backward(pass, weights, gradients, inner.mlp, input, dout)?
        };
        drop(mlp_input);
        let dmlp_input = pass.scatter_tokens(dmlp_input)?;
        let (middle, dout, dx) = (inner.middle.view(grid), dmlp_input.view(grid), stream.view_mut(grid));
        self.mlp_norm.backward(pass, weights, gradients, &inner.mlp_norm, middle, dout, Write::Add, dx)?;
        drop((dmlp_input, inner.middle));

        let attention_input = match inner.attention_input {
            Some(attention_input) => attention_input,
            None => self.attention_norm.forward(pass, weights, x.view(grid))?.0,
        };
        let dattention_input = {
            let (input, dout) = (pass.gather_tokens(&attention_input)?, pass.gather_tokens(&stream)?);
            let (input, dout) = (input.view(whole), dout.view(whole));
            self.attention.backward(pass, weights, gradients, inner.attention, input, dout)?
        };
        drop(attention_input);
        let dattention_input = pass.scatter_tokens(dattention_input)?;
        let (x, dout, dx) = (x.view(grid), dattention_input.view(grid), stream.view_mut(grid));
        let norm = &inner.attention_norm;
        self.attention_norm.backward(pass, weights, gradients, norm, x, dout, Write::Add, dx)?;
        Ok(stream)
    }

    /// The block's output for new tokens of one sequence, whose earlier keys and values are in `cache`.
    pub fn forward_cached<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        cache: &mut KvCache<D>,
        bounds: [TensorRef<'_, D>; 2],
        x: Buffer<D>,
    ) -> Result<Buffer<D>> {
        let grid = self.grid(pass);
        let (attention_input, _) = self.attention_norm.forward(pass, weights, x.view(grid))?;
        let whole = self.whole(pass);
        let attended = {
            let input = pass.gather_tokens(&attention_input)?;
            self.attention.forward_cached(pass, weights, input.view(whole), cache, bounds)?
        };
        let attended = pass.scatter_tokens(attended)?;
        let (middle, mlp_input, _) =
            self.mlp_norm.forward_of_sum(pass, weights, attended.view(grid), x.view(grid))?;
        let mlp = self.mlp.activate(pass, weights, pass.gather_tokens(&mlp_input)?.view(whole))?;
        let mut y = pass.scatter_tokens(self.mlp.output(pass, weights, &mlp)?)?;
        elementwise::add_assign(pass.ctx, middle.view(grid), y.view_mut(grid))?;
        Ok(y)
    }
}
