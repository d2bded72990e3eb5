//! What can go wrong below the model: shapes, dtypes, memory.

use crate::{DType, Shape};

/// Result of everything in this crate.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

/// An error of an op, an arena or a device.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A tensor has another shape than the op needs.
    #[error("{op}: `{argument}` has shape {got:?}, expected {expected}")]
    Shape {
        /// The op.
        op: &'static str,
        /// Name of its argument.
        argument: &'static str,
        /// The shape passed.
        got: Shape,
        /// The shape needed, in words or extents.
        expected: String,
    },
    /// A tensor has an element type that the op does not take.
    #[error("{op}: `{argument}` has dtype {got}, expected {expected}")]
    DType {
        /// The op.
        op: &'static str,
        /// Name of its argument.
        argument: &'static str,
        /// The dtype passed.
        got: DType,
        /// The dtypes that would do.
        expected: &'static str,
    },
    /// A parameter of an op is out of its range.
    #[error("{op}: {message}")]
    Parameter {
        /// The op.
        op: &'static str,
        /// Which parameter, its value, what is allowed.
        message: String,
    },
    /// The arena is full. Its size comes from a dry run of the same step, so this is a defect of ours.
    #[error(
        "the arena of {capacity_bytes} bytes is full: {requested_bytes} more bytes of {class} do not fit; \
         the dry run that sized it took another path than the run (please report this)"
    )]
    ArenaFull {
        /// Size of the arena.
        capacity_bytes: usize,
        /// Size of the block asked for.
        requested_bytes: usize,
        /// What it was for.
        class: &'static str,
    },
    /// The device cannot provide the memory.
    #[error(
        "the {device} device cannot allocate {bytes} bytes; hint: lower training.micro_batch or turn on recompute"
    )]
    OutOfMemory {
        /// Name of the device.
        device: &'static str,
        /// Bytes asked for.
        bytes: usize,
    },
    /// The device could not be set up, or failed; or work that it refuses.
    #[error("{0}")]
    Device(String),
}
