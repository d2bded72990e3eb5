//! The plan of a run: the real step on a device that only counts.
//!
//! Everything that takes arena memory (state, a step, evaluation) runs once on
//! [`DryRun`], so the arena that the run allocates is exactly as large as the
//! run needs, and the FLOPs are those of the ops that are called.
//!
//! - here: bytes, FLOPs and traffic, which are exact; [`storage`]: what checkpoints take;
//! - [`timeline`]: the same step with its ops and collectives in order;
//! - [`machine`]: what a profile says of GPUs and links; [`estimate`]: how long a timeline takes there;
//! - [`formulas`]: the same traffic in closed form, which the program is held to;
//! - [`search`]: which mesh, micro-batch and recomputation take the shortest time.
//!
//! `docs/planner.md` states the model and compares it with published runs.

pub mod estimate;
pub mod formulas;
pub mod machine;
pub mod search;
pub mod storage;
pub mod timeline;

use tisserand_collectives::{Audit, Axes, Axis, Progress, Workspace};
use tisserand_kernels::arena::Usage;
use tisserand_kernels::device::Caps;
use tisserand_kernels::dry_run::OpTotal;
use tisserand_kernels::ops::step_scalars::StepScalars;
use tisserand_kernels::{Class, Context, DryRun};

use crate::data::MicroBatch;
use crate::engine::Engine;
use crate::error::Result;
use crate::model::Transformer;
use crate::step::{Action, Executor, StepConfig};

/// What a run needs and does, per rank.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// Size of the arena.
    pub arena_bytes: usize,
    /// Bytes in use by class when most are.
    pub peak: Usage,
    /// When that is.
    pub peak_at: PeakAt,
    /// Calls, FLOPs and bytes of one training step, by op.
    pub step: Vec<OpTotal>,
    /// Collectives of one training step, by axis in the order of [`Axis::ALL`].
    pub traffic: [Audit; 3],
    /// Parameters, without padding.
    pub num_parameters: usize,
    /// FLOPs per token of the model's definition, attention counted whole and counted causal.
    pub model_flops: ModelFlops,
}

/// What a run does when most of its arena is in use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeakAt {
    /// Before the first step.
    Start,
    /// An action of a step.
    Action(Place),
    /// A validation.
    Evaluation,
}

/// An action of a step, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its number among the actions of the step.
    pub index: usize,
    /// Its name.
    pub action: &'static str,
    /// The unit it works on.
    pub unit: Option<String>,
    /// The micro-batch it works on.
    pub micro_batch: Option<usize>,
}

impl Place {
    fn new(index: usize, action: Action, model: &Transformer) -> Self {
        let unit = action.unit().map(|unit| model.units[unit].name.clone());
        Place { index, action: action.name(), unit, micro_batch: micro_batch(action) }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.action)?;
        self.unit.iter().try_for_each(|unit| write!(f, " of {unit}"))?;
        self.micro_batch.iter().try_for_each(|micro_batch| write!(f, ", micro-batch {micro_batch}"))
    }
}

impl std::fmt::Display for PeakAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PeakAt::Start => f.write_str("the start"),
            PeakAt::Action(place) => place.fmt(f),
            PeakAt::Evaluation => f.write_str("evaluation"),
        }
    }
}

/// The micro-batch that an action works on.
fn micro_batch(action: Action) -> Option<usize> {
    match action {
        Action::Load { micro_batch }
        | Action::Forward { micro_batch, .. }
        | Action::Loss { micro_batch }
        | Action::Backward { micro_batch, .. }
        | Action::Fold { micro_batch, .. }
        | Action::Collect { micro_batch, .. } => Some(micro_batch),
        _ => None,
    }
}

/// FLOPs per token of forward and backward pass by the usual formulas: `6·(N - lookup) + 12·L·h·s`, where N
/// counts parameters, `lookup` those of an untied embedding, h is `num_heads · head_dim` and s the sequence
/// length. The causal convention counts half of the attention term. Recomputation is not counted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ModelFlops {
    /// Attention counted as if every token saw the whole sequence (torchtitan, PaLM).
    pub full: f64,
    /// Attention counted causal (Megatron-LM, llm.c).
    pub causal: f64,
}

impl ModelFlops {
    /// By the formulas above.
    pub fn new(model: &Transformer, seq_len: usize) -> Self {
        let config = &model.config;
        let products = 6.0 * (model.num_parameters() - model.num_lookup_parameters()) as f64;
        let width = (config.num_heads * config.head_dim) as f64;
        let attention = 12.0 * config.num_layers as f64 * width * seq_len as f64;
        ModelFlops { full: products + attention, causal: products + attention / 2.0 }
    }
}

impl Plan {
    /// FLOPs of one training step as executed, recomputation included.
    pub fn step_flops(&self) -> u64 {
        self.step.iter().map(|total| total.cost.flops).sum()
    }

    /// Bytes that the ops of one training step must move at least.
    pub fn step_bytes(&self) -> u64 {
        self.step.iter().map(|total| total.cost.bytes).sum()
    }

    /// Part of the arena that holds no block at the peak: gaps between blocks of different lifetimes.
    pub fn gaps_bytes(&self) -> usize {
        self.arena_bytes - self.peak.total()
    }

    /// The classes that a run of this kind uses, with their bytes.
    pub fn classes(&self) -> impl Iterator<Item = (Class, usize)> + '_ {
        Class::ALL.into_iter().map(|class| (class, self.peak.of(class))).filter(|(_, bytes)| *bytes > 0)
    }
}

/// Plans a training run on a device with these caps, whose ranks reach each other by communicators that take
/// this `workspace`.
pub fn train(
    caps: Caps,
    model: &Transformer,
    config: &StepConfig,
    seq_len: usize,
    workspace: Workspace,
) -> Result<Plan> {
    let device = DryRun::new(caps);
    let ctx = Context::new(device.clone(), DryRun::CAPACITY_BYTES)?;
    let arena = ctx.arena.clone();
    let copies = config.sharding.tp().copies(model.config.num_kv_heads);
    let axes = Axes::imagined(config.sharding.mesh, config.sharding.rank, copies, workspace);
    let mut executor = Executor::new(ctx, model.clone(), config.clone(), axes, Progress::default())?;
    executor.initialize(0)?;
    executor.publish()?;
    let micro_batches: Vec<MicroBatch> =
        (0..config.micro_steps).map(|_| MicroBatch::empty(config.tokens)).collect();
    device.take_totals();
    let before = Axis::ALL.map(|axis| executor.audit(axis));
    let mut peak = PeakWatch { arena: arena.clone(), bytes: 0, at: PeakAt::Start };
    let mut under_way = PeakAt::Start;
    let mut index = 0;
    executor.train_watched(&StepScalars::default(), &micro_batches, |action| {
        let next = PeakAt::Action(Place::new(index, action, model));
        peak.passed(std::mem::replace(&mut under_way, next));
        index += 1;
    })?;
    peak.passed(under_way);
    let step = device.take_totals();
    let traffic = Axis::ALL.map(|axis| executor.audit(axis).since(&before[axis as usize]));
    executor.network.losses(&config.cross_entropy, &micro_batches[0])?;
    peak.passed(PeakAt::Evaluation);
    executor.reserve_snapshot()?;
    Ok(Plan {
        arena_bytes: arena.high_water_bytes(),
        peak: arena.peak(),
        peak_at: peak.at,
        step,
        traffic,
        num_parameters: model.num_parameters(),
        model_flops: ModelFlops::new(model, seq_len),
    })
}

/// Finds out what the run did when the arena's peak rose for the last time.
struct PeakWatch {
    arena: tisserand_kernels::Arena<DryRun>,
    bytes: usize,
    at: PeakAt,
}

impl PeakWatch {
    fn passed(&mut self, what: PeakAt) {
        let bytes = self.arena.peak().total();
        if bytes > self.bytes {
            (self.bytes, self.at) = (bytes, what);
        }
    }
}
