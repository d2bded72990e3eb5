//! Builds the kernels: feature `emulator`, for the host; feature `cuda`, for GPUs.

#[cfg(feature = "emulator")]
#[path = "build/emulator.rs"]
mod emulator;
#[cfg(feature = "cuda")]
#[path = "build/nvrtc/mod.rs"]
mod nvrtc;
#[cfg(feature = "emulator")]
#[path = "build/sources.rs"]
mod sources;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    // Set where the emulator is instrumented for AddressSanitizer.
    println!("cargo:rustc-check-cfg=cfg(tisserand_asan)");
    #[cfg(feature = "emulator")]
    emulator::build();
    #[cfg(feature = "cuda")]
    nvrtc::build();
}
