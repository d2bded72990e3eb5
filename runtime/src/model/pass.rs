//! What every layer of one forward or backward pass shares.

use tisserand_kernels::ops::rope;
use tisserand_kernels::{Block, Class, Context, DType, Device, Storage, TensorRef};

use crate::data::MicroBatch;
use crate::error::Result;
use crate::model_config::ModelConfig;
use crate::parallel::tensor::{Gathered, TensorParallel, Tokens};

/// A micro-batch on the device.
pub struct DeviceBatch<D: Storage> {
    tokens: Block<D>,
    labels: Block<D>,
    positions: Block<D>,
    cu_seqlens: Block<D>,
}

impl<D: Device> DeviceBatch<D> {
    /// Takes blocks for `tokens` tokens; their contents are undefined until [`DeviceBatch::upload`].
    pub fn new(ctx: &Context<D>, tokens: usize) -> Result<Self> {
        Ok(DeviceBatch {
            tokens: ctx.arena.block(Class::Batch, DType::U32, tokens)?,
            labels: ctx.arena.block(Class::Batch, DType::I32, tokens)?,
            positions: ctx.arena.block(Class::Batch, DType::U32, tokens)?,
            cu_seqlens: ctx.arena.block(Class::Batch, DType::U32, tokens + 1)?,
        })
    }

    /// Copies a micro-batch of the same number of tokens to the device.
    pub fn upload(&mut self, ctx: &Context<D>, batch: &MicroBatch) -> Result<()> {
        let tokens = batch.tokens.len();
        ctx.device.upload(&batch.tokens, self.tokens.view_mut([tokens]))?;
        ctx.device.upload(&batch.labels, self.labels.view_mut([tokens]))?;
        ctx.device.upload(&batch.positions, self.positions.view_mut([tokens]))?;
        Ok(ctx.device.upload(&batch.cu_seqlens, self.cu_seqlens.view_mut([tokens + 1]))?)
    }
}

/// Rotary tables for all positions that a run can have: [positions, head_dim] f32.
pub struct RopeTable<D: Storage> {
    block: Block<D>,
    head_dim: usize,
}

impl<D: Device> RopeTable<D> {
    /// Computes the table on the host and copies it.
    pub fn new(ctx: &Context<D>, config: &ModelConfig, positions: usize) -> Result<Self> {
        let table = rope::table(config.head_dim, config.rope_theta, &config.rope_scaling, positions);
        let mut block = ctx.arena.block(Class::Constants, DType::F32, table.len())?;
        ctx.device.upload(&table, block.view_mut([table.len()]))?;
        Ok(RopeTable { block, head_dim: config.head_dim })
    }
}

/// One micro-batch's way through the model.
pub struct Pass<'a, D: Device> {
    /// Device and arena.
    pub ctx: &'a Context<D>,
    /// The micro-batch.
    pub batch: &'a DeviceBatch<D>,
    /// Rotary tables.
    pub rope: &'a RopeTable<D>,
    /// Element type of activations.
    pub dtype: DType,
    /// Ranks that share the layers.
    pub tp: &'a TensorParallel<D>,
    /// How the residual stream lies on them.
    pub layout: Tokens,
}

impl<D: Device> Pass<'_, D> {
    /// Rows of the activations inside of layers: all tokens.
    pub fn tokens(&self) -> usize {
        self.batch.tokens.len()
    }

    /// Rows of the residual stream on this rank.
    pub fn stream_tokens(&self) -> usize {
        match self.layout {
            Tokens::Cut => self.tokens() / self.tp.place().size,
            Tokens::Whole => self.tokens(),
        }
    }

    /// All tokens of a block of the stream; see [`TensorParallel::gather_tokens`].
    ///
    /// # Errors
    /// Of the communicator.
    pub fn gather_tokens<'b>(&self, x: &'b Block<D>) -> Result<Gathered<'b, D>> {
        self.tp.gather_tokens(self.ctx, self.layout, x)
    }

    /// A block of the stream from every rank's term; see [`TensorParallel::scatter_tokens`].
    ///
    /// # Errors
    /// Of the communicator.
    pub fn scatter_tokens(&self, term: Block<D>) -> Result<Block<D>> {
        self.tp.scatter_tokens(self.ctx, self.layout, term)
    }

    /// Token ids `[tokens]`.
    pub fn token_ids(&self) -> TensorRef<'_, D> {
        self.batch.tokens.view([self.tokens()])
    }

    /// Labels `[tokens]`; -100 is ignored.
    pub fn labels(&self) -> TensorRef<'_, D> {
        self.batch.labels.view([self.tokens()])
    }

    /// Position of each token in its document `[tokens]`.
    pub fn positions(&self) -> TensorRef<'_, D> {
        self.batch.positions.view([self.tokens()])
    }

    /// Bounds of the documents [tokens + 1], padded with the last.
    pub fn cu_seqlens(&self) -> TensorRef<'_, D> {
        self.batch.cu_seqlens.view([self.tokens() + 1])
    }

    /// Rotary table [positions, head_dim].
    pub fn rope_table(&self) -> TensorRef<'_, D> {
        self.rope.block.view([self.rope.block.len() / self.rope.head_dim, self.rope.head_dim])
    }

    /// A block for `tokens` rows of `width` activations.
    pub fn activations(&self, width: usize) -> Result<Block<D>> {
        self.elements(self.tokens() * width)
    }

    /// A block for `len` activations.
    pub fn elements(&self, len: usize) -> Result<Block<D>> {
        Ok(self.ctx.arena.block(Class::Activations, self.dtype, len)?)
    }

    /// A block for one f32 number per row (statistics of norms and attention).
    pub fn statistics(&self, rows: usize) -> Result<Block<D>> {
        Ok(self.ctx.arena.block(Class::Activations, DType::F32, rows)?)
    }
}
