//! RMS norm as a layer: over the residual stream, or over each head.

use tisserand_kernels::ops::{Write, rms_norm};
use tisserand_kernels::{Block, Device, Storage, TensorMut, TensorRef};

use super::Pass;
use crate::error::Result;
use crate::params::{ParamId, UnitGradients, UnitWeights};

/// One norm.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Norm {
    /// `[width]`.
    pub weight: ParamId,
    /// Elements that are normalised together.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f32,
}

/// What the backward pass of a norm needs besides its input.
pub struct NormSaved<D: Storage> {
    /// Reciprocal root mean square of every row `[rows]` f32.
    rstd: Block<D>,
}

impl Norm {
    /// Normalises `x` [rows, width].
    pub fn forward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: TensorRef<'_, D>,
    ) -> Result<(Block<D>, NormSaved<D>)> {
        let rows = x.len() / self.width;
        let grid = [rows, self.width];
        let mut rstd = pass.statistics(rows)?;
        let mut out = pass.elements(x.len())?;
        let weight = weights.get(self.weight);
        let (out_view, rstd_view) = (out.view_mut(grid), rstd.view_mut([rows]));
        rms_norm::forward(pass.ctx, self.eps, x.reshape(grid), weight, out_view, rstd_view)?;
        Ok((out, NormSaved { rstd }))
    }

    /// `sum = x + residual`, and its norm: (sum, out, saved).
    pub fn forward_of_sum<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: TensorRef<'_, D>,
        residual: TensorRef<'_, D>,
    ) -> Result<(Block<D>, Block<D>, NormSaved<D>)> {
        let rows = x.len() / self.width;
        let grid = [rows, self.width];
        let mut rstd = pass.statistics(rows)?;
        let (mut sum, mut out) = (pass.elements(x.len())?, pass.elements(x.len())?);
        rms_norm::add_forward(
            pass.ctx,
            self.eps,
            x,
            residual,
            weights.get(self.weight),
            sum.view_mut(grid),
            out.view_mut(grid),
            rstd.view_mut([rows]),
        )?;
        Ok((sum, out, NormSaved { rstd }))
    }

    /// Adds the weight's gradient; writes or adds the input's.
    pub fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        saved: &NormSaved<D>,
        x: TensorRef<'_, D>,
        dout: TensorRef<'_, D>,
        write: Write,
        dx: TensorMut<'_, D>,
    ) -> Result<()> {
        let rows = x.len() / self.width;
        let grid = [rows, self.width];
        let (x, dout, dx) = (x.reshape(grid), dout.reshape(grid), dx.reshape(grid));
        let (weight, rstd) = (weights.get(self.weight), saved.rstd.view([rows]));
        Ok(rms_norm::backward(pass.ctx, dout, x, weight, rstd, write, dx, gradients.get(self.weight))?)
    }
}
