//! The first GPU of this machine.

use std::io::Write;
use std::sync::OnceLock;

use tisserand_kernels::cuda::driver::Driver;
use tisserand_kernels::cuda::driver::cudarc::Cudarc;
use tisserand_kernels::cuda::modules::INSTRUCTIONS;
use tisserand_kernels::{Context, Cuda};

use super::CAPACITY_BYTES;

/// The device under test.
pub(crate) type Dev = Cuda<Cudarc>;

/// Opened once: every test has a stream of its own on it.
static GPU: OnceLock<Cudarc> = OnceLock::new();

/// The GPU. Without one the whole program ends, with one line instead of one failure for each test.
fn open() -> Cudarc {
    Cudarc::open_with(0, INSTRUCTIONS).unwrap_or_else(|error| {
        // Not by eprintln!, which the harness keeps for itself.
        let _nobody_to_tell = writeln!(std::io::stderr(), "{error}");
        std::process::exit(1)
    })
}

/// Runs `body` once; the emulator has the settings that a result must not depend on.
///
/// # Panics
/// Where `body` does. Without a GPU the program ends.
pub(crate) fn for_each_setting(body: impl Fn(&Context<Dev>)) {
    let gpu = GPU.get_or_init(open);
    let stream = gpu.fork().unwrap_or_else(|e| panic!("{e}"));
    body(&Context::new(Cuda::new(stream), CAPACITY_BYTES).unwrap_or_else(|e| panic!("{e}")));
}

/// As [`for_each_setting`].
///
/// # Panics
/// As [`for_each_setting`].
pub(crate) fn in_one_setting(body: impl Fn(&Context<Dev>)) {
    for_each_setting(body);
}

/// Does nothing: the warps of this GPU have 32 threads.
pub(crate) fn with_warps_of_64(_body: impl Fn(&Context<Dev>)) {}

/// Does nothing: a GPU does not count its accesses by itself.
pub(crate) fn assert_coalesced(_what: &str, _ratio: f64, _run: impl FnOnce(&Context<Dev>)) {}
