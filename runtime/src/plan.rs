//! The plan of a run: the real step on a device that only counts.
//!
//! Everything that takes arena memory (state, a step, evaluation) runs once on
//! [`DryRun`], so the arena that the run allocates is exactly as large as the
//! run needs, and the FLOPs are those of the ops that are called.

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
use crate::step::{Executor, StepConfig};

/// What a run needs and does, per rank.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// Size of the arena.
    pub arena_bytes: usize,
    /// Bytes in use by class when most are.
    pub peak: Usage,
    /// Calls, FLOPs and bytes of one training step, by op.
    pub step: Vec<OpTotal>,
    /// Collectives of one training step, by axis in the order of [`Axis::ALL`].
    pub traffic: [Audit; 3],
    /// Parameters, without padding.
    pub num_parameters: usize,
    /// FLOPs per token of the model's definition, attention counted whole and counted causal.
    pub model_flops: ModelFlops,
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
    executor.train(&StepScalars::default(), &micro_batches)?;
    let step = device.take_totals();
    let traffic = Axis::ALL.map(|axis| executor.audit(axis).since(&before[axis as usize]));
    executor.network.losses(&config.cross_entropy, &micro_batches[0])?;
    executor.reserve_snapshot()?;
    Ok(Plan {
        arena_bytes: arena.high_water_bytes(),
        peak: arena.peak(),
        step,
        traffic,
        num_parameters: model.num_parameters(),
        model_flops: ModelFlops::new(model, seq_len),
    })
}
