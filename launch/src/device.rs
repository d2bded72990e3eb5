//! The one place where a device is chosen.

use tisserand_collectives::threads::Seat;
use tisserand_collectives::{Axes, Mesh, Overlap, Progress};
use tisserand_kernels::device::Caps;
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::{Context, Cpu, DType, Storage};
use tisserand_runtime::config::{Config, DeviceKind};
use tisserand_runtime::data::MicroBatch;
use tisserand_runtime::decoder::Decoder;
use tisserand_runtime::engine::Engine;
use tisserand_runtime::inference::ModelFolder;
use tisserand_runtime::plan::machine::CUDA_CAPS;
use tisserand_runtime::step::{Executor, StepConfig};
use tisserand_runtime::train::DeviceChoice;
use tisserand_runtime::{Error, Result};

/// How a rank reaches the others.
pub enum Link {
    /// There are none.
    Alone,
    /// Threads of this process: one seat for calls in the background, one for those inside of layers.
    Threads([Seat<Cpu>; 2]),
}

/// A rank's place in the run.
pub struct Place {
    /// Among the ranks of this machine.
    pub local_rank: usize,
    /// Ranks of this machine.
    pub local_size: usize,
    /// The others.
    pub link: Link,
    /// Where the rank notes what it does.
    pub progress: Progress,
}

impl Place {
    /// One rank alone.
    pub fn alone() -> Self {
        Place { local_rank: 0, local_size: 1, link: Link::Alone, progress: Progress::default() }
    }
}

/// The device of a rank.
pub fn choose(config: &Config, place: Place) -> Result<DeviceChoice> {
    match config.run.device {
        DeviceKind::Cpu => {
            let device = Cpu::new(cpu_threads(config.run.threads, place.local_size))?;
            let threads = device.num_threads();
            let description = format!("{threads} CPU thread{}", if threads == 1 { "" } else { "s" });
            let Place { local_rank, link, progress, .. } = place;
            let make = Box::new(move |model, step: StepConfig, arena_bytes| {
                let axes = axes(link, &device, step.sharding.mesh, &progress)?;
                let ctx = Context::new(device, arena_bytes)?;
                Ok(Box::new(Executor::new(ctx, model, step, axes, progress)?) as Box<dyn Engine>)
            });
            Ok(DeviceChoice { caps: Cpu::CAPS, description, local_rank, make })
        }
        DeviceKind::Cuda => Err(not_yet()),
    }
}

/// Worker threads of a rank: `threads`, or its share of the cores.
fn cpu_threads(threads: usize, local_size: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, |cores| (cores.get() / local_size).max(1)),
        threads => threads,
    }
}

fn axes(link: Link, device: &Cpu, mesh: Mesh, progress: &Progress) -> Result<Axes<Cpu>> {
    match link {
        Link::Alone => Ok(Axes::single(device)),
        Link::Threads([world, inner]) => {
            let mut world = world.take(device, Overlap::Background, progress.clone())?;
            let mut inner = inner.take(device, Overlap::None, progress.clone())?;
            Ok(Axes::split(mesh, &mut world, &mut inner)?)
        }
    }
}

/// What plans must know of a device, without starting it.
pub fn caps(kind: DeviceKind) -> Caps {
    match kind {
        DeviceKind::Cpu => Cpu::CAPS,
        DeviceKind::Cuda => CUDA_CAPS,
    }
}

/// Sums of cross-entropy and z-loss over micro-batches.
pub type Evaluator = Box<dyn FnMut(&MicroBatch) -> Result<[f32; 2]>>;

/// A model that computes losses on the device of a run.
pub fn evaluator(config: &Config, folder: &ModelFolder) -> Result<Evaluator> {
    match config.run.device {
        DeviceKind::Cpu => {
            let device = Cpu::new(config.run.threads)?;
            let training = &config.training;
            let tokens = training.micro_batch * training.seq_len;
            let params = CrossEntropyParams { z_loss: 0.0 };
            let mut network =
                folder.evaluator(device.clone(), config.precision.compute, tokens, training.seq_len)?;
            Ok(Box::new(move |batch| device.enter(|| network.losses(&params, batch))))
        }
        DeviceKind::Cuda => Err(not_yet()),
    }
}

/// A model that generates, on the CPU.
pub fn decoder(
    threads: usize,
    folder: &ModelFolder,
    prompt_len: usize,
    capacity: usize,
) -> Result<Box<dyn Decoder>> {
    Ok(Box::new(folder.decoder(Cpu::new(threads)?, DType::F32, prompt_len, capacity)?))
}

fn not_yet() -> Error {
    Error::input("run.device = \"cuda\": not yet, only plans are made; hint: run.device = \"cpu\"")
}
