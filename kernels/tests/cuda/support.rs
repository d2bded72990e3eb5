//! What the tests of all families share: the device, and the settings that a body must hold for.

#[cfg(feature = "emulator")]
mod emulated;
#[cfg(not(feature = "emulator"))]
mod gpu;

use tisserand_kernels::{Context, Cpu, DType};

#[cfg(feature = "emulator")]
pub(crate) use emulated::settings;
#[cfg(feature = "emulator")]
pub(crate) use emulated::{
    Dev, assert_coalesced, context, counting, for_each_setting, in_one_setting, with_warps_of_64,
};
#[cfg(not(feature = "emulator"))]
pub(crate) use gpu::{Dev, assert_coalesced, for_each_setting, in_one_setting, with_warps_of_64};

/// The types of floating-point tensors.
pub(crate) const FLOATS: [DType; 2] = [DType::F32, DType::Bf16];

/// Arena of a test. Emulated memory costs time by the byte, so it is small.
const CAPACITY_BYTES: usize = 16 << 20;

/// The CPU device, to compare with.
///
/// # Panics
/// If there is no memory for it.
pub(crate) fn cpu() -> Context<Cpu> {
    Context::new(Cpu::new(1).expect("CPU device"), CAPACITY_BYTES).expect("arena")
}
