//! A linear layer: `y[t, o] = sum_i x[t, i] · weight[o, i] + bias[o]`.

use tisserand_kernels::ops::{Write, elementwise, gemm};
use tisserand_kernels::{Block, Device, TensorMut, TensorRef};

use super::Pass;
use crate::error::Result;
use crate::params::{ParamId, UnitGradients, UnitWeights};

/// The parameters of one projection. Saves nothing: its input is saved by whoever owns it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Linear {
    /// [out_features, in_features].
    pub weight: ParamId,
    /// `[out_features]`.
    pub bias: Option<ParamId>,
    /// Columns of the input on this rank.
    pub in_features: usize,
    /// Columns of the output on this rank.
    pub out_features: usize,
    /// Whether this rank adds the bias; where outputs are terms of a sum over `tp`, one rank does.
    pub adds_bias: bool,
}

impl Linear {
    /// The projection of `x` [tokens, in_features].
    pub fn forward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: TensorRef<'_, D>,
    ) -> Result<Block<D>> {
        let mut y = pass.activations(self.out_features)?;
        let bias = self.bias.filter(|_| self.adds_bias).map(|bias| weights.get(bias));
        let grid = [pass.tokens(), self.out_features];
        gemm::linear_forward(pass.ctx, x, weights.get(self.weight), bias, y.view_mut(grid))?;
        Ok(y)
    }

    /// Adds the gradients of weight and bias, given the input `x` and `dy` [tokens, out_features].
    pub fn backward_parameters<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        x: TensorRef<'_, D>,
        dy: TensorRef<'_, D>,
    ) -> Result<()> {
        gemm::linear_backward_weight(pass.ctx, dy, x, gradients.get(self.weight))?;
        if let Some(bias) = self.bias.filter(|_| self.adds_bias) {
            elementwise::column_sum(pass.ctx, dy, gradients.get(bias))?;
        }
        Ok(())
    }

    /// Writes or adds the gradient of the input [tokens, in_features].
    pub fn backward_input<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        dy: TensorRef<'_, D>,
        write: Write,
        dx: TensorMut<'_, D>,
    ) -> Result<()> {
        Ok(gemm::linear_backward_input(pass.ctx, dy, weights.get(self.weight), write, dx)?)
    }
}
