//! Runs a list of actions: one arm of one `match` per kind of action.

use tisserand_collectives::{CommError, Communicator, ReduceOp};
use tisserand_kernels::ops::adamw::AdamwParams;
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::ops::step_scalars::{self, StepScalars};
use tisserand_kernels::ops::{CHUNK, Write, adamw, elementwise, grad_norm};
use tisserand_kernels::{Block, Class, Context, DType, Device};

use super::state::{OptimizerState, StateDTypes};
use super::{Action, schedule};
use crate::config::Optimizer;
use crate::data::MicroBatch;
use crate::error::{Error, Result};
use crate::model::Transformer;
use crate::model::block::{BlockSaved, Recompute};
use crate::model::head::Head;
use crate::network::{Gradients, Network};
use crate::params::ParamSpec;

/// What a step needs beyond the model, fixed for a run.
#[derive(Clone, Debug)]
pub struct StepConfig {
    /// Tokens of a micro-batch.
    pub tokens: usize,
    /// Micro-batches of a step on this rank.
    pub micro_steps: usize,
    /// Largest position plus one.
    pub positions: usize,
    /// Element types.
    pub dtypes: StateDTypes,
    /// What each block's forward pass keeps.
    pub recompute: Vec<Recompute>,
    /// Loss.
    pub cross_entropy: CrossEntropyParams,
    /// Optimizer.
    pub optimizer: Optimizer,
}

/// The model, its state and the step on one rank.
pub struct Executor<D: Device> {
    /// Model, weights and inputs.
    pub network: Network<D>,
    /// Gradients of the step.
    pub gradients: Gradients<D>,
    /// Master weights and moments.
    pub state: OptimizerState<D>,
    config: StepConfig,
    actions: Vec<Action>,
    /// Gathers parameters and reduces gradients along `dp_shard`.
    dp_shard: Box<dyn Communicator<D>>,
    /// [`StepScalars`] as words.
    scalars: Block<D>,
    /// Sums of cross-entropy and z-loss over the micro-batches of the step `[2]`.
    loss_sums: Block<D>,
    flight: InFlight<D>,
}

/// What lives between the actions of one micro-batch.
struct InFlight<D: Device> {
    /// The residual stream, or its gradient on the way back.
    stream: Option<Block<D>>,
    /// What each block saved.
    saved: Vec<Option<BlockSaved<D>>>,
}

impl<D: Device> InFlight<D> {
    fn new(model: &Transformer) -> Self {
        InFlight { stream: None, saved: model.blocks.iter().map(|_| None).collect() }
    }

    fn take(&mut self) -> Block<D> {
        self.stream.take().expect("the schedule starts every micro-batch with the embedding")
    }
}

impl<D: Device> Executor<D> {
    /// Takes every long-lived block; weights are zero until initialised or loaded.
    pub fn new(
        ctx: Context<D>,
        model: Transformer,
        config: StepConfig,
        dp_shard: Box<dyn Communicator<D>>,
    ) -> Result<Self> {
        let network = Network::new(ctx, model, config.dtypes.compute, config.tokens, config.positions)?;
        let state = OptimizerState::new(&network, config.dtypes)?;
        let gradients = Gradients::new(&network.ctx, &network.model)?;
        let ctx = &network.ctx;
        let mut scalars = ctx.arena.block(Class::Constants, DType::U32, step_scalars::WORDS)?;
        ctx.device.zero(scalars.view_mut([step_scalars::WORDS]))?;
        let loss_sums = ctx.arena.block(Class::Constants, DType::F32, 2)?;
        let actions = schedule::train_step(&network.model, config.micro_steps);
        let flight = InFlight::new(&network.model);
        Ok(Executor { network, gradients, state, config, actions, dp_shard, scalars, loss_sums, flight })
    }

    /// The actions of a step.
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// What is fixed for the run.
    pub fn config(&self) -> &StepConfig {
        &self.config
    }

    /// The device's step scalars; waits for the device.
    pub fn scalars(&self) -> Result<StepScalars> {
        let mut words = [0_u32; step_scalars::WORDS];
        self.network.ctx.device.download(self.scalars.view([step_scalars::WORDS]), &mut words)?;
        Ok(StepScalars::from_words(words))
    }

    /// Sets all step scalars, those that the device keeps included: when a run starts or continues.
    pub fn set_scalars(&mut self, scalars: &StepScalars) -> Result<()> {
        let words = scalars.to_words();
        Ok(self.network.ctx.device.upload(&words, self.scalars.view_mut([step_scalars::WORDS]))?)
    }

    /// One training step. Of `inputs` only the words that the host decides are read.
    pub fn train(&mut self, inputs: &StepScalars, micro_batches: &[MicroBatch]) -> Result<()> {
        let device = self.network.ctx.device.clone();
        let words = &inputs.to_words()[..step_scalars::INPUT_WORDS];
        device.upload(words, self.scalars.range_mut(0, [step_scalars::INPUT_WORDS]))?;
        device.zero(self.loss_sums.view_mut([2]))?;
        for gradients in self.gradients.groups_mut() {
            let len = gradients.len();
            device.zero(gradients.view_mut([len]))?;
        }
        for i in 0..self.actions.len() {
            self.run(self.actions[i], micro_batches)?;
        }
        Ok(())
    }

    fn run(&mut self, action: Action, micro_batches: &[MicroBatch]) -> Result<()> {
        match action {
            Action::Gather { unit } => self.gather(unit),
            Action::Load { micro_batch } => Ok(self.network.load(&micro_batches[micro_batch])?),
            Action::Forward { unit, .. } => self.forward(unit),
            Action::Loss { .. } => self.loss(),
            Action::Backward { unit, .. } => self.backward(unit),
            Action::Reduce { unit } => self.reduce(unit),
            Action::Norm => self.norm(),
            Action::Update { unit } => self.update(unit),
        }
    }

    fn gather(&mut self, unit: usize) -> Result<()> {
        for group in 0..2 {
            let weights = self.network.weights.group_mut(unit, group);
            let len = weights.len();
            self.dp_shard.all_gather(weights.view_mut([len])).map_err(communication)?.wait();
        }
        Ok(())
    }

    fn forward(&mut self, unit: usize) -> Result<()> {
        let Network { ctx, model, weights, inputs } = &self.network;
        let (pass, weights) = (inputs.pass(ctx), weights.unit(unit));
        if unit == Transformer::EMBEDDING_UNIT {
            self.flight.stream = Some(model.embedding.forward(&pass, &weights)?);
            return Ok(());
        }
        let block = unit - Transformer::block_unit(0);
        let recompute = self.config.recompute[block];
        let (stream, saved) = model.blocks[block].forward(&pass, &weights, recompute, self.flight.take())?;
        self.flight.stream = Some(stream);
        self.flight.saved[block] = Some(saved);
        Ok(())
    }

    fn loss(&mut self) -> Result<()> {
        let Network { ctx, model, weights, inputs } = &self.network;
        let unit = model.head_unit();
        let pass = inputs.pass(ctx);
        let tokens = pass.tokens();
        let mut losses = Head::losses(&pass)?;
        let loss_scale = self.scalars.range(step_scalars::LOSS_SCALE_WORD, [1]).reinterpret(DType::F32);
        let dstream = model.head.loss_and_gradient(
            &pass,
            &weights.unit(unit),
            &mut self.gradients.unit_mut(unit),
            &self.config.cross_entropy,
            loss_scale,
            self.flight.take(),
            losses.view_mut([2, tokens]),
        )?;
        self.flight.stream = Some(dstream);
        for row in 0..2 {
            let row_losses = losses.range(row * tokens, [tokens]);
            elementwise::sum(ctx, row_losses, Write::Add, self.loss_sums.range_mut(row, [1]))?;
        }
        Ok(())
    }

    fn backward(&mut self, unit: usize) -> Result<()> {
        let Network { ctx, model, weights, inputs } = &self.network;
        let (pass, weights) = (inputs.pass(ctx), weights.unit(unit));
        let gradients = &mut self.gradients.unit_mut(unit);
        let stream = self.flight.take();
        if unit == Transformer::EMBEDDING_UNIT {
            return Ok(model.embedding.backward(&pass, gradients, stream)?);
        }
        let block = unit - Transformer::block_unit(0);
        let saved = self.flight.saved[block].take().expect("a block runs forward before it runs backward");
        self.flight.stream = Some(model.blocks[block].backward(&pass, &weights, gradients, saved, stream)?);
        Ok(())
    }

    fn reduce(&mut self, unit: usize) -> Result<()> {
        for gradients in self.gradients.unit_groups_mut(unit) {
            let len = gradients.len();
            let gradients = gradients.view_mut([len]);
            self.dp_shard.reduce_scatter(gradients, ReduceOp::Sum).map_err(communication)?.wait();
        }
        Ok(())
    }

    /// Partial sums of squares of every chunk of every group in the order of the layout, then one tree.
    fn norm(&mut self) -> Result<()> {
        let ctx = &self.network.ctx;
        let chunks: usize = self.gradients.groups().map(|group| group.len() / CHUNK).sum();
        let mut partials = ctx.arena.block(Class::Workspace, DType::F32, chunks)?;
        let mut start = 0;
        for group in self.gradients.groups() {
            let chunks = group.len() / CHUNK;
            grad_norm::sum_of_squares(ctx, group.view([group.len()]), partials.range_mut(start, [chunks]))?;
            start += chunks;
        }
        let mut sum = ctx.arena.block(Class::Workspace, DType::F32, 1)?;
        grad_norm::tree_sum(ctx, partials.view_mut([chunks]), sum.view_mut([1]))?;
        let scalars = self.scalars.view_mut([step_scalars::WORDS]);
        Ok(step_scalars::finish(ctx, sum.view([1]), self.loss_sums.view([2]), scalars)?)
    }

    fn update(&mut self, unit: usize) -> Result<()> {
        let Network { ctx, model, weights, .. } = &mut self.network;
        for (group, layout) in model.units[unit].groups.iter().enumerate() {
            for param in &layout.params {
                let (at, extents) = (param.offset, [param.len()]);
                adamw::update(
                    ctx,
                    &adamw_params(&self.config.optimizer, param),
                    self.scalars.view([step_scalars::WORDS]),
                    self.gradients.group(unit, group).range(at, extents),
                    self.state.master[unit][group].range_mut(at, extents),
                    self.state.exp_avg[unit][group].range_mut(at, extents),
                    self.state.exp_avg_sq[unit][group].range_mut(at, extents),
                    weights.group_mut(unit, group).range_mut(at, extents),
                )?;
            }
        }
        Ok(())
    }
}

/// Hyper-parameters that do not change from step to step.
fn adamw_params(optimizer: &Optimizer, param: &ParamSpec) -> AdamwParams {
    let (weight_decay, lr_scale) = optimizer.hyper(&param.name, param.shape.len());
    AdamwParams {
        lr_scale: lr_scale as f32,
        eps: optimizer.eps as f32,
        weight_decay: weight_decay as f32,
        tensor_key: param.tensor_key,
        first_index: 0,
    }
}

fn communication(error: CommError) -> Error {
    Error::fault(error.to_string())
}
