//! The one place where a device is chosen.

use tisserand_collectives::threads::Seat;
use tisserand_collectives::{Axes, Mesh, Overlap, Progress, Workspace};
use tisserand_kernels::device::Caps;
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::{Context, Cpu, DType, Storage};
use tisserand_runtime::config::{Config, DeviceKind};
use tisserand_runtime::data::MicroBatch;
use tisserand_runtime::decoder::Decoder;
use tisserand_runtime::engine::Engine;
use tisserand_runtime::inference::{InferencePlace, ModelFolder};
use tisserand_runtime::model::Transformer;
use tisserand_runtime::model_config::ModelConfig;
use tisserand_runtime::network::NetworkShape;
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::step::{Executor, StepConfig};
use tisserand_runtime::train::DeviceChoice;
use tisserand_runtime::{Error, Result};

#[cfg(feature = "mpi")]
use crate::processes;

/// How a rank reaches the others.
pub enum Link {
    /// There are none.
    Alone,
    /// Threads of this process: one seat for calls in the background, one for those inside of layers.
    Threads([Seat<Cpu>; 2]),
    /// Processes.
    #[cfg(feature = "mpi")]
    Processes(processes::Seat),
}

impl Link {
    fn workspace(&self) -> Workspace {
        match self {
            Link::Alone | Link::Threads(_) => Workspace::None,
            #[cfg(feature = "mpi")]
            Link::Processes(_) => Workspace::Mpi,
        }
    }

    /// What is to be done after the first step.
    fn trust(&self) -> Box<dyn FnOnce() + Send> {
        match self {
            // Threads compare their calls as they meet, at no cost.
            Link::Alone | Link::Threads(_) => Box::new(|| {}),
            #[cfg(feature = "mpi")]
            Link::Processes(seat) => seat.trust(),
        }
    }
}

/// A rank's place in the run.
pub struct Place {
    /// Among the ranks of this machine.
    pub local_rank: usize,
    /// The rank's share of the machine's cores.
    pub cores: usize,
    /// The others.
    pub link: Link,
    /// Where the rank notes what it does.
    pub progress: Progress,
    /// Lines about how it came there, for the log of rank 0.
    pub notices: Vec<String>,
}

impl Place {
    /// One rank alone.
    pub fn alone() -> Self {
        let (link, progress) = (Link::Alone, Progress::default());
        Place { local_rank: 0, cores: cores(1), link, progress, notices: Vec::new() }
    }
}

/// The device of a rank.
pub fn choose(config: &Config, place: Place) -> Result<DeviceChoice> {
    match config.run.device {
        DeviceKind::Cpu => {
            let device = Cpu::new(match config.run.threads {
                0 => place.cores,
                threads => threads,
            })?;
            let threads = device.num_threads();
            let description = format!("{threads} CPU thread{}", if threads == 1 { "" } else { "s" });
            let Place { local_rank, link, progress, .. } = place;
            let (workspace, after_first_step) = (link.workspace(), link.trust());
            let make = Box::new(move |model: Transformer, step: StepConfig, arena_bytes| {
                let copies = step.sharding.tp().copies(model.config.num_kv_heads);
                let axes = axes(link, &device, step.sharding.mesh, copies, &progress)?;
                let ctx = Context::new(device, arena_bytes)?;
                Ok(Box::new(Executor::new(ctx, model, step, axes, progress)?) as Box<dyn Engine>)
            });
            let caps = Cpu::CAPS;
            Ok(DeviceChoice { caps, description, local_rank, workspace, make, after_first_step })
        }
        DeviceKind::Cuda => Err(not_yet()),
    }
}

/// The cores of each of so many ranks of this process.
pub fn cores(ranks: usize) -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / ranks).max(1))
}

fn axes(link: Link, device: &Cpu, mesh: Mesh, copies: usize, progress: &Progress) -> Result<Axes<Cpu>> {
    match link {
        Link::Alone => Ok(Axes::single(device)),
        Link::Threads([world, inner]) => {
            let mut world = world.take(device, Overlap::Background, progress.clone())?;
            let mut inner = inner.take(device, Overlap::None, progress.clone())?;
            Ok(Axes::split(mesh, &mut world, &mut inner, copies)?)
        }
        #[cfg(feature = "mpi")]
        Link::Processes(seat) => seat.take(device, mesh, copies, progress),
    }
}

/// What plans must know of a device and of its communicators, without starting either. Ranks may become threads or
/// processes: a build for processes plans for those, which take more.
pub fn to_plan(kind: DeviceKind) -> Result<(Caps, Workspace)> {
    let workspace = if cfg!(feature = "mpi") { Workspace::Mpi } else { Workspace::None };
    match kind {
        DeviceKind::Cpu => Ok((Cpu::CAPS, workspace)),
        DeviceKind::Cuda => Err(not_yet()),
    }
}

/// Sums of cross-entropy and z-loss over micro-batches.
pub type Evaluator = Box<dyn FnMut(&MicroBatch) -> Result<[f32; 2]>>;

/// A model that computes losses on a rank of a run.
pub fn evaluator(
    config: &Config,
    folder: &ModelFolder,
    place: Place,
    sharding: Sharding,
) -> Result<Evaluator> {
    match config.run.device {
        DeviceKind::Cpu => {
            let training = &config.training;
            let tokens = training.micro_batch * training.seq_len;
            let dtype = config.precision.compute;
            let shape = NetworkShape { dtype, tokens, positions: training.seq_len };
            let params = CrossEntropyParams { z_loss: 0.0 };
            let place = cpu_place(config.run.threads, place, sharding, &folder.config)?;
            let device = place.device.clone();
            let mut network = folder.evaluator(place, shape)?;
            Ok(Box::new(move |batch| device.enter(|| network.losses(&params, batch))))
        }
        DeviceKind::Cuda => Err(not_yet()),
    }
}

/// A model that generates, on CPU ranks.
pub fn decoder(
    threads: usize,
    folder: &ModelFolder,
    place: Place,
    sharding: Sharding,
    prompt_len: usize,
    capacity: usize,
) -> Result<Box<dyn Decoder>> {
    let place = cpu_place(threads, place, sharding, &folder.config)?;
    Ok(Box::new(folder.decoder(place, DType::F32, prompt_len, capacity)?))
}

/// A rank's CPU device and communicators.
fn cpu_place(
    threads: usize,
    place: Place,
    sharding: Sharding,
    model: &ModelConfig,
) -> Result<InferencePlace<Cpu>> {
    let device = Cpu::new(if threads == 0 { place.cores } else { threads })?;
    let (copies, workspace) = (sharding.tp().copies(model.num_kv_heads), place.link.workspace());
    let axes = axes(place.link, &device, sharding.mesh, copies, &place.progress)?;
    Ok(InferencePlace { device, sharding, axes, workspace })
}

fn not_yet() -> Error {
    Error::input("run.device = \"cuda\": not yet; hint: run.device = \"cpu\"")
}
