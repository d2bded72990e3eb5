//! Each layer of the model as the check drives it, with what it states: parameters, bytes, FLOPs.

use tisserand_kernels::ops::Write;
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::testing::upload;
use tisserand_kernels::{Block, DType, Device};
use tisserand_runtime::Result;
use tisserand_runtime::model::Pass;
use tisserand_runtime::model::attention::{Attention, AttentionSaved};
use tisserand_runtime::model::block::{Block as TransformerBlock, BlockSaved, Recompute};
use tisserand_runtime::model::embedding::Embedding;
use tisserand_runtime::model::head::Head;
use tisserand_runtime::model::linear::Linear;
use tisserand_runtime::model::mlp::{Mlp, MlpSaved};
use tisserand_runtime::model::norm::{Norm, NormSaved};
use tisserand_runtime::params::{UnitGradients, UnitWeights};

use super::check::Layer;
use super::memory_page::saved_bytes;

/// A norm over the residual stream, its parameter's name given.
pub(crate) struct NormLayer(pub(crate) Norm, pub(crate) &'static str);

impl Layer for NormLayer {
    type Saved<D: Device> = (Block<D>, NormSaved<D>);

    fn in_features(&self) -> usize {
        self.0.width
    }

    fn parameters(&self) -> Vec<&'static str> {
        vec![self.1]
    }

    fn forward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: Block<D>,
    ) -> Result<(Block<D>, Self::Saved<D>)> {
        let (y, saved) = self.0.forward(pass, weights, x.view([x.len()]))?;
        Ok((y, (x, saved)))
    }

    fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        (x, saved): Self::Saved<D>,
        dout: Block<D>,
    ) -> Result<Block<D>> {
        let flat = [x.len()];
        let mut dx = pass.activations(self.0.width)?;
        let (x, dout, dx_view) = (x.view(flat), dout.view(flat), dx.view_mut(flat));
        self.0.backward(pass, weights, gradients, &saved, x, dout, Write::Replace, dx_view)?;
        Ok(dx)
    }

    fn saved_bytes(&self, dtype: DType) -> usize {
        self.0.width * dtype.size_bytes() + DType::F32.size_bytes()
    }

    fn flops(&self, t: u64) -> [u64; 2] {
        norm_flops(t, self.0.width)
    }
}

/// Per element a square, a sum and two products; backward ten.
fn norm_flops(rows: u64, width: usize) -> [u64; 2] {
    [4 * rows * width as u64, 10 * rows * width as u64]
}

/// A projection with the names of its parameters.
pub(crate) struct LinearLayer(pub(crate) Linear, pub(crate) Vec<&'static str>);

impl Layer for LinearLayer {
    type Saved<D: Device> = Block<D>;

    fn in_features(&self) -> usize {
        self.0.in_features
    }

    fn parameters(&self) -> Vec<&'static str> {
        self.1.clone()
    }

    fn forward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: Block<D>,
    ) -> Result<(Block<D>, Block<D>)> {
        Ok((self.0.forward(pass, weights, x.view([pass.tokens(), self.0.in_features]))?, x))
    }

    fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        x: Block<D>,
        dout: Block<D>,
    ) -> Result<Block<D>> {
        let grid = [pass.tokens(), self.0.in_features];
        let dout = dout.view([pass.tokens(), self.0.out_features]);
        self.0.backward_parameters(pass, gradients, x.view(grid), dout)?;
        let mut dx = pass.activations(self.0.in_features)?;
        self.0.backward_input(pass, weights, dout, Write::Replace, dx.view_mut(grid))?;
        Ok(dx)
    }

    fn saved_bytes(&self, dtype: DType) -> usize {
        self.0.in_features * dtype.size_bytes()
    }

    fn flops(&self, t: u64) -> [u64; 2] {
        linear_flops(t, &self.0)
    }
}

/// One product forward, two backward, and the column sum of a bias's gradient.
fn linear_flops(t: u64, linear: &Linear) -> [u64; 2] {
    let product = 2 * t * linear.in_features as u64 * linear.out_features as u64;
    let bias = if linear.bias.is_some() { t * linear.out_features as u64 } else { 0 };
    [product, 2 * product + bias]
}

/// Attention without its norm and residual.
pub(crate) struct AttentionLayer(pub(crate) Attention);

impl Layer for AttentionLayer {
    type Saved<D: Device> = (Block<D>, AttentionSaved<D>);

    fn in_features(&self) -> usize {
        self.0.query.in_features
    }

    fn parameters(&self) -> Vec<&'static str> {
        let mut names = vec!["q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"];
        if self.0.query.bias.is_some() {
            names.extend(["q_proj.bias", "k_proj.bias", "v_proj.bias"]);
        }
        names.extend(self.0.output.bias.map(|_| "o_proj.bias"));
        names.extend(self.0.head_norms.iter().flat_map(|_| ["q_norm.weight", "k_norm.weight"]));
        names
    }

    fn forward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: Block<D>,
    ) -> Result<(Block<D>, Self::Saved<D>)> {
        let saved = self.0.mix(pass, weights, x.view([pass.tokens(), self.in_features()]))?;
        Ok((self.0.output(pass, weights, &saved)?, (x, saved)))
    }

    fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        (x, saved): Self::Saved<D>,
        dout: Block<D>,
    ) -> Result<Block<D>> {
        let grid = [pass.tokens(), self.in_features()];
        self.0.backward(pass, weights, gradients, saved, x.view(grid), dout.view(grid))
    }

    fn saved_bytes(&self, dtype: DType) -> usize {
        self.in_features() * dtype.size_bytes() + saved_bytes("attention", Recompute::None, dtype, &self.0, 0)
    }

    fn flops(&self, t: u64) -> [u64; 2] {
        let Attention { query, key, value, output, head_norms, shape } = &self.0;
        // The op counts documents as long as the rotary tables, which the check makes as long as the batch.
        let pairs = shape.visible_pairs(t as usize, t as usize);
        let product = 2 * pairs * (shape.num_heads * shape.head_dim) as u64;
        let turned = query.out_features + key.out_features;
        let rope = 3 * t * turned as u64;
        let norms = if head_norms.is_some() { norm_flops(t, turned) } else { [0, 0] };
        let linear = [query, key, value, output].map(|linear| linear_flops(t, linear));
        let linear = linear.iter().fold([0, 0], |sum, flops| [sum[0] + flops[0], sum[1] + flops[1]]);
        [linear[0] + norms[0] + rope + 2 * product, linear[1] + norms[1] + rope + 5 * product]
    }
}

/// The feed-forward layer without its norm and residual.
pub(crate) struct MlpLayer(pub(crate) Mlp);

impl Layer for MlpLayer {
    type Saved<D: Device> = (Block<D>, MlpSaved<D>);

    fn in_features(&self) -> usize {
        self.0.gate_up.in_features
    }

    fn parameters(&self) -> Vec<&'static str> {
        let mut names = vec!["gate_proj.weight", "up_proj.weight", "down_proj.weight"];
        if self.0.down.bias.is_some() {
            names.extend(["gate_proj.bias", "up_proj.bias", "down_proj.bias"]);
        }
        names
    }

    fn forward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: Block<D>,
    ) -> Result<(Block<D>, Self::Saved<D>)> {
        let saved = self.0.activate(pass, weights, x.view([pass.tokens(), self.in_features()]))?;
        Ok((self.0.output(pass, weights, &saved)?, (x, saved)))
    }

    fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        (x, saved): Self::Saved<D>,
        dout: Block<D>,
    ) -> Result<Block<D>> {
        let grid = [pass.tokens(), self.in_features()];
        self.0.backward(pass, weights, gradients, saved, x.view(grid), dout.view(grid))
    }

    fn saved_bytes(&self, dtype: DType) -> usize {
        let own = 3 * self.0.down.in_features;
        (self.in_features() + own) * dtype.size_bytes()
    }

    fn flops(&self, t: u64) -> [u64; 2] {
        let (gate_up, down) = (linear_flops(t, &self.0.gate_up), linear_flops(t, &self.0.down));
        let activations = t * self.0.down.in_features as u64;
        [gate_up[0] + down[0] + 5 * activations, gate_up[1] + down[1] + 11 * activations]
    }
}

/// A whole block in one recompute mode.
pub(crate) struct BlockLayer {
    pub(crate) block: TransformerBlock,
    pub(crate) recompute: Recompute,
    /// What an option adds to the plain block.
    pub(crate) extra: Extra,
}

/// What an option of a block adds to what the plain one states.
#[derive(Default)]
pub(crate) struct Extra {
    /// Ends of the names of its parameters.
    pub(crate) parameters: Vec<&'static str>,
    /// Elements per token of the activations' type that it saves.
    pub(crate) saved_activations: usize,
    /// f32 numbers per token that it saves.
    pub(crate) saved_statistics: usize,
    /// FLOPs per token of forward and of backward, recomputation included.
    pub(crate) flops: [usize; 2],
}

impl Layer for BlockLayer {
    type Saved<D: Device> = BlockSaved<D>;

    fn in_features(&self) -> usize {
        self.block.attention_norm.width
    }

    fn parameters(&self) -> Vec<&'static str> {
        let mut names = vec!["input_layernorm.weight", "post_attention_layernorm.weight"];
        names.extend(AttentionLayer(self.block.attention).parameters());
        names.extend(MlpLayer(self.block.mlp).parameters());
        names.extend(&self.extra.parameters);
        names
    }

    fn forward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: Block<D>,
    ) -> Result<(Block<D>, BlockSaved<D>)> {
        self.block.forward(pass, weights, self.recompute, x)
    }

    fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        saved: BlockSaved<D>,
        dout: Block<D>,
    ) -> Result<Block<D>> {
        self.block.backward(pass, weights, gradients, saved, dout)
    }

    fn saved_bytes(&self, dtype: DType) -> usize {
        let Extra { saved_activations, saved_statistics, .. } = self.extra;
        let intermediate_size = self.block.mlp.down.in_features;
        saved_bytes("", self.recompute, dtype, &self.block.attention, intermediate_size)
            + saved_activations * dtype.size_bytes()
            + saved_statistics * DType::F32.size_bytes()
    }

    fn flops(&self, t: u64) -> [u64; 2] {
        let (attention, mlp) =
            (AttentionLayer(self.block.attention).flops(t), MlpLayer(self.block.mlp).flops(t));
        let stream = t * self.in_features() as u64;
        let activations = t * self.block.mlp.down.in_features as u64;
        let down = linear_flops(t, &self.block.mlp.down)[0];
        // The norm (4), the norm with the sum before it (5), the last sum (1).
        let forward = 10 * stream + attention[0] + mlp[0];
        let again = match self.recompute {
            Recompute::None => 0,
            Recompute::Selective => 8 * stream + 5 * activations,
            Recompute::Full => forward - stream - down,
        };
        let extra = self.extra.flops.map(|flops| t * flops as u64);
        [forward + extra[0], 20 * stream + attention[1] + mlp[1] + again + extra[1]]
    }
}

/// The table; the input is the batch, and the gradient that it returns is empty.
pub(crate) struct EmbeddingLayer(pub(crate) Embedding);

impl Layer for EmbeddingLayer {
    type Saved<D: Device> = ();

    fn in_features(&self) -> usize {
        0
    }

    fn parameters(&self) -> Vec<&'static str> {
        vec!["embed_tokens.weight"]
    }

    fn forward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        _x: Block<D>,
    ) -> Result<(Block<D>, ())> {
        Ok((self.0.forward(pass, weights)?, ()))
    }

    fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        _weights: &UnitWeights<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        (): (),
        dout: Block<D>,
    ) -> Result<Block<D>> {
        self.0.backward(pass, gradients, dout)?;
        pass.activations(0)
    }

    fn saved_bytes(&self, _dtype: DType) -> usize {
        0
    }

    fn flops(&self, t: u64) -> [u64; 2] {
        [0, t * self.0.hidden_size as u64]
    }
}

/// Last norm, projection and loss. In a step both passes are one call that saves nothing; here the first
/// half keeps the input for the second.
pub(crate) struct HeadLayer(pub(crate) Head);

/// Weight of every token's losses.
const LOSS_SCALE: f32 = 0.25;

impl HeadLayer {
    const PARAMS: CrossEntropyParams = CrossEntropyParams { z_loss: 0.125 };
}

impl Layer for HeadLayer {
    type Saved<D: Device> = Block<D>;

    fn in_features(&self) -> usize {
        self.0.norm.width
    }

    fn parameters(&self) -> Vec<&'static str> {
        vec!["norm.weight", "lm_head.weight"]
    }

    fn forward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        x: Block<D>,
    ) -> Result<(Block<D>, Block<D>)> {
        let flat = [x.len()];
        let mut kept = pass.activations(self.in_features())?;
        pass.ctx.device.copy(x.view(flat), kept.view_mut(flat))?;
        let mut losses = Head::losses(pass)?;
        self.0.loss(pass, weights, &Self::PARAMS, x, losses.view_mut([2, pass.tokens()]))?;
        Ok((losses, kept))
    }

    fn backward<D: Device>(
        &self,
        pass: &Pass<'_, D>,
        weights: &UnitWeights<'_, D>,
        gradients: &mut UnitGradients<'_, D>,
        x: Block<D>,
        mut losses: Block<D>,
    ) -> Result<Block<D>> {
        let scale = upload(pass.ctx, &[LOSS_SCALE]);
        let losses = losses.view_mut([2, pass.tokens()]);
        self.0.loss_and_gradient(pass, weights, gradients, &Self::PARAMS, scale.view([1]), x, losses)
    }

    fn saved_bytes(&self, dtype: DType) -> usize {
        self.in_features() * dtype.size_bytes()
    }

    fn flops(&self, t: u64) -> [u64; 2] {
        let norm = norm_flops(t, self.in_features());
        let logits = t * self.0.vocab_size as u64;
        let product = 2 * logits * self.in_features() as u64;
        [norm[0] + product + 5 * logits, norm[0] + norm[1] + 3 * product + 5 * logits]
    }

    fn output_gradient(&self, len: usize) -> Vec<f64> {
        vec![f64::from(LOSS_SCALE); len]
    }
}
