//! The trait of communicators: collectives along one mesh axis, in place on ranges of device memory.

use tisserand_kernels::{KernelError, Storage, TensorMut};

use crate::Audit;

/// How elements of several ranks are combined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReduceOp {
    /// Their sum, in rank order.
    Sum,
    /// Their maximum; NaN if any is NaN.
    Max,
}

/// A collective that failed.
#[derive(Debug, thiserror::Error)]
pub enum CommError {
    /// A length does not divide by the number of ranks.
    #[error("{collective} of {len} elements over {size} ranks: the length must be a multiple of the ranks")]
    Indivisible {
        /// The collective.
        collective: &'static str,
        /// Elements of the full tensor.
        len: usize,
        /// Ranks.
        size: usize,
    },
    /// The device failed underneath.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// A collective under way.
#[must_use = "the collective has not completed until `wait` returns"]
#[derive(Debug)]
pub struct Pending(());

impl Pending {
    /// A collective that completed at once.
    pub(crate) fn done() -> Self {
        Pending(())
    }

    /// Returns when the buffers hold the result.
    pub fn wait(self) {}
}

/// Ranks along one axis of the mesh. Calls are coarse (whole flat groups), hence the trait is object-safe.
pub trait Communicator<D: Storage>: Send {
    /// This rank's place on the axis.
    fn rank(&self) -> usize;

    /// Ranks on the axis.
    fn size(&self) -> usize;

    /// Replaces `tensor` by the reduction over all ranks.
    fn all_reduce(&mut self, tensor: TensorMut<'_, D>, op: ReduceOp) -> Result<Pending, CommError>;

    /// Reduces `tensor` over all ranks; slice `rank` of it holds the result, the others are undefined.
    fn reduce_scatter(&mut self, tensor: TensorMut<'_, D>, op: ReduceOp) -> Result<Pending, CommError>;

    /// Slice `rank` of `tensor` is this rank's; afterwards every slice is there.
    fn all_gather(&mut self, tensor: TensorMut<'_, D>) -> Result<Pending, CommError>;

    /// Replaces `tensor` by that of rank `root`.
    fn broadcast(&mut self, tensor: TensorMut<'_, D>, root: usize) -> Result<Pending, CommError>;

    /// Returns when every rank has called it.
    fn barrier(&mut self) -> Result<(), CommError>;

    /// Calls and bytes so far.
    fn audit(&self) -> &Audit;
}
