//! The feed-forward layer: `down(silu(gate(x)) · up(x))`, gate and up in one product. It takes all tokens; with
//! tensor parallelism a rank has a part of the intermediate columns, and its output, like the gradient of its
//! input, is a term of the sum over ranks.

use tisserand_kernels::ops::{Write, gemm, swiglu};
use tisserand_kernels::{Block, Device, Storage, TensorRef};

use super::Pass;
use super::linear::Linear;
use crate::error::Result;
use crate::params::{UnitGradients, UnitWeights};

/// The feed-forward layer of one block.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Mlp {
    /// Gate and up projections, their rows one behind the other: hidden -> 2 · intermediate.
    pub gate_up: Linear,
    /// Projection back into the residual stream: intermediate -> hidden.
    pub down: Linear,
}

/// What backward needs besides the layer's input.
pub struct MlpSaved<D: Storage> {
    /// [tokens, 2 · intermediate]: gate, then up.
    gate_up: Block<D>,
    /// [tokens, intermediate]: `silu(gate) · up`; recomputed if absent.
    activated: Option<Block<D>>,
}

impl<D: Storage> MlpSaved<D> {
    /// Frees what the backward pass can cheaply compute again.
    pub fn thin(&mut self) {
        self.activated = None;
    }
}

impl Mlp {
    /// Everything before the down projection, given the normalised stream `x` [tokens, hidden]. Without biases the
    /// activation is computed where the product's sums are.
    pub fn activate<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: TensorRef<'_, D>,
    ) -> Result<MlpSaved<D>> {
        if self.gate_up.bias.is_some() {
            let gate_up = self.gate_up.forward(pass, weights, x)?;
            let activated = Some(self.swiglu(pass, &gate_up)?);
            return Ok(MlpSaved { gate_up, activated });
        }
        let (tokens, Linear { weight, out_features, .. }) = (pass.tokens(), self.gate_up);
        let (mut gate_up, mut activated) =
            (pass.activations(out_features)?, pass.activations(self.down.in_features)?);
        let product = gate_up.view_mut([tokens, out_features]);
        let out = activated.view_mut([tokens, self.down.in_features]);
        gemm::linear_swiglu(pass.ctx, x, weights.get(weight), product, out)?;
        Ok(MlpSaved { gate_up, activated: Some(activated) })
    }

    fn swiglu<D: Device>(&self, pass: &Pass<'_, D>, gate_up: &Block<D>) -> Result<Block<D>> {
        let mut activated = pass.activations(self.down.in_features)?;
        let out = activated.view_mut([pass.tokens(), self.down.in_features]);
        swiglu::forward(pass.ctx, gate_up.view([pass.tokens(), self.gate_up.out_features]), out)?;
        Ok(activated)
    }

    /// The down projection [tokens, hidden]: this rank's term.
    pub fn output<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        saved: &MlpSaved<D>,
    ) -> Result<Block<D>> {
        let activated = saved.activated.as_ref().expect("forward calls output before it thins");
        self.down.forward(pass, weights, activated.view([pass.tokens(), self.down.in_features]))
    }

    /// This rank's term of the gradient of the layer's input `x`, given that of its output `dout` [tokens, hidden].
    pub fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        saved: MlpSaved<D>,
        x: TensorRef<'_, D>,
        dout: TensorRef<'_, D>,
    ) -> Result<Block<D>> {
        let tokens = pass.tokens();
        let wide = [tokens, self.gate_up.out_features];
        let narrow = [tokens, self.down.in_features];
        let MlpSaved { gate_up, activated } = saved;
        let activated = match activated {
            Some(activated) => activated,
            None => self.swiglu(pass, &gate_up)?,
        };
        self.down.backward_parameters(pass, gradients, activated.view(narrow), dout)?;
        // The activations are read for the last time above: their block takes their gradient.
        let mut dactivated = activated;
        self.down.backward_input(pass, weights, dout, Write::Replace, dactivated.view_mut(narrow))?;

        let mut dgate_up = pass.activations(self.gate_up.out_features)?;
        swiglu::backward(pass.ctx, gate_up.view(wide), dactivated.view(narrow), dgate_up.view_mut(wide))?;
        drop((gate_up, dactivated));
        self.gate_up.backward_parameters(pass, gradients, x, dgate_up.view(wide))?;
        let mut dx = pass.activations(self.gate_up.in_features)?;
        let dx_view = dx.view_mut([tokens, self.gate_up.in_features]);
        self.gate_up.backward_input(pass, weights, dgate_up.view(wide), Write::Replace, dx_view)?;
        Ok(dx)
    }
}
