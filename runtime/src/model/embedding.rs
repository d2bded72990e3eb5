//! The embedding: token ids to the residual stream.

use tisserand_kernels::ops::embedding;
use tisserand_kernels::{Block, Device, Result};

use super::Pass;
use crate::params::{ParamId, UnitGradients, UnitWeights};

/// The embedding table.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Embedding {
    /// [vocab_size, hidden].
    pub table: ParamId,
    /// Columns of the table.
    pub hidden_size: usize,
}

impl Embedding {
    /// The rows of the pass's tokens [tokens, hidden]. Backward needs nothing but the tokens.
    pub fn forward<D: Device>(&self, pass: &Pass<'_, D>, weights: &UnitWeights<'_, D>) -> Result<Block<D>> {
        let mut out = pass.activations(self.hidden_size)?;
        let grid = [pass.tokens(), self.hidden_size];
        embedding::forward(pass.ctx, 0, pass.token_ids(), weights.get(self.table), out.view_mut(grid))?;
        Ok(out)
    }

    /// Adds the stream's gradient to the rows of the pass's tokens.
    pub fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        dout: Block<D>,
    ) -> Result<()> {
        let dout = dout.view([pass.tokens(), self.hidden_size]);
        embedding::backward(pass.ctx, 0, pass.token_ids(), dout, gradients.get(self.table))
    }
}
