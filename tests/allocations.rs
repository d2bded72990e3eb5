//! A step allocates no memory that matters: everything large lies in the arena.
//!
//! A counting allocator watches every thread of the process: the one that trains, the workers of the CPU
//! device and the thread that reads data ahead. What is run is the trainer's step: batch from the loader,
//! [`Engine::train`], scalars read, batch handed back.
//!
//! One allocation is not the step's own: work enters the pool of threads through a queue that takes a new
//! segment of [`QUEUE_SEGMENT_BYTES`] every 63 entries, and a step is one entry.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tisserand_collectives::{Axes, Progress, Workspace};
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::ops::step_scalars::StepScalars;
use tisserand_kernels::{Context, Cpu, DType};
use tisserand_runtime::config::Optimizer;
use tisserand_runtime::data::{
    BatchShape, Dataset, DatasetConfig, Loader, LoaderConfig, Source, StepOrder, TokenFileWriter,
};
use tisserand_runtime::engine::Engine;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::model::block::Recompute;
use tisserand_runtime::model_config::{Architecture, Init, ModelConfig, RopeScaling};
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::plan;
use tisserand_runtime::step::{Executor, StateDTypes, StepConfig};

/// The system's allocator, counted.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    BYTES.fetch_add(bytes, Relaxed);
    CALLS.fetch_add(1, Relaxed);
    LARGEST.fetch_max(bytes, Relaxed);
}

// SAFETY: every call is passed on to `System` with the arguments it came with, so the contract of
// `GlobalAlloc` is kept by `System` for the same callers; counting uses atomics and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises about `layout` are those that `System.alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: `block` came from this allocator, hence from `System`, with this layout.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from this allocator, hence from `System`, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What one step allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Allocations {
    bytes: usize,
    calls: usize,
    largest: usize,
}

impl Allocations {
    /// Since the last call.
    fn take() -> Self {
        let take = |counter: &AtomicUsize| counter.swap(0, Relaxed);
        Allocations { bytes: take(&BYTES), calls: take(&CALLS), largest: take(&LARGEST) }
    }
}

/// 63 jobs of two words and a state word each, and a link.
const QUEUE_SEGMENT_BYTES: usize = (63 * 3 + 1) * 8;

const VOCAB: usize = 512;
const SEQ: usize = 128;
const BATCH: usize = 4;
const MICRO_STEPS: usize = 2;
const LAYERS: usize = 2;
const TOKENS: usize = BATCH * SEQ;
const STEPS: usize = 10;

#[test]
fn steps_after_the_second_allocate_alike_and_nothing_large() {
    let folder = tempfile::tempdir().unwrap();
    let mut loader = loader(&folder.path().join("random"));
    for recompute in [Recompute::None, Recompute::Full] {
        let mut engine = engine(recompute);
        let mut steps = [Allocations { bytes: 0, calls: 0, largest: 0 }; STEPS];
        for (step, allocations) in steps.iter_mut().enumerate() {
            Allocations::take();
            let batch = loader.next().unwrap();
            engine.train(&step_inputs(step as u32 + 1), &batch.micro_batches).unwrap();
            let loss = engine.scalars().unwrap().loss;
            loader.recycle(batch);
            *allocations = Allocations::take();
            assert!(loss.is_finite());
        }
        let steady = &steps[2..];
        let usual = *steady.iter().min_by_key(|step| step.bytes).unwrap();
        let unusual: Vec<_> = steady.iter().filter(|step| **step != usual).collect();
        let segment = Allocations {
            bytes: usual.bytes + QUEUE_SEGMENT_BYTES,
            calls: usual.calls + 1,
            largest: usual.largest.max(QUEUE_SEGMENT_BYTES),
        };
        assert!(usual.largest < 64 * 1024, "{recompute:?}: {steps:?}");
        assert!(
            unusual.len() <= 1 && unusual.iter().all(|step| **step == segment),
            "{recompute:?}: {steps:?}"
        );
        println!("{recompute:?}: {usual:?}");
    }
}

/// Steps of short documents, told apart: their number differs from step to step.
fn loader(prefix: &Path) -> Loader {
    let mut writer = TokenFileWriter::create(prefix, VOCAB).unwrap();
    for document in 0..2000_u32 {
        let tokens: Vec<u32> = (0..50).map(|i| 1 + (document * 31 + i * i) % (VOCAB as u32 - 1)).collect();
        writer.push_document(&tokens).unwrap();
    }
    writer.finish().unwrap();
    let source = Source { path: prefix.to_str().unwrap().into(), weight: 1.0, max_epochs: None };
    let shape = DatasetConfig { seq_len: SEQ, vocab_size: VOCAB, seed: 7, validation_fraction: 0.0 };
    let config = LoaderConfig {
        order: StepOrder::new(BATCH * MICRO_STEPS, &[]).unwrap(),
        shape: BatchShape { micro_batch: BATCH, document_mask: true },
        leaves: (0..MICRO_STEPS).collect(),
        prefetch_batches: 2,
        first_step: 0,
    };
    let dataset = Dataset::open(&[source], shape).unwrap();
    Loader::new(Arc::new(dataset), config).unwrap()
}

fn engine(recompute: Recompute) -> Box<dyn Engine> {
    let model = Transformer::new(model_config());
    let step = StepConfig {
        tokens: TOKENS,
        micro_steps: MICRO_STEPS,
        positions: SEQ,
        dtypes: StateDTypes { compute: DType::Bf16, master: DType::F32, moments: DType::Bf16 },
        reduce: DType::F32,
        recompute: vec![recompute; LAYERS],
        cross_entropy: CrossEntropyParams { z_loss: 1e-4 },
        optimizer: Optimizer {
            lr: 1e-3,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.1,
            grad_clip: Some(1.0),
            groups: Vec::new(),
        },
        sharding: Sharding::single(),
        cuda_graph: false,
    };
    let arena_bytes = plan::train(Cpu::CAPS, &model, &step, SEQ, Workspace::None).unwrap().arena_bytes;
    let device = Cpu::new(2).unwrap();
    let ctx = Context::new(device.clone(), arena_bytes).unwrap();
    let mut engine = Executor::new(ctx, model, step, Axes::single(&device), Progress::default()).unwrap();
    engine.initialize(0).unwrap();
    Engine::set_scalars(&mut engine, &StepScalars::default()).unwrap();
    Box::new(engine)
}

/// Every option that has ops of its own.
fn model_config() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen3,
        vocab_size: VOCAB,
        hidden_size: 128,
        intermediate_size: 256,
        num_layers: LAYERS,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 32,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        max_position_embeddings: SEQ,
        windows: vec![None; LAYERS],
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        qk_norm: true,
        tie_embeddings: true,
        init: Init { std: 0.02, depth_scaled: true },
    }
}

fn step_inputs(step: u32) -> StepScalars {
    StepScalars {
        lr: 1e-3,
        loss_scale: 1.0 / (MICRO_STEPS * TOKENS) as f32,
        max_grad_norm: 1.0,
        beta1: 0.9,
        beta2: 0.95,
        step,
        max_skipped: 1,
        ..StepScalars::default()
    }
}
