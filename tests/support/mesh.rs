//! Training on meshes of thread-ranks, without files: a fixture's weights, random tokens, and everything that the
//! ranks computed, put together again.

#![allow(dead_code, reason = "every test program uses its own part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tisserand_collectives::{Audit, Axes, Axis, Mesh, Overlap, Progress, Workspace, threads};
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::ops::step_scalars::StepScalars;
use tisserand_kernels::{Context, Cpu, DType, Device};
use tisserand_runtime::checkpoint::HfFolder;
use tisserand_runtime::config::Optimizer;
use tisserand_runtime::data::MicroBatch;
use tisserand_runtime::engine::{Engine, Memory, Part};
use tisserand_runtime::hf_config;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::model::block::Recompute;
use tisserand_runtime::model_config::ModelConfig;
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::plan::{self, Plan};
use tisserand_runtime::step::state::pieces;
use tisserand_runtime::step::{Executor, StateDTypes, StepConfig};

/// Sequences of a step, unless a test says otherwise: 1, 2, 4 or 8 data-parallel ranks share them.
pub(crate) const GLOBAL_BATCH: usize = 8;
pub(crate) const SEQ_LEN: usize = 24;

/// The fixture of this name.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// How a run is spread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) dp_replicate: usize,
    pub(crate) dp_shard: usize,
    pub(crate) tp: usize,
    pub(crate) zero: u8,
    pub(crate) mesh_invariant: bool,
    pub(crate) recompute: Recompute,
    pub(crate) reduce: DType,
    pub(crate) compute: DType,
    pub(crate) micro_batch: usize,
    pub(crate) global_batch: usize,
}

impl Spread {
    /// One rank.
    pub(crate) fn one() -> Self {
        Spread {
            dp_replicate: 1,
            dp_shard: 1,
            tp: 1,
            zero: 0,
            mesh_invariant: false,
            recompute: Recompute::None,
            reduce: DType::F32,
            compute: DType::F32,
            micro_batch: 1,
            global_batch: GLOBAL_BATCH,
        }
    }

    pub(crate) fn mesh(self, dp_replicate: usize, dp_shard: usize, tp: usize, zero: u8) -> Self {
        Spread { dp_replicate, dp_shard, tp, zero, ..self }
    }

    fn sharding(&self, rank: usize) -> Sharding {
        let mesh = Mesh::new(self.dp_replicate, self.dp_shard, self.tp);
        Sharding { mesh, rank, zero: self.zero, mesh_invariant: self.mesh_invariant }
    }

    pub(crate) fn ranks(&self) -> usize {
        self.dp_replicate * self.dp_shard * self.tp
    }

    pub(crate) fn micro_steps(&self) -> usize {
        self.global_batch / self.micro_batch / (self.dp_replicate * self.dp_shard)
    }

    /// The step of one rank.
    pub(crate) fn step(&self, model: &Transformer, rank: usize) -> StepConfig {
        StepConfig {
            tokens: self.micro_batch * SEQ_LEN,
            micro_steps: self.micro_steps(),
            positions: SEQ_LEN,
            dtypes: StateDTypes { compute: self.compute, master: DType::F32, moments: DType::F32 },
            reduce: self.reduce,
            recompute: vec![self.recompute; model.blocks.len()],
            cross_entropy: CrossEntropyParams { z_loss: 1e-4 },
            optimizer: Optimizer {
                lr: 3e-3,
                betas: [0.9, 0.95],
                eps: 1e-8,
                weight_decay: 0.1,
                grad_clip: Some(1.0),
                groups: Vec::new(),
            },
            sharding: self.sharding(rank),
            cuda_graph: false,
        }
    }
}

/// What a run computed, whole.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Computed {
    /// Loss, z-loss and norm of each step.
    pub(crate) losses: Vec<[f32; 3]>,
    /// Of the first step, by parameter.
    pub(crate) gradients: BTreeMap<String, Vec<f32>>,
    /// After the last step, by parameter.
    pub(crate) weights: BTreeMap<String, Vec<f32>>,
    /// What a checkpoint would hold after the last step, by part and parameter.
    pub(crate) saved: BTreeMap<String, Vec<f32>>,
}

/// What one rank saw besides.
pub(crate) struct Seen {
    pub(crate) plan: Plan,
    pub(crate) memory: Memory,
    /// Collectives of the last step, by axis.
    pub(crate) traffic: [Audit; 3],
}

/// Sequence `index` of a step: random tokens, some without a target, more of them in some sequences.
fn sequence(step: usize, index: usize, vocab_size: usize) -> MicroBatch {
    let mut state = (step * 1000 + index) as u64;
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let tokens: Vec<u32> = (0..SEQ_LEN).map(|_| (random() % vocab_size as u64) as u32).collect();
    let mut labels: Vec<i32> = (0..SEQ_LEN).map(|_| (random() % vocab_size as u64) as i32).collect();
    let ignored = if index.is_multiple_of(3) { 12 } else { 1 };
    labels[..ignored].fill(-100);
    MicroBatch {
        valid_tokens: (SEQ_LEN - ignored) as u64,
        tokens,
        labels,
        positions: (0..SEQ_LEN as u32).collect(),
        cu_seqlens: Vec::new(),
    }
}

/// Micro-batch `leaf` of a step.
fn micro_batch(step: usize, leaf: usize, sequences: usize, vocab_size: usize) -> MicroBatch {
    let mut all = MicroBatch::default();
    for i in 0..sequences {
        let one = sequence(step, leaf * sequences + i, vocab_size);
        all.cu_seqlens.push((i * SEQ_LEN) as u32);
        all.tokens.extend(one.tokens);
        all.labels.extend(one.labels);
        all.positions.extend(one.positions);
        all.valid_tokens += one.valid_tokens;
    }
    let tokens = all.tokens.len();
    all.cu_seqlens.resize(tokens + 1, tokens as u32);
    all
}

fn inputs(step: usize, valid_tokens: u64) -> StepScalars {
    StepScalars {
        lr: 3e-3,
        loss_scale: 1.0 / valid_tokens as f32,
        max_grad_norm: 1.0,
        beta1: 0.9,
        beta2: 0.95,
        step: step as u32 + 1,
        max_skipped: 3,
        ..StepScalars::default()
    }
}

/// Trains `steps` steps of the model in `folder` on the mesh.
pub(crate) fn train(folder: &Path, spread: Spread, steps: usize) -> (Computed, Vec<Seen>) {
    let config = hf_config::read(&folder.join("config.json")).unwrap();
    let weights = HfFolder::open(folder).unwrap();
    let results: Vec<(Computed, Seen)> = std::thread::scope(|scope| {
        let ranks = seats(spread).enumerate().map(|(rank, seats)| {
            let (config, weights) = (&config, &weights);
            scope.spawn(move || train_rank(config, weights, spread, steps, rank, seats))
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assemble(results)
}

/// Two for each rank.
pub(crate) fn seats<D: Device>(spread: Spread) -> impl Iterator<Item = [threads::Seat<D>; 2]> {
    let seats = || threads::seats::<D>(spread.ranks(), Duration::from_secs(60)).into_iter();
    seats().zip(seats()).map(|(world, inner)| [world, inner])
}

/// A rank's engine with the weights of a folder.
pub(crate) fn engine<D: Device>(
    config: &ModelConfig,
    weights: &HfFolder,
    spread: Spread,
    rank: usize,
    device: D,
    progress: Progress,
    [world, inner]: [threads::Seat<D>; 2],
) -> (Executor<D>, Plan) {
    let tp = spread.sharding(rank).tp();
    let (model, copies) = (Transformer::sharded(config.clone(), tp), tp.copies(config.num_kv_heads));
    let step = spread.step(&model, rank);
    let plan = plan::train(device.caps(), &model, &step, SEQ_LEN, Workspace::None).unwrap();
    let mut world = world.take(&device, Overlap::Background, progress.clone()).unwrap();
    let mut inner = inner.take(&device, Overlap::None, progress.clone()).unwrap();
    let axes = Axes::split(step.sharding.mesh, &mut world, &mut inner, copies).unwrap();
    let ctx = Context::new(device, plan.arena_bytes).unwrap();
    let mut engine = Executor::new(ctx, model.clone(), step, axes, progress).unwrap();
    for param in model.units.iter().flat_map(|unit| unit.params()) {
        let values = weights.tensors.read_shaped(&param.name, &param.shape).unwrap();
        engine.write(&param.name, Part::Master, &values).unwrap();
    }
    engine.publish().unwrap();
    (engine, plan)
}

/// What a rank is given for a step.
pub(crate) fn given(
    config: &ModelConfig,
    spread: Spread,
    rank: usize,
    step: usize,
) -> (StepScalars, Vec<MicroBatch>) {
    let leaves = spread.global_batch / spread.micro_batch;
    let batch = |leaf| micro_batch(step, leaf, spread.micro_batch, config.vocab_size);
    let valid_tokens = (0..leaves).map(|leaf| batch(leaf).valid_tokens).sum();
    let leaves = spread.sharding(rank).leaves(spread.micro_steps()).into_iter();
    (inputs(step, valid_tokens), leaves.map(batch).collect())
}

fn train_rank(
    config: &ModelConfig,
    weights: &HfFolder,
    spread: Spread,
    steps: usize,
    rank: usize,
    seats: [threads::Seat<Cpu>; 2],
) -> (Computed, Seen) {
    let device = Cpu::new(1).unwrap();
    let (mut engine, plan) = engine(config, weights, spread, rank, device, Progress::default(), seats);
    let mut computed = Computed::default();
    let mut traffic = [Audit::default(); 3];
    for step in 0..steps {
        let (inputs, batches) = given(config, spread, rank, step);
        let before = Axis::ALL.map(|axis| Engine::audit(&engine, axis));
        Engine::train(&mut engine, &inputs, &batches).unwrap();
        traffic = Axis::ALL.map(|axis| Engine::audit(&engine, axis).since(&before[axis as usize]));
        let scalars = Engine::scalars(&engine).unwrap();
        computed.losses.push([scalars.loss, scalars.z_loss, scalars.grad_norm]);
        if step == 0 {
            computed.gradients = held(&engine, Part::Gradient);
        }
    }
    engine.settle().unwrap();
    for part in [Part::Weights, Part::Master, Part::ExpAvg] {
        computed.saved.extend(snapshot(&mut engine, part));
    }
    computed.weights = held(&engine, Part::Master);
    engine.losses(&micro_batch(steps, 0, spread.micro_batch, config.vocab_size)).unwrap();
    let memory = engine.memory();
    (computed, Seen { plan, memory, traffic })
}

/// "part.name start" to values: what this rank writes.
fn snapshot(engine: &mut dyn Engine, part: Part) -> BTreeMap<String, Vec<f32>> {
    let wide = engine.dtype(part) == DType::F32;
    let runs = engine.snapshot(part).unwrap().into_iter();
    runs.map(|run| {
        let values = match wide {
            true => run.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            false => run
                .bytes
                .chunks_exact(2)
                .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b.try_into().unwrap())) << 16))
                .collect(),
        };
        (format!("{part:?}.{} {:012}", run.name, run.start), values)
    })
    .collect()
}

/// "name start" to values.
fn held(engine: &dyn Engine, part: Part) -> BTreeMap<String, Vec<f32>> {
    let mut held = BTreeMap::new();
    for piece in pieces(engine.model(), engine.sharding()) {
        let mut bytes = Vec::new();
        engine.read_piece(&piece, part, &mut bytes).unwrap();
        let values: Vec<f32> =
            bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect();
        for run in piece.runs() {
            let values = values[run.local..][..run.len].to_vec();
            held.insert(format!("{} {:012}", piece.param.name, run.global), values);
        }
    }
    held
}

/// All ranks agree on losses and on what several of them have; pieces become tensors.
fn assemble(results: Vec<(Computed, Seen)>) -> (Computed, Vec<Seen>) {
    let mut whole = Computed { losses: results[0].0.losses.clone(), ..Computed::default() };
    let mut parts = [BTreeMap::new(), BTreeMap::new()];
    let mut saved = BTreeMap::new();
    let mut seen = Vec::new();
    for (computed, rank_seen) in results {
        assert_eq!(computed.losses, whole.losses, "ranks disagree about the loss");
        for (all, mine) in parts.iter_mut().zip([computed.gradients, computed.weights]) {
            for (key, values) in mine {
                let first = all.entry(key.clone()).or_insert_with(|| values.clone());
                assert_eq!(*first, values, "ranks disagree about {key}");
            }
        }
        for (key, values) in computed.saved {
            assert!(saved.insert(key.clone(), values).is_none(), "two ranks save {key}");
        }
        seen.push(rank_seen);
    }
    let [gradients, weights] = parts;
    let parts = [gradients, weights, saved];
    for (all, out) in parts.into_iter().zip([&mut whole.gradients, &mut whole.weights, &mut whole.saved]) {
        for (key, values) in all {
            let (name, start) = key.split_once(' ').unwrap();
            let tensor: &mut Vec<f32> = out.entry(name.to_owned()).or_default();
            assert_eq!(
                tensor.len(),
                start.parse::<usize>().unwrap(),
                "pieces of {name} overlap or leave gaps"
            );
            tensor.extend(values);
        }
    }
    (whole, seen)
}

/// Largest relative distance (of norms) over the tensors, and the tensor.
pub(crate) fn distance(a: &BTreeMap<String, Vec<f32>>, b: &BTreeMap<String, Vec<f32>>) -> (f64, String) {
    assert!(a.keys().eq(b.keys()), "other tensors");
    let mut worst = (0.0, String::new());
    for (name, a) in a {
        let b = &b[name];
        assert_eq!(a.len(), b.len(), "{name}");
        let difference: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let norm: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
        let distance = (difference / norm.max(1e-30)).sqrt();
        assert!(!distance.is_nan(), "{name} is not a number");
        if distance > worst.0 {
            worst = (distance, name.clone());
        }
    }
    worst
}
