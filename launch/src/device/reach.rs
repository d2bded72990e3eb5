//! Work on whichever device a rank has, beside those that run files choose: for checks of a machine, which take the GPU
//! if there is one.

use tisserand_collectives::{Axes, Mesh, Progress, Workspace};
use tisserand_kernels::{Context, Device};
use tisserand_runtime::Result;
use tisserand_runtime::engine::Engine;
use tisserand_runtime::opener::Opener;
use tisserand_runtime::run::GpuRow;
use tisserand_runtime::step::Executor;
use tisserand_runtime::train::DeviceChoice;

use super::link::Linked;
use super::{Link, Place, cpu};

/// A rank's device, and the others.
pub struct Reached<D: Device> {
    /// The device.
    pub device: D,
    /// What logs call it.
    pub description: String,
    /// The others, along the axes of a mesh without tensor parallelism.
    pub axes: Axes<D>,
    /// What those take from the arena.
    pub workspace: Workspace,
    /// To be called once all ranks have called the same in the same order.
    pub trust: Box<dyn FnOnce() + Send>,
    /// Which GPU it is, if it is one.
    pub gpu: Option<GpuRow>,
    /// Place among the ranks of its machine.
    pub local_rank: usize,
    /// How the ranks of its machine open what all of them read.
    pub opener: Opener,
    /// Where the rank notes what it does.
    pub progress: Progress,
}

impl<D: Device> Reached<D> {
    /// For a training on the mesh that the axes are of.
    pub fn into_choice(self) -> DeviceChoice {
        let Reached { device, description, gpu, axes, workspace, trust, local_rank, opener, progress } = self;
        let caps = device.caps();
        let make = Box::new(move |model, step, arena_bytes| {
            let ctx = Context::new(device, arena_bytes)?;
            Ok(Box::new(Executor::new(ctx, model, step, axes, progress)?) as Box<dyn Engine>)
        });
        DeviceChoice { caps, description, local_rank, opener, gpu, workspace, make, after_first_step: trust }
    }
}

/// Work that any device does.
pub trait OnDevice {
    /// What comes of it.
    type Output;

    /// Does it.
    ///
    /// # Errors
    /// Its own.
    fn run<D: Device>(self, reached: Reached<D>) -> Result<Self::Output>;
}

/// What a GPU is.
#[derive(Clone, Debug)]
pub struct GpuFacts {
    /// The vendor's name.
    pub name: String,
    /// The newest CUDA that the driver is for.
    pub driver: String,
    /// All of its memory.
    pub memory_bytes: usize,
    /// What nobody uses.
    pub free_bytes: usize,
}

/// A rank's GPU.
pub struct OpenGpu {
    #[cfg(feature = "cuda")]
    device: super::gpu::Gpu,
    #[cfg(feature = "cuda")]
    description: String,
    #[cfg(feature = "cuda")]
    row: Option<GpuRow>,
    facts: GpuFacts,
}

impl OpenGpu {
    /// What it is.
    pub fn facts(&self) -> &GpuFacts {
        &self.facts
    }
}

/// Opens the GPU of a rank; `None` in a build without CUDA.
#[cfg(feature = "cuda")]
pub fn open_gpu(place: &Place) -> Option<Result<OpenGpu>> {
    let open = || {
        let (device, description, row) = super::gpu::open(place)?;
        let gpu = device.driver().gpu();
        let facts = GpuFacts {
            name: gpu.name.clone(),
            driver: format!("for CUDA {}", tisserand_kernels::cuda::driver::cudarc::driver_cuda_version()?),
            memory_bytes: gpu.memory_bytes,
            free_bytes: device.driver().free_bytes()?,
        };
        Ok(OpenGpu { device, description, row, facts })
    };
    Some(open())
}

/// Opens the GPU of a rank; `None` in a build without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn open_gpu(_: &Place) -> Option<Result<OpenGpu>> {
    None
}

/// Why ranks with this link and kind of device do not reach each other in this build; `None` if they do.
pub fn unreachable(link: &Link, is_gpu: bool) -> Option<&'static str> {
    match (link, is_gpu) {
        #[cfg(all(feature = "processes", not(feature = "nccl")))]
        (Link::Processes(_), true) => {
            Some("this program was built without NCCL; hint: cargo build --release --features nccl")
        }
        #[cfg(all(feature = "processes", not(feature = "mpi")))]
        (Link::Processes(_), false) => {
            Some("these ranks have no GPU, and this program was built without MPI; hint: --features mpi")
        }
        _ => None,
    }
}

/// Version and place of the NCCL that [`reach`] loads.
#[cfg(feature = "nccl")]
pub fn nccl_version() -> Option<String> {
    use tisserand_collectives::nccl::{Library, Search};
    let home = crate::env::variable("NCCL_HOME").map(Into::into);
    Library::load(&Search { home, ..Search::default() }).ok().map(|library| library.describe())
}

/// Does `work` on `gpu`, or else on the CPU, with communicators along the axes of `mesh`, which has no tensor
/// parallelism.
///
/// # Errors
/// Those of the device, of the communicators and of the work.
pub fn reach<W: OnDevice>(place: Place, gpu: Option<OpenGpu>, mesh: Mesh, work: W) -> Result<W::Output> {
    #[cfg(feature = "cuda")]
    if let Some(OpenGpu { device, description, row, .. }) = gpu {
        return on(device, description, row, place, mesh, work);
    }
    // In a build without CUDA nobody can have made one.
    drop(gpu);
    let device = cpu(0, &place)?;
    let description = format!("{} CPU threads", device.num_threads());
    on(device, description, None, place, mesh, work)
}

fn on<D: Linked, W: OnDevice>(
    device: D,
    description: String,
    gpu: Option<GpuRow>,
    place: Place,
    mesh: Mesh,
    work: W,
) -> Result<W::Output> {
    let Place { local_rank, opener, link, progress, .. } = place;
    let (workspace, trust) = (D::workspace(&link), link.trust());
    let axes = device.axes(link, mesh, 1, &progress)?;
    work.run(Reached { device, description, gpu, axes, workspace, trust, local_rank, opener, progress })
}
