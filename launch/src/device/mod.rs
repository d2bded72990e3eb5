//! The one place where a device is chosen.
//!
//! - here: a rank's place, and the device that its run file names; `gpu`: which GPU that is;
//! - `link`: how the rank reaches the others; [`bandwidth`]: how fast;
//! - `reach`: work on any device, for checks of a machine.

pub mod bandwidth;
#[cfg(feature = "gpu")]
mod gpu;
mod link;
mod reach;

use tisserand_collectives::nccl::Sums;
use tisserand_collectives::{Progress, Workspace};
use tisserand_kernels::device::Caps;
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::{Context, Cpu, DType};
#[cfg(not(feature = "gpu"))]
use tisserand_runtime::Error;
use tisserand_runtime::Result;
use tisserand_runtime::config::{Config, DeviceKind};
use tisserand_runtime::data::MicroBatch;
use tisserand_runtime::decoder::Decoder;
use tisserand_runtime::engine::Engine;
use tisserand_runtime::inference::{InferencePlace, ModelFolder};
use tisserand_runtime::model::Transformer;
use tisserand_runtime::model_config::ModelConfig;
use tisserand_runtime::network::NetworkShape;
use tisserand_runtime::opener::Opener;
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::plan::machine::CUDA_CAPS;
use tisserand_runtime::run::GpuRow;
use tisserand_runtime::step::{Executor, StepConfig};
use tisserand_runtime::train::DeviceChoice;

use link::Linked;
pub use link::{Link, ThreadSeats};
#[cfg(feature = "nccl")]
pub use reach::nccl_version;
pub use reach::{GpuFacts, OnDevice, OpenGpu, Reached, open_gpu, reach, unreachable};

/// A rank's place in the run.
pub struct Place {
    /// Among the ranks of this machine.
    pub local_rank: usize,
    /// The rank's share of the machine's cores.
    pub cores: usize,
    /// How the ranks of this machine open what all of them read.
    pub opener: Opener,
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
        let (opener, notices) = (Opener::default(), Vec::new());
        Place { local_rank: 0, cores: cores(1), opener, link, progress, notices }
    }
}

/// The device of a rank.
///
/// # Errors
/// There is no such device.
pub fn choose(config: &Config, place: Place) -> Result<DeviceChoice> {
    match config.run.device {
        DeviceKind::Cpu => {
            let device = cpu(config.run.threads, &place)?;
            let threads = device.num_threads();
            let description = format!("{threads} CPU thread{}", if threads == 1 { "" } else { "s" });
            Ok(choice(device, description, None, place))
        }
        #[cfg(feature = "gpu")]
        DeviceKind::Cuda => {
            let (device, description, gpu) = gpu::open(&place)?;
            Ok(choice(device, description, gpu, place))
        }
        #[cfg(not(feature = "gpu"))]
        DeviceKind::Cuda => Err(without_gpus()),
    }
}

fn choice<D: Linked>(device: D, description: String, gpu: Option<GpuRow>, place: Place) -> DeviceChoice {
    let caps = device.caps();
    let Place { local_rank, opener, link, progress, .. } = place;
    let (workspace, after_first_step) = (D::workspace(&link), link.trust());
    let make = Box::new(move |model: Transformer, step: StepConfig, arena_bytes| {
        let copies = step.sharding.tp().copies(model.config.num_kv_heads);
        let axes = device.axes(link, step.sharding.mesh, copies, &progress)?;
        let ctx = Context::new(device, arena_bytes)?;
        Ok(Box::new(Executor::new(ctx, model, step, axes, progress)?) as Box<dyn Engine>)
    });
    DeviceChoice { caps, description, local_rank, opener, gpu, workspace, make, after_first_step }
}

/// The CPU device of a rank with so many threads; 0: as many as it has cores.
fn cpu(threads: usize, place: &Place) -> Result<Cpu> {
    Ok(Cpu::new(if threads == 0 { place.cores } else { threads })?)
}

/// The cores of each of so many ranks of this process.
pub fn cores(ranks: usize) -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / ranks).max(1))
}

/// What plans must know of a device and of its communicators, without starting either. Ranks may become threads or
/// processes: a build for processes plans for those, which take more.
pub fn to_plan(config: &Config) -> (Caps, Workspace) {
    match config.run.device {
        DeviceKind::Cpu if cfg!(feature = "mpi") => (Cpu::CAPS, Workspace::Mpi),
        DeviceKind::Cpu => (Cpu::CAPS, Workspace::None),
        DeviceKind::Cuda if cfg!(feature = "nccl") => (CUDA_CAPS, Workspace::Nccl(sums(config))),
        DeviceKind::Cuda => (CUDA_CAPS, Workspace::None),
    }
}

/// Who adds up what GPUs of several processes have: NCCL's order of a sum depends on the mesh.
pub fn sums(config: &Config) -> Sums {
    if config.determinism.mesh_invariant { Sums::Tree } else { Sums::Library }
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
        DeviceKind::Cpu => evaluator_on(cpu(config.run.threads, &place)?, config, folder, place, sharding),
        #[cfg(feature = "gpu")]
        DeviceKind::Cuda => evaluator_on(gpu::open(&place)?.0, config, folder, place, sharding),
        #[cfg(not(feature = "gpu"))]
        DeviceKind::Cuda => Err(without_gpus()),
    }
}

fn evaluator_on<D: Linked>(
    device: D,
    config: &Config,
    folder: &ModelFolder,
    place: Place,
    sharding: Sharding,
) -> Result<Evaluator> {
    let training = &config.training;
    let tokens = training.micro_batch * training.seq_len;
    let shape = NetworkShape { dtype: config.precision.compute, tokens, positions: training.seq_len };
    let params = CrossEntropyParams { z_loss: 0.0 };
    let place = inference_place(device.clone(), place, sharding, &folder.config)?;
    let mut network = folder.evaluator(place, shape)?;
    Ok(Box::new(move |batch| device.enter(|| network.losses(&params, batch))))
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
    let device = cpu(threads, &place)?;
    let place = inference_place(device, place, sharding, &folder.config)?;
    Ok(Box::new(folder.decoder(place, DType::F32, prompt_len, capacity)?))
}

/// A rank's device and its communicators.
fn inference_place<D: Linked>(
    device: D,
    place: Place,
    sharding: Sharding,
    model: &ModelConfig,
) -> Result<InferencePlace<D>> {
    let (copies, workspace) = (sharding.tp().copies(model.num_kv_heads), D::workspace(&place.link));
    let axes = device.axes(place.link, sharding.mesh, copies, &place.progress)?;
    Ok(InferencePlace { device, sharding, axes, workspace })
}

#[cfg(not(feature = "gpu"))]
fn without_gpus() -> Error {
    Error::input(
        "run.device = \"cuda\": this program was built without GPUs; hint: build it with --features cuda (or emulator, to \
         run the kernels on this machine's CPU), or run.device = \"cpu\"",
    )
}
