//! Runs a list of actions: one arm of one `match` per kind of action.

use tisserand_collectives::{Axes, Axis, Communicator, Progress};
use tisserand_kernels::ops::adamw::{self, AdamwParams};
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::ops::philox::GlobalIndex;
use tisserand_kernels::ops::step_scalars::{self, StepScalars};
use tisserand_kernels::ops::{Write, elementwise};
use tisserand_kernels::{Block, Class, Context, DType, Device};

use super::notes::Notes;
use super::recorded::Recording;
use super::state::{OptimizerState, StateDTypes, pieces};
use super::{Action, norm, schedule};
use crate::config::Optimizer;
use crate::data::MicroBatch;
use crate::error::{Error, Result};
use crate::model::Transformer;
use crate::model::block::{BlockSaved, Recompute};
use crate::model::head::Head;
use crate::network::{Network, NetworkShape};
use crate::parallel::{Gradients, Sharding, TensorParallel};
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
    /// Type in which gradients travel between ranks.
    pub reduce: DType,
    /// What each block's forward pass keeps.
    pub recompute: Vec<Recompute>,
    /// Loss.
    pub cross_entropy: CrossEntropyParams,
    /// Optimizer.
    pub optimizer: Optimizer,
    /// This rank's part.
    pub sharding: Sharding,
    /// Whether [`Executor::train`] replays graphs of the step where it can. One rank only, on a device that records.
    pub cuda_graph: bool,
}

/// The model, its state and the step on one rank.
pub struct Executor<D: Device> {
    /// Model, weights and inputs.
    pub network: Network<D>,
    /// Gradients of the step.
    pub gradients: Gradients<D>,
    /// Master weights and moments of this rank's slices.
    pub state: OptimizerState<D>,
    config: StepConfig,
    actions: Vec<Action>,
    /// Sums gradients along `dp_shard`.
    reduce: Box<dyn Communicator<D>>,
    /// Sums gradients along `dp_replicate`.
    replicate: Box<dyn Communicator<D>>,
    /// [`StepScalars`] as words.
    scalars: Block<D>,
    /// Sums of cross-entropy and z-loss over each micro-batch of the step [2, micro_steps].
    losses: Block<D>,
    flight: InFlight<D>,
    pub(super) notes: Notes<D>,
    /// The step as graphs.
    pub(super) recording: Recording<D>,
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

    fn is_empty(&self) -> bool {
        self.stream.is_none() && self.saved.iter().all(Option::is_none)
    }

    fn take(&mut self) -> Block<D> {
        self.stream.take().expect("the schedule starts every micro-batch with the embedding")
    }
}

impl<D: Device> Executor<D> {
    /// Takes every long-lived block; weights are zero until initialised or loaded. `progress` is told of every
    /// action.
    ///
    /// # Errors
    /// A full arena, a device that fails; a configuration that asks for graphs with more than one rank.
    pub fn new(
        ctx: Context<D>,
        model: Transformer,
        config: StepConfig,
        axes: Axes<D>,
        progress: Progress,
    ) -> Result<Self> {
        let StepConfig { tokens, positions, sharding, micro_steps, .. } = config;
        let ranks = sharding.mesh.world_size();
        if config.cuda_graph && ranks > 1 {
            return Err(Error::input(format!(
                "a graph of the step with {ranks} ranks: it holds no communication, so only one rank records it"
            )));
        }
        let Axes { gather, reduce, replicate, tp, copies } = axes;
        let shape = NetworkShape { dtype: config.dtypes.compute, tokens, positions };
        let network = Network::new(ctx, model, shape, sharding, gather, TensorParallel::new(tp, copies))?;
        let state = OptimizerState::new(&network, sharding, config.dtypes)?;
        let ctx = &network.ctx;
        let gradients = Gradients::new(ctx, &network.model, sharding, micro_steps, config.reduce)?;
        let mut scalars = ctx.arena.block(Class::Constants, DType::U32, step_scalars::WORDS)?;
        ctx.device.zero(scalars.view_mut([step_scalars::WORDS]))?;
        let losses = ctx.arena.block(Class::Constants, DType::F32, 2 * micro_steps)?;
        let actions = schedule::train_step(&network.model, &sharding, micro_steps);
        let (flight, notes) =
            (InFlight::new(&network.model), Notes::new(&network.model, &network.ctx.device, progress));
        Ok(Executor {
            network,
            gradients,
            state,
            config,
            actions,
            reduce,
            replicate,
            scalars,
            losses,
            flight,
            notes,
            recording: Recording::Cold,
        })
    }

    /// The actions of a step.
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// What is fixed for the run.
    pub fn config(&self) -> &StepConfig {
        &self.config
    }

    /// Calls and bytes so far along an axis.
    pub fn audit(&self, axis: Axis) -> tisserand_collectives::Audit {
        match axis {
            Axis::DpReplicate => self.replicate.audit(),
            Axis::DpShard => self.network.weights.communicator().audit().and(&self.reduce.audit()),
            Axis::Tp => self.network.inputs.tp.audit(),
        }
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
        if self.config.cuda_graph {
            return self.train_recorded(inputs, micro_batches);
        }
        self.train_watched(inputs, micro_batches, |_| {})
    }

    /// A training step, action by action; `before` is told of every one before it begins.
    pub fn train_watched(
        &mut self,
        inputs: &StepScalars,
        micro_batches: &[MicroBatch],
        mut before: impl FnMut(Action),
    ) -> Result<()> {
        self.begin(inputs)?;
        self.gradients.begin(&self.network.ctx)?;
        for i in 0..self.actions.len() {
            before(self.actions[i]);
            self.act(self.actions[i], micro_batches)?;
        }
        Ok(())
    }

    /// Uploads what the host decides of a step.
    pub(super) fn begin(&mut self, inputs: &StepScalars) -> Result<()> {
        let words = &inputs.to_words()[..step_scalars::INPUT_WORDS];
        let scalars = self.scalars.range_mut(0, [step_scalars::INPUT_WORDS]);
        self.network.ctx.device.upload(words, scalars)?;
        self.notes.begin_step(inputs.step);
        Ok(())
    }

    /// Whether nothing of a step is under way on the host's side: what is so before every step and after it, where
    /// one rank has everything.
    pub(super) fn is_at_rest(&self) -> bool {
        let Network { model, weights, .. } = &self.network;
        let is_whole = (0..model.units.len()).all(|unit| weights.is_gathered(unit));
        is_whole && self.flight.is_empty() && self.gradients.are_at_rest()
    }

    /// One action, noted.
    pub(super) fn act(&mut self, action: Action, micro_batches: &[MicroBatch]) -> Result<()> {
        let begin = self.notes.begin(action)?;
        self.run(action, micro_batches)?;
        self.notes.end(action, begin)
    }

    fn run(&mut self, action: Action, micro_batches: &[MicroBatch]) -> Result<()> {
        match action {
            Action::Gather { unit } => self.network.weights.gather(&self.network.ctx, unit),
            Action::Release { unit } => {
                self.network.weights.release(unit);
                Ok(())
            }
            Action::Load { micro_batch } => self.network.load(&micro_batches[micro_batch]),
            Action::Forward { unit, .. } => self.forward(unit),
            Action::Loss { micro_batch } => self.loss(micro_batch),
            Action::Backward { unit, .. } => self.backward(unit),
            Action::Fold { unit, micro_batch } => self.gradients.fold(&self.network.ctx, unit, micro_batch),
            Action::Reduce { unit, axis: Axis::Tp } => self.gradients.share(unit, &self.network.inputs.tp),
            Action::Reduce { unit, axis } => self.reduce(unit, axis),
            Action::Collect { unit, axis, micro_batch } => {
                self.gradients.collect(&self.network.ctx, unit, axis, micro_batch)
            }
            Action::Norm => self.norm(),
            Action::Update { unit } => self.update(unit),
        }
    }

    fn forward(&mut self, unit: usize) -> Result<()> {
        self.network.weights.ready(unit)?;
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

    fn loss(&mut self, micro_batch: usize) -> Result<()> {
        let unit = self.network.model.head_unit();
        self.network.weights.ready(unit)?;
        let Network { ctx, model, weights, inputs } = &self.network;
        self.gradients.open(ctx, unit)?;
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
            let sum = self.losses.range_mut(row * self.config.micro_steps + micro_batch, [1]);
            elementwise::sum(ctx, row_losses, Write::Replace, sum)?;
        }
        Ok(())
    }

    fn backward(&mut self, unit: usize) -> Result<()> {
        self.gradients.open(&self.network.ctx, unit)?;
        let stream = self.flight.take();
        let gradients = &mut self.gradients.unit_mut(unit);
        if unit == Transformer::EMBEDDING_UNIT {
            let Network { ctx, model, inputs, .. } = &self.network;
            return model.embedding.backward(&inputs.pass(ctx), gradients, stream);
        }
        self.network.weights.ready(unit)?;
        let Network { ctx, model, weights, inputs } = &self.network;
        let (pass, weights) = (inputs.pass(ctx), weights.unit(unit));
        let block = unit - Transformer::block_unit(0);
        let saved = self.flight.saved[block].take().expect("a block runs forward before it runs backward");
        self.flight.stream = Some(model.blocks[block].backward(&pass, &weights, gradients, saved, stream)?);
        Ok(())
    }

    fn reduce(&mut self, unit: usize, axis: Axis) -> Result<()> {
        let communicator = match axis {
            Axis::DpReplicate => self.replicate.as_mut(),
            _ => self.reduce.as_mut(),
        };
        self.gradients.reduce(&self.network.ctx, unit, axis, communicator)
    }

    /// Loss and norm of the global batch, then the decision about the update.
    fn norm(&mut self) -> Result<()> {
        let Network { ctx, model, inputs, .. } = &self.network;
        let sharding = self.config.sharding;
        let (shard, replicate) = (self.reduce.as_mut(), self.replicate.as_mut());
        let losses = norm::sum_of_losses(ctx, &sharding, &self.losses, shard, replicate)?;
        let squares = norm::sum_of_squares(ctx, model, &sharding, &self.gradients, shard, &inputs.tp)?;
        let scalars = self.scalars.view_mut([step_scalars::WORDS]);
        Ok(step_scalars::finish(ctx, squares.view([1]), losses.view([2]), scalars)?)
    }

    fn update(&mut self, unit: usize) -> Result<()> {
        let Network { ctx, model, weights, .. } = &mut self.network;
        weights.ready(unit)?;
        for piece in pieces(model, self.config.sharding).filter(|piece| piece.unit == unit) {
            let (group, at, len) = (piece.group, piece.at, piece.len);
            adamw::update(
                ctx,
                &adamw_params(&self.config.optimizer, piece.param, piece.param.index(piece.start)),
                self.scalars.view([step_scalars::WORDS]),
                self.gradients.slice(unit, group, at, len),
                self.state.master[unit][group].range_mut(at, [len]),
                self.state.exp_avg[unit][group].range_mut(at, [len]),
                self.state.exp_avg_sq[unit][group].range_mut(at, [len]),
                weights.slice_mut(unit, group, at, len),
            )?;
        }
        Ok(())
    }
}

/// Hyper-parameters that do not change from step to step.
fn adamw_params(optimizer: &Optimizer, param: &ParamSpec, index: GlobalIndex) -> AdamwParams {
    let (weight_decay, lr_scale) = optimizer.hyper(&param.name, param.shape.len());
    AdamwParams {
        lr_scale: lr_scale as f32,
        eps: optimizer.eps as f32,
        weight_decay: weight_decay as f32,
        tensor_key: param.tensor_key,
        index,
    }
}
