//! Tensor operations of Tisserand.
//!
//! - [`ops`]: the public, shape-checked function of every operation, its FLOPs and bytes, its workspace
//!   and its plain f64 reference. Start here.
//! - [`cpu`]: the device that computes on the host; [`dry_run`]: the device that only counts; `cuda` (features
//!   `cuda`, `emulator`): the device that runs the kernels of `kernels/cuda`, on a GPU or emulated on the host.
//! - [`arena`]: all device memory. Kernels never allocate; an op takes its workspace from the arena.
//! - [`tensor`]: borrowed views (`TensorRef`, `TensorMut`) of arena blocks.
//!
//! This crate knows nothing of meshes, models or training.

pub mod arena;
pub mod cost;
pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub mod cuda;
pub mod device;
pub mod dry_run;
pub mod dtype;
pub mod error;
pub mod math;
pub mod ops;
pub mod shape;
pub mod tensor;
pub mod testing;

pub use arena::{Arena, Block, Class};
pub use cost::Cost;
pub use cpu::Cpu;
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub use cuda::Cuda;
pub use device::{Context, Device, Storage};
pub use dry_run::DryRun;
pub use dtype::{DType, Element, Float};
pub use error::{KernelError, Result};
pub use shape::Shape;
pub use tensor::{TensorMut, TensorRef};
