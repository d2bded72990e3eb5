//! The CUDA device against the CPU device and the references: on the emulator (feature `emulator`), or on the
//! GPU of this machine (feature `cuda` alone), where a missing GPU is a failure. Without either feature there
//! is no test here.

#![cfg(any(feature = "cuda", feature = "emulator"))]

mod support;

mod adamw;
mod cross_entropy;
mod embedding;
mod grad_norm;
mod philox;
mod step_scalars;
mod attention;
mod combine;
mod elementwise;
mod gemm;
#[cfg(feature = "emulator")]
mod mistakes;
mod rms_norm;
mod rope;
mod streams;
mod sums;
mod swiglu;
