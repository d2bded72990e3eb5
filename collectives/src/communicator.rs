//! The trait of communicators: collectives along one mesh axis, in place on blocks of device memory.
//!
//! A collective takes its block and gives it back when it has ended: what is in flight can be neither read
//! nor written nor freed, and the borrow checker says so. A collective on a part of a block splits it first
//! ([`Block::split_off`], [`Block::append`]).
//!
//! Every rank of a communicator makes the same calls in the same order, on blocks of the same length and
//! dtype. Ranks that do not are told so by name ([`CommError::Mismatch`]) and do not hang. Who has several
//! communicators begins and ends their calls in one order on all ranks, as ranks that run one program do: over NCCL a
//! call may stand behind an earlier one of another communicator, until all ranks of that one have begun it.
//!
//! Whatever memory a collective needs besides its block is taken from the arena by `start` and returned by
//! `wait`, on the caller's thread: the offsets of an arena are functions of the schedule, never of timing.

use tisserand_kernels::{Block, DType, Device, KernelError};

use crate::{Audit, Collective, Failure, Pending};

/// How elements of several ranks are combined. Floating-point sums are in f32, whatever the storage, in the
/// fixed order of [`tisserand_kernels::ops::elementwise::combine`]: a tree over the ranks. (Between GPUs that is a choice: see
/// [`nccl::Sums`](crate::nccl::Sums).)
pub use tisserand_kernels::ops::elementwise::Combine as ReduceOp;

/// One collective, without its block. With `n` ranks and a block of `len` elements, *slice* i is the
/// elements `[i · len / n, (i + 1) · len / n)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// Every rank's block becomes the reduction of all. Any length.
    AllReduce(ReduceOp),
    /// Slice `rank` of the block becomes the reduction of that slice of all; the others are undefined. `n`
    /// divides `len`.
    ReduceScatter(ReduceOp),
    /// Slice `rank` is this rank's; afterwards every slice is there. `n` divides `len`.
    AllGather,
    /// The first half of the block is what is sent, the second receives: its slice i becomes slice `rank` of
    /// the first half of rank i. `2 n` divides `len`.
    AllToAll,
    /// The block becomes that of this rank.
    Broadcast {
        /// Whose block it is.
        root: usize,
    },
    /// The block goes to another rank. Ends when that rank has received it; calls begun later do not wait
    /// for it.
    Send {
        /// The receiver, another rank.
        to: usize,
    },
    /// The block becomes what another rank sends, in the order of its sends to this one.
    Recv {
        /// The sender, another rank.
        from: usize,
    },
}

impl Call {
    /// The kind for audits and messages.
    pub fn kind(&self) -> Collective {
        match self {
            Call::AllReduce(_) => Collective::AllReduce,
            Call::ReduceScatter(_) => Collective::ReduceScatter,
            Call::AllGather => Collective::AllGather,
            Call::AllToAll => Collective::AllToAll,
            Call::Broadcast { .. } => Collective::Broadcast,
            Call::Send { .. } => Collective::Send,
            Call::Recv { .. } => Collective::Recv,
        }
    }

    /// Bytes of the full tensor: what the audit counts. Of an all-to-all only the half that is sent.
    pub fn payload_bytes(&self, len: usize, dtype: DType) -> usize {
        let elements = if matches!(self, Call::AllToAll) { len / 2 } else { len };
        elements * dtype.size_bytes()
    }

    /// Checks length and ranks: the only place where they are checked, for every communicator.
    ///
    /// # Errors
    /// A length that the ranks do not divide, a rank that is not there.
    pub fn check(&self, rank: usize, size: usize, len: usize) -> Result<(), CommError> {
        let parts = match self {
            Call::ReduceScatter(_) | Call::AllGather => size,
            Call::AllToAll => 2 * size,
            _ => 1,
        };
        let collective = self.kind().name();
        if !len.is_multiple_of(parts) {
            return Err(CommError::Indivisible { collective, len, parts });
        }
        match *self {
            Call::Broadcast { root: peer } if peer >= size => {
                Err(CommError::NoSuchRank { collective, peer, size })
            }
            Call::Send { to: peer } | Call::Recv { from: peer } if peer >= size || peer == rank => {
                Err(CommError::NoSuchRank { collective, peer, size })
            }
            _ => Ok(()),
        }
    }
}

/// A collective that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommError {
    /// A length does not divide by the number of ranks.
    #[error("{collective} of {len} elements: the length must be a multiple of {parts}")]
    Indivisible {
        /// The collective.
        collective: &'static str,
        /// Elements of the block.
        len: usize,
        /// What must divide it.
        parts: usize,
    },
    /// A root or a peer is no rank, or this rank itself.
    #[error("{collective} with rank {peer} of {size}")]
    NoSuchRank {
        /// The collective.
        collective: &'static str,
        /// The rank that was named.
        peer: usize,
        /// Ranks of the communicator.
        size: usize,
    },
    /// Ranks called different things.
    #[error("{0}")]
    Mismatch(String),
    /// A rank did not call in time, has died, or the communicator was ended.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The device failed underneath.
    #[error("{0}")]
    Kernel(String),
}

impl From<KernelError> for CommError {
    fn from(error: KernelError) -> Self {
        CommError::Kernel(error.to_string())
    }
}

/// Ranks along one axis of the mesh. Calls are coarse (whole flat groups), hence the trait is object-safe.
pub trait Communicator<D: Device>: Send {
    /// This rank's place on the axis.
    fn rank(&self) -> usize;

    /// Ranks on the axis.
    fn size(&self) -> usize;

    /// Begins `call` on all of `block`, behind all work that this rank's compute queue holds so far, and
    /// returns at once.
    ///
    /// # Errors
    /// A call that [`Call::check`] refuses; a communicator that has failed.
    fn start(&mut self, call: Call, block: Block<D>) -> Result<Pending<D>, CommError>;

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    fn barrier(&mut self) -> Result<(), CommError>;

    /// A communicator of the ranks that give the same `color`, in the order of `key`, then of rank here.
    /// Every rank calls it. `axis` names the new one in messages.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    fn split(&mut self, axis: &str, color: usize, key: usize) -> Result<Box<dyn Communicator<D>>, CommError>;

    /// Calls and bytes so far.
    fn audit(&self) -> Audit;

    /// Ends every call of every rank, under way or to come, with this failure.
    fn abort(&mut self, failure: Failure);

    /// `call` from start to end.
    ///
    /// # Errors
    /// As [`Communicator::start`] and [`Pending::wait`].
    fn run(&mut self, call: Call, block: Block<D>) -> Result<Block<D>, CommError> {
        self.start(call, block)?.wait()
    }
}
