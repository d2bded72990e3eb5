//! A model with weights on a device: what evaluation and generation need, and training builds on.

use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::ops::{Write, elementwise};
use tisserand_kernels::{Block, Class, Context, DType, Device, Result};

use crate::data::MicroBatch;
use crate::model::attention::KvCache;
use crate::model::block::Recompute;
use crate::model::head::Head;
use crate::model::pass::{DeviceBatch, RopeTable};
use crate::model::{Pass, Transformer};
use crate::params::{UnitGradients, UnitWeights};
use crate::step::state::{Location, STAGED_ELEMENTS};

/// The compute copy of all parameters: per unit, matrices and vectors.
pub struct Weights<D: Device> {
    units: Vec<[Block<D>; 2]>,
}

impl<D: Device> Weights<D> {
    /// Takes the blocks, zeroed; padding stays zero.
    pub fn new(ctx: &Context<D>, model: &Transformer, dtype: DType) -> Result<Self> {
        Ok(Weights { units: flat_groups(ctx, model, Class::Weights, dtype)? })
    }

    /// One unit's parameters.
    pub fn unit(&self, unit: usize) -> UnitWeights<'_, D> {
        UnitWeights::new(self.units[unit].each_ref())
    }

    /// One flat group.
    pub fn group(&self, unit: usize, group: usize) -> &Block<D> {
        &self.units[unit][group]
    }

    /// One flat group, writable.
    pub fn group_mut(&mut self, unit: usize, group: usize) -> &mut Block<D> {
        &mut self.units[unit][group]
    }
}

/// A zeroed block for every flat group of a model.
pub(crate) fn flat_groups<D: Device>(
    ctx: &Context<D>,
    model: &Transformer,
    class: Class,
    dtype: DType,
) -> Result<Vec<[Block<D>; 2]>> {
    let zeroed = |len| -> Result<Block<D>> {
        let mut block = ctx.arena.block(class, dtype, len)?;
        ctx.device.zero(block.view_mut([len]))?;
        Ok(block)
    };
    let unit = |groups: &[crate::params::GroupLayout; 2]| -> Result<[Block<D>; 2]> {
        Ok([zeroed(groups[0].padded_len())?, zeroed(groups[1].padded_len())?])
    };
    model.units.iter().map(|layout| unit(&layout.groups)).collect()
}

/// Gradients of all parameters, f32.
pub struct Gradients<D: Device> {
    units: Vec<[Block<D>; 2]>,
}

impl<D: Device> Gradients<D> {
    /// Takes the blocks, zeroed.
    pub fn new(ctx: &Context<D>, model: &Transformer) -> Result<Self> {
        Ok(Gradients { units: flat_groups(ctx, model, Class::Gradients, DType::F32)? })
    }

    /// One unit's gradients, for a backward pass.
    pub fn unit_mut(&mut self, unit: usize) -> UnitGradients<'_, D> {
        UnitGradients::new(self.units[unit].each_mut())
    }

    /// One flat group.
    pub fn group(&self, unit: usize, group: usize) -> &Block<D> {
        &self.units[unit][group]
    }

    /// Every flat group, in the order of the layout.
    pub fn groups(&self) -> impl Iterator<Item = &Block<D>> {
        self.units.iter().flatten()
    }

    /// Every flat group, writable.
    pub fn groups_mut(&mut self) -> impl Iterator<Item = &mut Block<D>> {
        self.units.iter_mut().flatten()
    }

    /// The flat groups of one unit, writable.
    pub fn unit_groups_mut(&mut self, unit: usize) -> &mut [Block<D>; 2] {
        &mut self.units[unit]
    }
}

/// Model, weights and inputs on one device.
pub struct Network<D: Device> {
    /// Device and arena.
    pub ctx: Context<D>,
    /// Layers and layout.
    pub model: Transformer,
    /// Compute copy of the parameters.
    pub weights: Weights<D>,
    /// What every pass reads besides weights.
    pub inputs: Inputs<D>,
}

/// What every pass reads besides weights.
pub struct Inputs<D: Device> {
    /// The micro-batch under way.
    pub batch: DeviceBatch<D>,
    rope: RopeTable<D>,
    dtype: DType,
}

impl<D: Device> Inputs<D> {
    /// A pass over the loaded micro-batch.
    pub fn pass<'a>(&'a self, ctx: &'a Context<D>) -> Pass<'a, D> {
        Pass { ctx, batch: &self.batch, rope: &self.rope, dtype: self.dtype }
    }
}

impl<D: Device> Network<D> {
    /// Takes the blocks of weights, micro-batch and rotary tables. `tokens` are those of a micro-batch,
    /// `positions` the largest position plus one; weights and activations are stored as `dtype`.
    pub fn new(
        ctx: Context<D>,
        model: Transformer,
        dtype: DType,
        tokens: usize,
        positions: usize,
    ) -> Result<Self> {
        let weights = Weights::new(&ctx, &model, dtype)?;
        let rope = RopeTable::new(&ctx, &model.config, positions)?;
        let batch = DeviceBatch::new(&ctx, tokens)?;
        Ok(Network { ctx, model, weights, inputs: Inputs { batch, rope, dtype } })
    }

    /// Sets the compute copy of a parameter.
    pub fn write(&mut self, location: Location<'_>, values: &[f32]) -> Result<()> {
        let ctx = self.ctx.clone();
        let block = self.weights.group_mut(location.unit, location.group);
        for (i, values) in values.chunks(STAGED_ELEMENTS).enumerate() {
            let (start, extents) = (i * STAGED_ELEMENTS, [values.len()]);
            let mut staged = ctx.arena.block(Class::Workspace, DType::F32, values.len())?;
            ctx.device.upload(values, staged.view_mut(extents))?;
            let out = block.range_mut(location.param.offset + start, extents);
            elementwise::cast(&ctx, staged.view(extents), out)?;
        }
        Ok(())
    }

    /// Copies a micro-batch to the device.
    pub fn load(&mut self, micro_batch: &MicroBatch) -> Result<()> {
        self.inputs.batch.upload(&self.ctx, micro_batch)
    }

    /// The residual stream behind the last block, nothing saved.
    fn stream(&self) -> Result<Block<D>> {
        let pass = self.inputs.pass(&self.ctx);
        let mut stream =
            self.model.embedding.forward(&pass, &self.weights.unit(Transformer::EMBEDDING_UNIT))?;
        for (i, block) in self.model.blocks.iter().enumerate() {
            let weights = self.weights.unit(Transformer::block_unit(i));
            stream = block.forward(&pass, &weights, Recompute::Full, stream)?.0;
        }
        Ok(stream)
    }

    /// Sums of cross-entropy and z-loss over a micro-batch.
    pub fn losses(&mut self, params: &CrossEntropyParams, micro_batch: &MicroBatch) -> Result<[f32; 2]> {
        self.load(micro_batch)?;
        let stream = self.stream()?;
        let pass = self.inputs.pass(&self.ctx);
        let tokens = pass.tokens();
        let mut losses = Head::losses(&pass)?;
        let weights = self.weights.unit(self.model.head_unit());
        self.model.head.loss(&pass, &weights, params, stream, losses.view_mut([2, tokens]))?;
        let mut sums = self.ctx.arena.block(Class::Workspace, DType::F32, 2)?;
        for row in 0..2 {
            let row_losses = losses.range(row * tokens, [tokens]);
            elementwise::sum(&self.ctx, row_losses, Write::Replace, sums.range_mut(row, [1]))?;
        }
        let mut host = [0.0; 2];
        self.ctx.device.download(sums.view([2]), &mut host)?;
        Ok(host)
    }

    /// Logits of every token of a micro-batch [tokens, vocab_size].
    pub fn logits(&mut self, micro_batch: &MicroBatch) -> Result<Vec<f32>> {
        self.load(micro_batch)?;
        let stream = self.stream()?;
        let pass = self.inputs.pass(&self.ctx);
        let weights = self.weights.unit(self.model.head_unit());
        let logits = self.model.head.logits(&pass, &weights, stream, pass.tokens())?;
        download_f32(&self.ctx, &logits)
    }

    /// Empty key-value caches for every block.
    pub fn caches(&self, capacity: usize) -> Result<Vec<KvCache<D>>> {
        let cache = |block: &crate::model::block::Block| {
            KvCache::new(&self.ctx, &block.attention, self.inputs.dtype, capacity)
        };
        self.model.blocks.iter().map(cache).collect()
    }

    /// Takes new tokens of one sequence behind those in `caches`; the logits of the last `[vocab_size]`.
    pub fn extend(&self, caches: &mut [KvCache<D>], tokens: &[u32]) -> Result<Vec<f32>> {
        let ctx = &self.ctx;
        let (count, start) = (tokens.len() as u32, caches.first().map_or(0, KvCache::len) as u32);
        let mut batch = DeviceBatch::new(ctx, tokens.len())?;
        batch.upload(ctx, &MicroBatch::continuation(tokens, start))?;
        let pass = Pass { ctx, batch: &batch, rope: &self.inputs.rope, dtype: self.inputs.dtype };
        let mut bounds = ctx.arena.block(Class::Batch, DType::U32, 4)?;
        ctx.device.upload(&[0, count, 0, start + count], bounds.view_mut([4]))?;
        let bounds = [bounds.range(0, [2]), bounds.range(2, [2])];

        let embedding = self.weights.unit(Transformer::EMBEDDING_UNIT);
        let mut stream = self.model.embedding.forward(&pass, &embedding)?;
        for (i, (block, cache)) in self.model.blocks.iter().zip(caches).enumerate() {
            let weights = self.weights.unit(Transformer::block_unit(i));
            stream = block.forward_cached(&pass, &weights, cache, bounds, stream)?;
        }
        let weights = self.weights.unit(self.model.head_unit());
        let logits = self.model.head.logits(&pass, &weights, stream, 1)?;
        download_f32(ctx, &logits)
    }
}

/// A floating-point block on the host, widened to f32.
pub(crate) fn download_f32<D: Device>(ctx: &Context<D>, block: &Block<D>) -> Result<Vec<f32>> {
    read_f32(ctx, block, 0, block.len())
}

/// A range of a floating-point block on the host, widened to f32.
pub(crate) fn read_f32<D: Device>(
    ctx: &Context<D>,
    block: &Block<D>,
    start: usize,
    len: usize,
) -> Result<Vec<f32>> {
    use tisserand_kernels::Float;
    tisserand_kernels::match_float!(block.dtype(), T => {
        let mut values = vec![T::from_f32(0.0); len];
        ctx.device.download(block.range(start, [len]), &mut values)?;
        Ok(values.into_iter().map(Float::to_f32).collect())
    })
}
