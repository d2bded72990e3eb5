//! The GPU of a rank: real in a build with the feature `cuda`; in one with `emulator` alone, the emulator, which says so.

use tisserand_kernels::Cuda;
use tisserand_kernels::cuda::driver::emulated::{Completion, Emulated, Schedule, Settings};
use tisserand_runtime::Result;

/// The device.
pub(super) type Gpu = Cuda<Emulated>;

/// The GPU of the rank `local_rank` of its machine, and what the log calls it.
///
/// # Errors
/// There is none, or its driver is too old.
pub(super) fn open(_local_rank: usize) -> Result<(Gpu, String)> {
    // As far behind the host as a GPU can be: a missing wait shows.
    let settings =
        Settings { schedule: Schedule::RoundRobin, completion: Completion::Late, ..Settings::default() };
    Ok((Cuda::new(Emulated::new(settings)), "CUDA kernels, emulated".to_owned()))
}
