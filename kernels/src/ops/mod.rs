//! One file per op family: the public function that checks shapes and dtypes (the only place where they
//! are checked, for every device), the trait that devices implement behind it, the op's cost, its
//! workspace, and its plain f64 reference.
//!
//! # How to add an op family
//! 1. `ops/<family>.rs`: shape struct, trait `<Family>Kernels`, public functions, `reference`.
//! 2. `cpu/<family>.rs`: the trait for [`Cpu`](crate::Cpu).
//! 3. `dry_run/mod.rs`: the trait for [`DryRun`](crate::DryRun), which does nothing.
//! 4. `device.rs`: the trait in the list of [`Device`](crate::Device).
//! 5. `tests/<family>.rs`: differences against the reference, odd sizes, thread counts, refusals.

pub mod attention;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

pub use attention::AttentionKernels;
pub use rms_norm::RmsNormKernels;
pub use rope::RopeKernels;
pub use swiglu::SwigluKernels;

/// Whether an op overwrites its output or adds to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write {
    /// `out = value`
    Replace,
    /// `out += value`
    Add,
}

/// Elements per chunk of every fixed-order reduction: a function of shape only, so that no sum depends on
/// threads, ranks or memory.
pub const CHUNK: usize = 1024;

#[cfg(test)]
pub(crate) use crate::testing::check_gradient;
