//! Several thread-ranks beside one rank with as many threads: the same global batch in micro-batches of the same
//! size, a step of one and a step of the other in turn, so that both meet the same state of the machine. For each
//! ZeRO stage: tokens per second of both, the ratio (median of the pairs), processor seconds, the share of a step in
//! which rank 0 waited for collectives, and what of each class the arena of a rank holds, in bytes per parameter.
//!
//! With `--profile` the ops of rank 0; while the other side has its turn, rank 0 stands behind a `download`.
//!
//! `--invariant` puts mesh-invariant ranks beside the same ranks without.

use std::error::Error;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use tisserand_collectives::{Axes, Mesh, Overlap, Progress, Trace, threads};
use tisserand_kernels::ops::step_scalars::StepScalars;
use tisserand_kernels::{Class, Context, Cpu};
use tisserand_runtime::data::MicroBatch;
use tisserand_runtime::engine::Engine;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::plan::{self, Plan};
use tisserand_runtime::step::Executor;

use crate::{
    Options, TOKENS, WARM_UP_STEPS, cpu_s, micro_batch, model_config, print_times, step_config, step_inputs,
};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Ranks that are there for one comparison.
#[derive(Clone, Copy)]
struct Setting {
    ranks: usize,
    /// Of each rank.
    threads: usize,
    zero: u8,
    micro_steps: usize,
    mesh_invariant: bool,
}

impl Setting {
    fn sharding(&self, rank: usize) -> Sharding {
        let (zero, mesh_invariant) = (self.zero, self.mesh_invariant);
        Sharding { mesh: Mesh::new(1, self.ranks, 1), rank, zero, mesh_invariant }
    }

    fn plan(&self, rank: usize) -> Fallible<Plan> {
        let model = Transformer::new(model_config());
        let step = step_config(self.sharding(rank), self.micro_steps);
        Ok(plan::train(Cpu::CAPS, &model, &step, crate::SEQ, tisserand_collectives::Workspace::None)?)
    }
}

/// Ranks that wait for their next step.
struct World {
    setting: Setting,
    plan: Plan,
    go: Vec<Sender<u32>>,
    done: Receiver<Result<f32, String>>,
    threads: Vec<JoinHandle<()>>,
    /// Of rank 0.
    trace: Trace,
    device: Cpu,
    steps: u32,
}

/// What one step took.
struct Stepped {
    seconds: f64,
    cpu_s: f64,
    waited_s: f64,
    loss: f32,
}

impl World {
    fn start(setting: Setting, profile: bool) -> Fallible<World> {
        let timeout = Duration::from_secs(120);
        let seats = || threads::seats::<Cpu>(setting.ranks, timeout).into_iter();
        let (tell, done) = channel();
        let (mut go, mut joined) = (Vec::new(), Vec::new());
        let (trace, first) = (Progress::default(), Cpu::new(setting.threads)?);
        let first = if profile { first.profiled() } else { first };
        for (rank, (world, inner)) in seats().zip(seats()).enumerate() {
            let (sender, orders) = channel();
            let (progress, device) = match rank {
                0 => (trace.clone(), first.clone()),
                _ => (Progress::default(), Cpu::new(setting.threads)?),
            };
            let tell = tell.clone();
            go.push(sender);
            joined.push(std::thread::spawn(move || {
                let run = || serve(setting, rank, device, progress, [world, inner], &orders, &tell);
                if let Err(error) = run() {
                    let _ = tell.send(Err(error.to_string()));
                }
            }));
        }
        let (plan, trace) = (setting.plan(0)?, trace.trace().clone());
        Ok(World { setting, plan, go, done, threads: joined, trace, device: first, steps: 0 })
    }

    fn step(&mut self) -> Fallible<Stepped> {
        self.steps += 1;
        self.trace.take_waited();
        let (cpu, begin) = (cpu_s()?, Instant::now());
        for go in &self.go {
            go.send(self.steps)?;
        }
        let mut loss = f32::NAN;
        for _ in &self.go {
            loss = self.done.recv()??;
        }
        Ok(Stepped {
            seconds: begin.elapsed().as_secs_f64(),
            cpu_s: cpu_s()? - cpu,
            waited_s: self.trace.take_waited().as_secs_f64(),
            loss,
        })
    }

    fn end(self) -> Fallible<()> {
        drop(self.go);
        for thread in self.threads {
            thread.join().map_err(|_| "a rank panicked")?;
        }
        Ok(())
    }
}

/// One rank: a step per order.
fn serve(
    setting: Setting,
    rank: usize,
    device: Cpu,
    progress: Progress,
    [world, inner]: [threads::Seat<Cpu>; 2],
    orders: &Receiver<u32>,
    tell: &Sender<Result<f32, String>>,
) -> Fallible<()> {
    let model = Transformer::new(model_config());
    let sharding = setting.sharding(rank);
    let axes = match setting.ranks {
        1 => Axes::single(&device),
        _ => {
            let mut world = world.take(&device, Overlap::Background, progress.clone())?;
            let mut inner = inner.take(&device, Overlap::None, progress.clone())?;
            Axes::split(sharding.mesh, &mut world, &mut inner, 1)?
        }
    };
    let ctx = Context::new(device, setting.plan(rank)?.arena_bytes)?;
    let step = step_config(sharding, setting.micro_steps);
    let mut engine: Box<dyn Engine> = Box::new(Executor::new(ctx, model, step, axes, progress)?);
    engine.initialize(0)?;
    engine.set_scalars(&StepScalars::default())?;
    engine.publish()?;
    let batches: Vec<MicroBatch> =
        sharding.leaves(setting.micro_steps).into_iter().map(micro_batch).collect();
    for step in orders {
        engine.train(&step_inputs(step, setting.ranks * setting.micro_steps), &batches)?;
        // What it begins for the next step is part of this one.
        engine.settle()?;
        tell.send(Ok(engine.scalars()?.loss))?;
    }
    Ok(())
}

/// Both sides of a comparison, step by step.
struct Compared {
    seconds: [Vec<f64>; 2],
    cpu_s: [f64; 2],
    exposed: f64,
    ratio: f64,
    losses: [f32; 2],
}

/// Runs `steps` pairs.
fn pairs(ours: &mut World, other: &mut World, steps: usize) -> Fallible<Compared> {
    for _ in 0..WARM_UP_STEPS {
        ours.step()?;
        other.step()?;
    }
    ours.device.take_times();
    let mut compared = Compared {
        seconds: [Vec::new(), Vec::new()],
        cpu_s: [0.0; 2],
        exposed: 0.0,
        ratio: 0.0,
        losses: [0.0; 2],
    };
    let (mut waited_s, mut ratios) = (0.0, Vec::new());
    for pair in 0..steps {
        // Each begins every other pair.
        let (a, b);
        if pair % 2 == 0 {
            (a, b) = (ours.step()?, other.step()?);
        } else {
            let first = other.step()?;
            (a, b) = (ours.step()?, first);
        }
        ratios.push(b.seconds / a.seconds);
        waited_s += a.waited_s;
        for (side, step) in [a, b].into_iter().enumerate() {
            compared.seconds[side].push(step.seconds);
            compared.cpu_s[side] += step.cpu_s / steps as f64;
            compared.losses[side] = step.loss;
        }
    }
    compared.exposed = waited_s / compared.seconds[0].iter().sum::<f64>();
    compared.ratio = median(&ratios);
    let [a, b] = compared.losses;
    if (a - b).abs() > 1e-3 * b.abs() || a.is_nan() {
        return Err(format!("the losses differ: {a} and {b}").into());
    }
    Ok(compared)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The whole program with `--ranks`.
pub(crate) fn compare(options: &Options, ranks: usize) -> Fallible<()> {
    let threads = options.threads.unwrap_or(1);
    for zero in options.zero.map_or(0..=3, |zero| zero..=zero) {
        let plain = Setting { ranks, threads, zero, micro_steps: options.micro_steps, mesh_invariant: false };
        let (ours, other) = match options.invariant {
            true => (Setting { mesh_invariant: true, ..plain }, plain),
            false => {
                let micro_steps = ranks * options.micro_steps;
                (plain, Setting { ranks: 1, threads: ranks * threads, zero: 0, micro_steps, ..plain })
            }
        };
        let (mut ours, mut other) = (World::start(ours, options.profile)?, World::start(other, false)?);
        let compared = pairs(&mut ours, &mut other, options.steps)?;
        let times = ours.device.take_times();
        if options.json {
            println!("{}", as_json(&ours, &other, &compared));
        } else {
            print(&ours, &other, &compared);
            print_times(&times, options.steps);
        }
        ours.end()?;
        other.end()?;
    }
    Ok(())
}

/// Tokens of a step of all ranks.
fn tokens(setting: &Setting) -> f64 {
    (setting.ranks * setting.micro_steps * TOKENS) as f64
}

fn name(setting: &Setting) -> String {
    let Setting { ranks, threads, zero, micro_steps, mesh_invariant } = setting;
    let order = if *mesh_invariant { ", mesh-invariant" } else { "" };
    format!("{ranks} × {threads} threads, ZeRO {zero}, {micro_steps} micro-steps{order}")
}

/// Bytes per parameter of the classes that stages and modes differ in.
fn classes(plan: &Plan) -> Vec<(&'static str, f64)> {
    let classes = [Class::Weights, Class::Master, Class::Moments, Class::Gradients, Class::Communication];
    let per_parameter = |class| plan.peak.of(class) as f64 / plan.num_parameters as f64;
    classes.into_iter().map(|class: Class| (class.name(), per_parameter(class))).collect()
}

fn print(ours: &World, other: &World, compared: &Compared) {
    println!("\n{} beside {}", name(&ours.setting), name(&other.setting));
    for (side, world) in [ours, other].into_iter().enumerate() {
        let seconds = &compared.seconds[side];
        let fastest = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        let bytes: Vec<String> =
            classes(&world.plan).iter().map(|(name, bytes)| format!("{name} {bytes:.2}")).collect();
        println!(
            "  {:>6.0} tokens/s (fastest {:.0}), {:.3} CPU s per step; arena {} bytes, per parameter: {}",
            tokens(&world.setting) / median(seconds),
            tokens(&world.setting) / fastest,
            compared.cpu_s[side],
            world.plan.arena_bytes,
            bytes.join(", ")
        );
    }
    println!(
        "  ratio {:.3} (median of {} pairs), by CPU seconds {:.3}; rank 0 waited for {:.1} % of its steps",
        compared.ratio,
        compared.seconds[0].len(),
        compared.cpu_s[1] / compared.cpu_s[0],
        100.0 * compared.exposed
    );
}

fn as_json(ours: &World, other: &World, compared: &Compared) -> serde_json::Value {
    let side = |side: usize, world: &World| {
        let Setting { ranks, threads, zero, micro_steps, mesh_invariant } = world.setting;
        let classes: serde_json::Map<_, _> =
            classes(&world.plan).into_iter().map(|(name, bytes)| (name.to_owned(), json!(bytes))).collect();
        json!({
            "ranks": ranks, "threads": threads, "zero": zero, "micro_steps": micro_steps,
            "mesh_invariant": mesh_invariant, "tokens_per_s": tokens(&world.setting) / median(&compared.seconds[side]),
            "cpu_s": compared.cpu_s[side], "arena_bytes": world.plan.arena_bytes, "bytes_per_parameter": classes,
            "loss": compared.losses[side],
        })
    };
    json!({
        "ours": side(0, ours), "other": side(1, other), "ratio": compared.ratio, "pairs": compared.seconds[0].len(),
        "ratio_by_cpu_s": compared.cpu_s[1] / compared.cpu_s[0], "exposed_communication": compared.exposed,
    })
}
