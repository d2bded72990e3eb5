//! The GPU of a rank: real in a build with the feature `cuda`; in one with `emulator` alone, the emulator, which says so.

use tisserand_kernels::Cuda;
#[cfg(feature = "cuda")]
use tisserand_kernels::cuda::driver::cudarc::Cudarc;
#[cfg(all(feature = "cuda", feature = "processes"))]
use tisserand_kernels::cuda::driver::cudarc::probe;
#[cfg(not(feature = "cuda"))]
use tisserand_kernels::cuda::driver::emulated::{Completion, Emulated, Settings};
use tisserand_runtime::Result;
use tisserand_runtime::run::GpuRow;

#[cfg(feature = "cuda")]
use super::Link;
use super::Place;

/// The device.
#[cfg(feature = "cuda")]
pub(super) type Gpu = Cuda<Cudarc>;
/// The device.
#[cfg(not(feature = "cuda"))]
pub(super) type Gpu = Cuda<Emulated>;

/// The GPU of a rank, what the log calls it, and where it is. Ranks that are threads share the first one of the machine,
/// since they copy from each other's memory. Processes have one each: by their number on the machine, or the only one
/// that they see, where a launcher shows each its own. That no two have the same is for [`crate::placement`] to check.
///
/// # Errors
/// There is none, or its driver is too old.
#[cfg(feature = "cuda")]
pub(super) fn open(place: &Place) -> Result<(Gpu, String, Option<GpuRow>)> {
    let number = match place.link {
        Link::Alone | Link::Threads(_) => 0,
        #[cfg(feature = "processes")]
        Link::Processes(_) if probe()?.len() == 1 => 0,
        #[cfg(feature = "processes")]
        Link::Processes(_) => place.local_rank,
    };
    let driver = Cudarc::open(number)?;
    let row = GpuRow { index: number, name: driver.gpu().name.clone(), bus_id: driver.gpu().bus_id.clone() };
    Ok((Cuda::new(driver), format!("GPU {number}: {}", row.name), Some(row)))
}

/// As above, emulated: no GPU that anybody else could have too.
#[cfg(not(feature = "cuda"))]
pub(super) fn open(_: &Place) -> Result<(Gpu, String, Option<GpuRow>)> {
    // As far behind the host as a GPU can be: a missing wait shows.
    let settings = Settings { completion: Completion::Late, ..Settings::default() };
    Ok((Cuda::new(Emulated::new(settings)), "CUDA kernels, emulated".to_owned(), None))
}
