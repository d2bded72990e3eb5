//! Builds the kernels: feature `emulator`, for the host; feature `cuda`, for GPUs.

#[cfg(feature = "emulator")]
#[path = "build/emulator.rs"]
mod emulator;
#[cfg(feature = "cuda")]
#[path = "build/nvrtc/mod.rs"]
mod nvrtc;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    #[cfg(feature = "emulator")]
    emulator::build();
    #[cfg(feature = "cuda")]
    nvrtc::build();
}
