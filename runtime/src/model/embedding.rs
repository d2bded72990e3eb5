//! The embedding: token ids to the residual stream.

use tisserand_kernels::ops::embedding;
use tisserand_kernels::{Block, Device};

use super::Pass;
use crate::error::Result;
use crate::params::{ParamId, UnitGradients, UnitWeights};

/// The embedding table, or this rank's rows of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Embedding {
    /// [rows, hidden].
    pub table: ParamId,
    /// Columns of the table.
    pub hidden_size: usize,
    /// The token of the first row here.
    pub first_row: usize,
}

impl Embedding {
    /// The rows of the pass's tokens: the stream. Backward needs nothing but the tokens.
    pub fn forward<D: Device>(&self, pass: &Pass<'_, D>, weights: &UnitWeights<'_, D>) -> Result<Block<D>> {
        let mut out = pass.activations(self.hidden_size)?;
        let (table, out_view) = (weights.get(self.table), out.view_mut([pass.tokens(), self.hidden_size]));
        embedding::forward(pass.ctx, self.first_row, pass.token_ids(), table, out_view)?;
        // Rows that lie elsewhere are zero here.
        pass.scatter_tokens(out)
    }

    /// Adds the stream's gradient to the rows of the pass's tokens.
    pub fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        dout: Block<D>,
    ) -> Result<()> {
        let dout = pass.gather_tokens(&dout)?;
        let dout = dout.view([pass.tokens(), self.hidden_size]);
        let dtable = gradients.get(self.table);
        Ok(embedding::backward(pass.ctx, self.first_row, pass.token_ids(), dout, dtable)?)
    }
}
