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

pub mod adamw;
pub mod cross_entropy;
pub mod elementwise;
pub mod embedding;
pub mod gemm;
pub mod grad_norm;
pub mod philox;
pub mod rms_norm;
pub mod step_scalars;

pub use adamw::AdamwKernels;
pub use cross_entropy::CrossEntropyKernels;
pub use elementwise::ElementwiseKernels;
pub use embedding::EmbeddingKernels;
pub use gemm::GemmKernels;
pub use grad_norm::GradNormKernels;
pub use philox::PhiloxKernels;
pub use rms_norm::RmsNormKernels;
pub use step_scalars::StepScalarsKernels;
pub mod attention;
pub mod rope;
pub mod swiglu;

pub use attention::AttentionKernels;
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

/// Rows that share one partial sum in sums over rows (gradients of norm weights and biases): enough work
/// per thread, few enough partials to add.
pub const ROWS_PER_PARTIAL: usize = 64;

/// Number of partial sums of a sum over `rows` rows: a function of the shape only, so that bits are too.
pub fn partial_rows(rows: usize) -> usize {
    rows.div_ceil(ROWS_PER_PARTIAL)
}

#[cfg(test)]
pub(crate) use crate::testing::check_gradient;
