//! Training steps of the reference model on the CPU: tokens per second, to compare with
//! `benches/peers/torch_step.py`.
//!
//! `cargo bench --bench step -- [--threads 2] [--steps 8] [--profile] [--json]`
//! `cargo bench --bench step -- --ranks 2 [--threads 1] [--zero Z] [--micro-steps 1] [--invariant] [...]`
//!
//! With `--ranks` see [`ranks`].
//!
//! A step is what the trainer's step is: micro-batch in, forward, loss, backward, clipping, AdamW, in an
//! arena of the planned size. Tokens are random. `--profile` adds where the time goes, by op.

mod ranks;
#[path = "../reference/mod.rs"]
mod reference;

use std::error::Error;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use reference::{BATCH, HEAD_DIM, HEADS, HIDDEN, INTERMEDIATE, KV_HEADS, SEQ, TOKENS, VOCAB};
use serde_json::json;
use tisserand_collectives::{Axes, Progress, Workspace};
use tisserand_kernels::cpu::OpTime;
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::ops::philox;
use tisserand_kernels::ops::step_scalars::StepScalars;
use tisserand_kernels::{Context, Cpu, DType};
use tisserand_runtime::config::Optimizer;
use tisserand_runtime::data::MicroBatch;
use tisserand_runtime::engine::Engine;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::model::block::Recompute;
use tisserand_runtime::model_config::{Architecture, Init, ModelConfig, RopeScaling};
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::plan;
use tisserand_runtime::step::{Executor, StateDTypes, StepConfig};

const LAYERS: usize = 6;
const WARM_UP_STEPS: usize = 2;

struct Options {
    /// Of each rank; by default 2 of one rank alone, 1 of several.
    threads: Option<usize>,
    /// Several ranks beside one.
    ranks: Option<usize>,
    /// The one stage to be measured.
    zero: Option<u8>,
    micro_steps: usize,
    invariant: bool,
    steps: usize,
    profile: bool,
    json: bool,
}

impl Options {
    fn from_command_line() -> Result<Self, Box<dyn Error>> {
        let mut options = Options {
            threads: None,
            ranks: None,
            zero: None,
            micro_steps: 1,
            invariant: false,
            steps: 8,
            profile: false,
            json: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || -> Result<usize, Box<dyn Error>> {
                let value = arguments.next().ok_or_else(|| format!("{argument} needs a number"))?;
                Ok(value.parse::<usize>().map_err(|e| format!("{argument} {value}: {e}"))?)
            };
            match argument.as_str() {
                "--threads" => options.threads = Some(number()?),
                "--ranks" => options.ranks = Some(number()?.max(1)),
                "--zero" => options.zero = Some(u8::try_from(number()?.min(3))?),
                "--micro-steps" => options.micro_steps = number()?.max(1),
                "--invariant" => options.invariant = true,
                "--steps" => options.steps = number()?.max(1),
                "--profile" => options.profile = true,
                "--json" => options.json = true,
                "--bench" => {} // what cargo passes
                _ => return Err(format!("unknown argument {argument:?}").into()),
            }
        }
        Ok(options)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let options = Options::from_command_line()?;
    if let Some(ranks) = options.ranks {
        return ranks::compare(&options, ranks);
    }
    let device = Cpu::new(options.threads.unwrap_or(2))?;
    let device = if options.profile { device.profiled() } else { device };
    let model = Transformer::new(model_config());
    let num_parameters = model.num_parameters();
    let step = step_config(Sharding::single(), 1);
    let arena_bytes = plan::train(Cpu::CAPS, &model, &step, SEQ, Workspace::None)?.arena_bytes;
    let ctx = Context::new(device.clone(), arena_bytes)?;
    let mut engine: Box<dyn Engine> =
        Box::new(Executor::new(ctx, model, step, Axes::single(&device), Progress::default())?);
    engine.initialize(0)?;
    engine.set_scalars(&StepScalars::default())?;
    let batch = [micro_batch(0)];
    let start_s = started.elapsed().as_secs_f64();

    let mut count = 0;
    let mut run = || -> Result<StepScalars, Box<dyn Error>> {
        count += 1;
        engine.train(&step_inputs(count, 1), &batch)?;
        Ok(engine.scalars()?)
    };
    for _ in 0..WARM_UP_STEPS {
        run()?;
    }
    device.take_times();
    let cpu_before = cpu_s()?;
    let mut seconds = Vec::with_capacity(options.steps);
    let mut loss = 0.0;
    for _ in 0..options.steps {
        let begun = Instant::now();
        loss = run()?.loss;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    let cpu_s = (cpu_s()? - cpu_before) / options.steps as f64;
    let times = device.take_times();
    if !loss.is_finite() {
        return Err(format!("the loss is {loss} after {count} steps").into());
    }
    let result = Measured { seconds, cpu_s, start_s, arena_bytes, num_parameters, loss };
    if options.json {
        println!("{}", result.json(&options, &times));
    } else {
        result.print();
        print_times(&times, options.steps);
    }
    Ok(())
}

struct Measured {
    /// Of each step.
    seconds: Vec<f64>,
    /// Processor seconds of all threads per step: what other programs on the machine disturb less.
    cpu_s: f64,
    /// From the start of the process to that of the first step.
    start_s: f64,
    arena_bytes: usize,
    num_parameters: usize,
    loss: f32,
}

impl Measured {
    /// Median, slowest and fastest step as tokens per second.
    fn tokens_per_s(&self) -> [f64; 3] {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        let (count, half) = (seconds.len(), seconds.len() / 2);
        let median = if count % 2 == 1 { seconds[half] } else { (seconds[half - 1] + seconds[half]) / 2.0 };
        [median, seconds[count - 1], seconds[0]].map(|seconds| TOKENS as f64 / seconds)
    }

    fn gflop_per_s(&self) -> f64 {
        6.0 * self.num_parameters as f64 * self.tokens_per_s()[0] / 1e9
    }

    fn print(&self) {
        let [median, min, max] = self.tokens_per_s();
        println!(
            "tokens_per_s = {median:.0} (min {min:.0}, max {max:.0}, {} steps), {:.1} GFLOP/s by 6·N·tokens, \
             {:.3} CPU s per step, {:.3} s to the first step, arena {} bytes, {} parameters, loss {:.4}",
            self.seconds.len(),
            self.gflop_per_s(),
            self.cpu_s,
            self.start_s,
            self.arena_bytes,
            self.num_parameters,
            self.loss,
        );
    }

    fn json(&self, options: &Options, times: &[OpTime]) -> serde_json::Value {
        let [median, min, max] = self.tokens_per_s();
        let steps = options.steps as f64;
        let ops: Vec<_> = times
            .iter()
            .map(|time| json!({"op": time.op, "calls": time.calls, "step_s": time.seconds / steps}))
            .collect();
        json!({
            "tokens_per_s": median, "tokens_per_s_min": min, "tokens_per_s_max": max,
            "step_s": TOKENS as f64 / median, "cpu_s": self.cpu_s, "gflop_per_s": self.gflop_per_s(),
            "start_s": self.start_s, "arena_bytes": self.arena_bytes, "parameters": self.num_parameters,
            "threads": options.threads.unwrap_or(2), "steps": options.steps, "loss": self.loss, "ops": ops,
        })
    }
}

/// Families by share, and under each its ops. An op's name is `family::function`.
fn print_times(times: &[OpTime], steps: usize) {
    let family = |time: &OpTime| time.op.split("::").next().unwrap_or(time.op);
    let total: f64 = times.iter().map(|time| time.seconds).sum();
    let mut families: Vec<(&str, f64)> = Vec::new();
    for time in times {
        match families.iter_mut().find(|(name, _)| *name == family(time)) {
            Some((_, seconds)) => *seconds += time.seconds,
            None => families.push((family(time), time.seconds)),
        }
    }
    families.sort_by(|a, b| b.1.total_cmp(&a.1));
    let line = |name: &str, calls: String, seconds: f64| {
        let (ms, percent) = (1e3 * seconds / steps as f64, 100.0 * seconds / total);
        println!("{name:<44} {calls:>6} {ms:>9.3} ms {percent:>6.2} %");
    };
    for (name, seconds) in families {
        line(name, String::new(), seconds);
        for time in times.iter().filter(|time| family(time) == name) {
            line(&format!("    {}", time.op), (time.calls / steps as u64).to_string(), time.seconds);
        }
    }
}

fn cpu_s() -> Result<f64, Box<dyn Error>> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + 1e-6 * time.tv_usec() as f64;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn model_config() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: VOCAB,
        hidden_size: HIDDEN,
        intermediate_size: INTERMEDIATE,
        num_layers: LAYERS,
        num_heads: HEADS,
        num_kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        max_position_embeddings: SEQ,
        windows: vec![None; LAYERS],
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        tie_embeddings: false,
        init: Init { std: 0.02, depth_scaled: true },
    }
}

fn step_config(sharding: Sharding, micro_steps: usize) -> StepConfig {
    StepConfig {
        tokens: TOKENS,
        micro_steps,
        positions: SEQ,
        dtypes: StateDTypes { compute: DType::F32, master: DType::F32, moments: DType::F32 },
        reduce: DType::F32,
        recompute: vec![Recompute::None; LAYERS],
        cross_entropy: CrossEntropyParams { z_loss: 0.0 },
        optimizer: Optimizer {
            lr: 3e-4,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.1,
            grad_clip: Some(1.0),
            groups: Vec::new(),
        },
        sharding,
        cuda_graph: false,
    }
}

/// Random tokens, others for each leaf; each label is the token that follows.
fn micro_batch(leaf: usize) -> MicroBatch {
    let token =
        |index: usize| philox::philox4x32([index as u32, leaf as u32, 0, 0], [7, 7])[0] % VOCAB as u32;
    MicroBatch {
        tokens: (0..TOKENS).map(token).collect(),
        labels: (0..TOKENS).map(|index| token(index + 1) as i32).collect(),
        positions: (0..TOKENS).map(|index| (index % SEQ) as u32).collect(),
        cu_seqlens: (0..=TOKENS).map(|index| (index.min(BATCH) * SEQ) as u32).collect(),
        valid_tokens: TOKENS as u64,
    }
}

fn step_inputs(step: u32, micro_batches: usize) -> StepScalars {
    StepScalars {
        lr: 3e-4,
        loss_scale: 1.0 / (micro_batches * TOKENS) as f32,
        max_grad_norm: 1.0,
        beta1: 0.9,
        beta2: 0.95,
        step,
        max_skipped: 1,
        ..StepScalars::default()
    }
}
