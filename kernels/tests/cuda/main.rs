//! The CUDA device against the CPU device and the references: on the emulator (feature `emulator`), or on the
//! GPU of this machine (feature `cuda` alone), where a missing GPU is a failure. Without either feature there
//! is no test here.

#![cfg(any(feature = "cuda", feature = "emulator"))]

mod support;

mod adamw;
mod attention;
mod combine;
mod cross_entropy;
mod elementwise;
mod embedding;
#[cfg(feature = "emulator")]
mod emulator;
#[cfg(feature = "emulator")]
mod far;
mod gemm;
mod grad_norm;
mod graphs;
mod instructions;
#[cfg(feature = "emulator")]
mod mistakes;
mod moments;
mod philox;
mod rms_norm;
mod rope;
mod step_scalars;
mod streams;
mod sums;
mod swiglu;
