//! A model with weights on a device: what evaluation and generation need, and training builds on.

use tisserand_collectives::Communicator;
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::ops::{Write, elementwise};
use tisserand_kernels::{Block, Class, Context, DType, Device};

use crate::data::MicroBatch;
use crate::error::Result;
use crate::model::attention::KvCache;
use crate::model::block::Recompute;
use crate::model::head::Head;
use crate::model::pass::{DeviceBatch, RopeTable};
use crate::model::{Pass, Transformer};
use crate::parallel::tensor::Tokens;
use crate::parallel::{Sharding, TensorParallel, Weights};
use crate::step::state::{Piece, STAGED_ELEMENTS};

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
    /// Ranks that share the layers.
    pub tp: TensorParallel<D>,
    rope: RopeTable<D>,
    dtype: DType,
    layout: Tokens,
}

impl<D: Device> Inputs<D> {
    /// A pass over the loaded micro-batch.
    pub fn pass<'a>(&'a self, ctx: &'a Context<D>) -> Pass<'a, D> {
        let Inputs { batch, tp, rope, dtype, layout } = self;
        Pass { ctx, batch, rope, dtype: *dtype, tp, layout: *layout }
    }

    /// A pass over other tokens, of which every rank has all.
    fn pass_over<'a>(&'a self, ctx: &'a Context<D>, batch: &'a DeviceBatch<D>) -> Pass<'a, D> {
        Pass { ctx, batch, rope: &self.rope, dtype: self.dtype, tp: &self.tp, layout: Tokens::Whole }
    }
}

/// Extents and types of a network's blocks.
#[derive(Clone, Copy, Debug)]
pub struct NetworkShape {
    /// Type of weights and activations.
    pub dtype: DType,
    /// Tokens of a micro-batch.
    pub tokens: usize,
    /// Largest position plus one.
    pub positions: usize,
}

impl<D: Device> Network<D> {
    /// Takes the blocks of weights, micro-batch and rotary tables. `gathers` is the communicator along
    /// `dp_shard`, `tp` the ranks that share the layers.
    pub fn new(
        ctx: Context<D>,
        model: Transformer,
        shape: NetworkShape,
        sharding: Sharding,
        gathers: Box<dyn Communicator<D>>,
        tp: TensorParallel<D>,
    ) -> Result<Self> {
        let NetworkShape { dtype, tokens, positions } = shape;
        let weights = Weights::new(&ctx, &model, sharding, dtype, gathers)?;
        let rope = RopeTable::new(&ctx, &model.config, positions)?;
        let batch = DeviceBatch::new(&ctx, tokens)?;
        let layout = if tokens.is_multiple_of(tp.place().size) { Tokens::Cut } else { Tokens::Whole };
        Ok(Network { ctx, model, weights, inputs: Inputs { batch, tp, rope, dtype, layout } })
    }

    /// Sets the compute copy of a piece.
    pub fn write(&mut self, piece: Piece<'_>, values: &[f32]) -> Result<()> {
        let ctx = self.ctx.clone();
        for (i, values) in values.chunks(STAGED_ELEMENTS).enumerate() {
            let part = piece.part(i * STAGED_ELEMENTS, values.len());
            let mut staged = ctx.arena.block(Class::Workspace, DType::F32, values.len())?;
            ctx.device.upload(values, staged.view_mut([values.len()]))?;
            let out = self.weights.slice_mut(part.unit, part.group, part.at, part.len);
            elementwise::cast(&ctx, staged.view([values.len()]), out)?;
        }
        Ok(())
    }

    /// Copies a micro-batch to the device.
    pub fn load(&mut self, micro_batch: &MicroBatch) -> Result<()> {
        self.inputs.batch.upload(&self.ctx, micro_batch)
    }

    /// Waits until a unit is whole, and begins to gather the one that is used after it.
    fn need(&mut self, unit: usize, next: Option<usize>) -> Result<()> {
        for unit in [Some(unit), next].into_iter().flatten() {
            if !self.weights.is_gathered(unit) {
                self.weights.gather(&self.ctx, unit)?;
            }
        }
        self.weights.ready(unit)
    }

    /// The unit behind one of the trunk.
    fn after(&self, unit: usize) -> usize {
        if unit == self.model.blocks.len() { self.model.head_unit() } else { unit + 1 }
    }

    /// The residual stream behind the last block, nothing saved.
    fn stream(&mut self) -> Result<Block<D>> {
        let embedding = Transformer::EMBEDDING_UNIT;
        self.need(embedding, Some(self.after(embedding)))?;
        let pass = self.inputs.pass(&self.ctx);
        let mut stream = self.model.embedding.forward(&pass, &self.weights.unit(embedding))?;
        if self.model.head_unit() != embedding {
            self.weights.release(embedding);
        }
        for i in 0..self.model.blocks.len() {
            let unit = Transformer::block_unit(i);
            self.need(unit, Some(self.after(unit)))?;
            let pass = self.inputs.pass(&self.ctx);
            stream =
                self.model.blocks[i].forward(&pass, &self.weights.unit(unit), Recompute::Full, stream)?.0;
            self.weights.release(unit);
        }
        self.need(self.model.head_unit(), None)?;
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
        self.weights.release(self.model.head_unit());
        Ok(host)
    }

    /// Logits of every token of a micro-batch [tokens, vocab_size].
    pub fn logits(&mut self, micro_batch: &MicroBatch) -> Result<Vec<f32>> {
        self.load(micro_batch)?;
        let stream = self.stream()?;
        let pass = self.inputs.pass(&self.ctx);
        let weights = self.weights.unit(self.model.head_unit());
        let logits = self.model.head.logits(&pass, &weights, stream, pass.tokens())?;
        let values = self.model.head.in_order(pass.tokens(), &download_f32(&self.ctx, &logits)?);
        self.weights.release(self.model.head_unit());
        Ok(values)
    }

    /// Empty key-value caches for every block.
    pub fn caches(&self, capacity: usize) -> Result<Vec<KvCache<D>>> {
        let cache = |block: &crate::model::block::Block| {
            KvCache::new(&self.ctx, &block.attention, self.inputs.dtype, capacity)
        };
        self.model.blocks.iter().map(cache).collect()
    }

    /// Takes new tokens of one sequence behind those in `caches`; the logits of the last `[vocab_size]`.
    pub fn extend(&mut self, caches: &mut [KvCache<D>], tokens: &[u32]) -> Result<Vec<f32>> {
        let ctx = self.ctx.clone();
        let (count, start) = (tokens.len() as u32, caches.first().map_or(0, KvCache::len) as u32);
        let mut batch = DeviceBatch::new(&ctx, tokens.len())?;
        batch.upload(&ctx, &MicroBatch::continuation(tokens, start))?;
        let mut bounds = ctx.arena.block(Class::Batch, DType::U32, 4)?;
        ctx.device.upload(&[0, count, 0, start + count], bounds.view_mut([4]))?;
        let bounds = [bounds.range(0, [2]), bounds.range(2, [2])];

        let embedding = Transformer::EMBEDDING_UNIT;
        self.need(embedding, Some(self.after(embedding)))?;
        let pass = self.inputs.pass_over(&ctx, &batch);
        let mut stream = self.model.embedding.forward(&pass, &self.weights.unit(embedding))?;
        if self.model.head_unit() != embedding {
            self.weights.release(embedding);
        }
        for (i, cache) in caches.iter_mut().enumerate() {
            let unit = Transformer::block_unit(i);
            self.need(unit, Some(self.after(unit)))?;
            let pass = self.inputs.pass_over(&ctx, &batch);
            let weights = self.weights.unit(unit);
            stream = self.model.blocks[i].forward_cached(&pass, &weights, cache, bounds, stream)?;
            self.weights.release(unit);
        }
        let head = self.model.head_unit();
        self.need(head, None)?;
        let pass = self.inputs.pass_over(&ctx, &batch);
        let logits = self.model.head.logits(&pass, &self.weights.unit(head), stream, 1)?;
        let values = self.model.head.in_order(1, &download_f32(&ctx, &logits)?);
        self.weights.release(head);
        Ok(values)
    }
}

/// A floating-point block on the host, widened to f32.
pub(crate) fn download_f32<D: Device>(ctx: &Context<D>, block: &Block<D>) -> Result<Vec<f32>> {
    use tisserand_kernels::Float;
    tisserand_kernels::match_float!(block.dtype(), T => {
        let mut values = vec![T::from_f32(0.0); block.len()];
        ctx.device.download(block.view([block.len()]), &mut values)?;
        Ok(values.into_iter().map(Float::to_f32).collect())
    })
}
