//! Steps by graphs and steps action by action, on two engines side by side.

use tisserand_collectives::{Axes, Mesh, Progress, Workspace};
use tisserand_kernels::cuda::driver::emulated::{Completion, Emulated, Schedule, Settings};
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::ops::step_scalars::StepScalars;
use tisserand_kernels::testing::{download, upload};
use tisserand_kernels::{Context, Cpu, Cuda, DType, Device};
use tisserand_runtime::config::Optimizer;
use tisserand_runtime::data::MicroBatch;
use tisserand_runtime::engine::{Engine, Part};
use tisserand_runtime::model::Transformer;
use tisserand_runtime::model::block::Recompute;
use tisserand_runtime::model_config::{Architecture, Init, ModelConfig, RopeScaling};
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::plan;
use tisserand_runtime::step::{Executor, StateDTypes, StepConfig};

use super::run::Random;

type Gpu = Cuda<Emulated>;

const VOCAB: usize = 96;
const TOKENS: usize = 48;
const MICRO_STEPS: usize = 3;

/// Room beyond the plan, for what a test puts between steps.
const SLACK_BYTES: usize = 1 << 16;

/// An engine and what is asked of it from outside.
struct Subject<D: Device> {
    engine: Executor<D>,
    ctx: Context<D>,
    progress: Progress,
    planned_bytes: usize,
}

impl<D: Device> Subject<D> {
    fn new(device: D, layers: usize, cuda_graph: bool) -> Self {
        let (model, step) = (model(layers), step(layers, cuda_graph));
        let planned_bytes =
            plan::train(device.caps(), &model, &step, TOKENS, Workspace::None).unwrap().arena_bytes;
        let ctx = Context::new(device.clone(), planned_bytes + SLACK_BYTES).unwrap();
        let progress = Progress::default();
        let axes = Axes::single(&device);
        let mut engine = Executor::new(ctx.clone(), model, step, axes, progress.clone()).unwrap();
        engine.initialize(3).unwrap();
        Engine::set_scalars(&mut engine, &StepScalars::default()).unwrap();
        Subject { engine, ctx, progress, planned_bytes }
    }

    fn train(&mut self, step: u32) {
        Engine::train(&mut self.engine, &inputs(step), &micro_batches(step)).unwrap();
    }

    /// All that a step leaves: scalars, and every tensor of every parameter.
    fn state(&self) -> (StepScalars, Vec<Vec<u32>>) {
        let scalars = Engine::scalars(&self.engine).unwrap();
        let model = self.engine.model();
        let names = model.units.iter().flat_map(|unit| unit.params()).map(|param| param.name.clone());
        let parts = [Part::Gradient, Part::Weights, Part::Master, Part::ExpAvg, Part::ExpAvgSq];
        let tensors = names.flat_map(|name| parts.map(|part| self.engine.read(&name, part).unwrap()));
        (scalars, tensors.map(|values| values.into_iter().map(f32::to_bits).collect()).collect())
    }
}

fn emulated(schedule: Schedule, completion: Completion) -> Emulated {
    Emulated::new(Settings { schedule, completion, ..Settings::default() })
}

/// The engine that replays and the one that walks, on devices of these settings.
fn pair(schedule: Schedule, completion: Completion) -> [Subject<Gpu>; 2] {
    [true, false].map(|cuda_graph| Subject::new(Cuda::new(emulated(schedule, completion)), 2, cuda_graph))
}

fn assert_equal(subjects: &[Subject<Gpu>; 2], step: u32) {
    let [replayed, walked] = subjects.each_ref().map(Subject::state);
    assert!(walked.0.loss.is_finite() && walked.0.update == 1, "step {step}: {:?}", walked.0);
    assert_eq!(replayed.0, walked.0, "scalars of step {step}");
    assert!(replayed.1 == walked.1, "tensors after step {step}");
}

#[test]
fn every_tensor_is_the_same_after_every_step() {
    for (schedule, completion) in
        [(Schedule::RoundRobin, Completion::Early), (Schedule::Random(5), Completion::Late)]
    {
        let mut subjects = pair(schedule, completion);
        for step in 1..=6 {
            for subject in &mut subjects {
                subject.train(step);
                // Validation between steps writes over the batch and the workspace that graphs use.
                let losses = subject.engine.losses(&micro_batches(100 + step)[0]).unwrap();
                assert!(losses[0].is_finite());
            }
            assert_equal(&subjects, step);
        }
        for Subject { engine, planned_bytes, .. } in &subjects {
            assert_eq!(engine.memory().high_water_bytes, *planned_bytes);
        }
        let [replayed, walked] = subjects.each_ref().map(|subject| subject.progress.read().0);
        assert_eq!((replayed.step, replayed.action.as_deref()), (6, Some("graph")));
        assert_eq!((walked.step, walked.action.as_deref()), (6, Some("update")));
    }
}

#[test]
fn a_step_that_finds_another_arena_is_recorded_anew() {
    let mut subjects = pair(Schedule::RoundRobin, Completion::Late);
    for step in 1..=3 {
        subjects.iter_mut().for_each(|subject| subject.train(step));
    }
    // A block that lies where the step has its workspace, for two steps.
    let kept = [1.0_f32, 2.0, 3.0];
    let [replayed, walked] = &mut subjects;
    let block = upload(&replayed.ctx, &kept);
    for step in 4..=5 {
        replayed.train(step);
        walked.train(step);
    }
    assert_eq!(download(&replayed.ctx, &block), kept);
    assert_equal(&subjects, 5);
    drop(block);
    for step in 6..=7 {
        subjects.iter_mut().for_each(|subject| subject.train(step));
    }
    assert_equal(&subjects, 7);
}

#[test]
fn a_step_by_graphs_is_a_few_commands_of_the_driver() {
    let commands = |layers: usize, cuda_graph: bool| {
        let driver = emulated(Schedule::RoundRobin, Completion::Early);
        let mut subject = Subject::new(Cuda::new(driver.clone()), layers, cuda_graph);
        let mut per_step = Vec::new();
        for step in 1..=4 {
            let before = driver.commands();
            subject.train(step);
            per_step.push(driver.commands() - before);
        }
        per_step
    };
    // Of each micro-batch four uploads and a graph; one upload of scalars.
    let replayed = (5 * MICRO_STEPS + 1) as u64;
    for layers in [1, 2, 3] {
        let (walks, graphs) = (commands(layers, false), commands(layers, true));
        println!("{layers} layers, {MICRO_STEPS} micro-batches: {walks:?} walked, {graphs:?} by graphs");
        assert!(walks.iter().all(|step| *step == walks[0] && *step > 10 * replayed), "{walks:?}");
        assert_eq!(graphs, [walks[0], replayed, replayed, replayed]);
    }
}

#[test]
fn a_device_without_graphs_and_a_mesh_are_refused() {
    let mut cpu = Subject::new(Cpu::new(1).unwrap(), 1, true);
    cpu.train(1);
    let error = Engine::train(&mut cpu.engine, &inputs(2), &micro_batches(2)).unwrap_err().to_string();
    assert_eq!(error, "the cpu device records no graphs; only cuda does");

    let mut two = step(1, true);
    two.sharding.mesh = Mesh::new(1, 2, 1);
    let error = plan::train(Cpu::CAPS, &model(1), &two, TOKENS, Workspace::None).unwrap_err().to_string();
    assert!(error.starts_with("a graph of the step with 2 ranks: it holds no communication"), "{error}");
}

/// Documents of random lengths, which differ from step to step, in two sequences.
fn micro_batches(step: u32) -> Vec<MicroBatch> {
    let mut random = Random(u64::from(step));
    let mut below = |bound: usize| random.below(bound as u64) as usize;
    let mut micro_batch = || {
        let mut batch = MicroBatch::default();
        while batch.tokens.len() < TOKENS {
            let len = (1 + below(20)).min(TOKENS - batch.tokens.len());
            batch.cu_seqlens.push(batch.tokens.len() as u32);
            batch.positions.extend(0..len as u32);
            batch.tokens.extend((0..len).map(|_| below(VOCAB) as u32));
            batch.labels.extend((1..len).map(|_| below(VOCAB) as i32).chain([-100]));
            batch.valid_tokens += len as u64 - 1;
        }
        batch.cu_seqlens.resize(TOKENS + 1, TOKENS as u32);
        batch
    };
    (0..MICRO_STEPS).map(|_| micro_batch()).collect()
}

fn inputs(step: u32) -> StepScalars {
    StepScalars {
        lr: 1e-2 / step as f32,
        loss_scale: 1.0 / (MICRO_STEPS * TOKENS) as f32,
        max_grad_norm: 1.0,
        beta1: 0.9,
        beta2: 0.95,
        step,
        seed_low: 11,
        max_skipped: 1,
        ..StepScalars::default()
    }
}

/// Noise in the rounding of the master weights, which depends on the step.
fn step(layers: usize, cuda_graph: bool) -> StepConfig {
    StepConfig {
        tokens: TOKENS,
        micro_steps: MICRO_STEPS,
        positions: TOKENS,
        dtypes: StateDTypes { compute: DType::Bf16, master: DType::Bf16, moments: DType::F32 },
        reduce: DType::F32,
        recompute: vec![Recompute::Selective; layers],
        cross_entropy: CrossEntropyParams { z_loss: 1e-4 },
        optimizer: Optimizer {
            lr: 1e-2,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.1,
            grad_clip: Some(1.0),
            groups: Vec::new(),
        },
        sharding: Sharding::single(),
        cuda_graph,
    }
}

/// A Qwen 3 with tied embeddings: two backward passes add to one unit's gradients.
fn model(layers: usize) -> Transformer {
    Transformer::new(ModelConfig {
        architecture: Architecture::Qwen3,
        vocab_size: VOCAB,
        hidden_size: 32,
        intermediate_size: 48,
        num_layers: layers,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 16,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        max_position_embeddings: TOKENS,
        windows: vec![None; layers],
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: true,
        tie_embeddings: true,
        init: Init { std: 0.02, depth_scaled: true },
    })
}
