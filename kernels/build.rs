//! Builds the kernels: feature `emulator`, for the host; feature `cuda`, for GPUs.

#[cfg(feature = "emulator")]
#[path = "build/emulator.rs"]
mod emulator;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    #[cfg(feature = "emulator")]
    emulator::build();
}
