//! The GPU of a rank: real in a build with the feature `cuda`; in one with `emulator` alone, the emulator, which says so.

use tisserand_kernels::Cuda;
#[cfg(feature = "cuda")]
use tisserand_kernels::cuda::driver::cudarc::Cudarc;
#[cfg(not(feature = "cuda"))]
use tisserand_kernels::cuda::driver::emulated::{Completion, Emulated, Settings};
use tisserand_runtime::Result;

#[cfg(feature = "cuda")]
use super::Link;
use super::Place;

/// The device.
#[cfg(feature = "cuda")]
pub(super) type Gpu = Cuda<Cudarc>;
/// The device.
#[cfg(not(feature = "cuda"))]
pub(super) type Gpu = Cuda<Emulated>;

/// The GPU of a rank, and what the log calls it. Ranks that are threads share the first one of the machine, since they
/// copy from each other's memory; processes have one each, by their number on the machine.
///
/// # Errors
/// There is none, or its driver is too old.
#[cfg(feature = "cuda")]
pub(super) fn open(place: &Place) -> Result<(Gpu, String)> {
    let number = match place.link {
        Link::Alone | Link::Threads(_) => 0,
        #[cfg(feature = "processes")]
        Link::Processes(_) => place.local_rank,
    };
    let driver = Cudarc::open(number)?;
    let description = format!("GPU {number}: {}", driver.gpu().name);
    Ok((Cuda::new(driver), description))
}

/// As above, emulated.
#[cfg(not(feature = "cuda"))]
pub(super) fn open(_: &Place) -> Result<(Gpu, String)> {
    // As far behind the host as a GPU can be: a missing wait shows.
    let settings = Settings { completion: Completion::Late, ..Settings::default() };
    Ok((Cuda::new(Emulated::new(settings)), "CUDA kernels, emulated".to_owned()))
}
