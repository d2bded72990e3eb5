//! Ranks that are processes of an MPI job, for devices whose memory is the host's.
//!
//! - `communicator`: `Mpi`, what callers see; `Handle`, for those who watch over them.
//! - `thread`: the one thread that calls MPI, for all communicators of the process. MPI_THREAD_FUNNELED is
//!   enough. It looks after the jobs of every communicator in turn and never blocks in MPI, so a collective
//!   that waits for a late rank holds up no other axis, and a failure or a timeout is noticed.
//! - `orders`, `job`: what is asked of it. `running`: the steps of one call, whose messages are those of
//!   `messages.rs`; `arithmetic`: what is done with what has arrived.
//! - `exchange`: messages under way; `memory`: where they lie; `ffi`: the calls of MPI.
//!
//! **MPI only moves bytes.** Every call is made of messages from one rank to another (`MPI_Isend`,
//! `MPI_Issend`, `MPI_Irecv`), and reductions are [`combine`](tisserand_kernels::ops::elementwise::combine) on
//! the host, so that their bits are those of every other communicator, whatever library and network. For long
//! vectors MPI's own all-gather and all-to-all move the same bytes in as many messages. Our own messages go
//! straight into place, need no workspace where nothing is combined, may exceed 2^31 bytes (a message is cut
//! into pieces of at most 1 GiB), and show which rank is late. What is lost are the logarithmic algorithms for
//! short vectors: a call costs `n − 1` messages a rank, about a millisecond for a thousand ranks; at most 32
//! are under way in each direction. Calls are coarse, and small agreements go over the control plane.
//!
//! | call | messages of a rank | [`workspace_elements`] |
//! |---|---|---|
//! | reduce_scatter | slice j to rank j | `(n − 1) · len / n` |
//! | all_reduce | reduce_scatter of uneven slices, then all_gather | `(n − 1) · ⌈len / n⌉` |
//! | all_gather | its slice to every rank | 0 |
//! | all_to_all | slice j of the first half to rank j | 0 |
//! | broadcast | the root sends slice j to rank j, then all_gather | 0 |
//! | send, recv | the block | 0 |
//! | barrier | a header to every rank | 0 |
//!
//! **Checked calls**: ranks first tell each other kind, length and dtype, 32 bytes a pair. Those who differ are
//! told so by name, and nothing is moved. `Handle::set_checked` turns this off; lengths of messages are
//! compared in any case.
//!
//! **When something fails**, blocks and workspace of messages under way are leaked, since MPI goes on writing
//! to them: the process is about to end, and does so without MPI_Finalize, which would wait for its peers.

#[cfg(feature = "mpi")]
mod arithmetic;
#[cfg(feature = "mpi")]
mod communicator;
#[cfg(feature = "mpi")]
mod exchange;
#[cfg(feature = "mpi")]
mod ffi;
#[cfg(feature = "mpi")]
mod job;
#[cfg(feature = "mpi")]
mod memory;
#[cfg(feature = "mpi")]
mod orders;
#[cfg(feature = "mpi")]
mod running;
#[cfg(feature = "mpi")]
mod thread;

#[cfg(feature = "mpi")]
pub use communicator::{Handle, Mpi};
#[cfg(feature = "mpi")]
pub use ffi::library;

use crate::Call;

/// What the library calls itself, in one line: name and version. May be asked for at any time.
#[cfg(feature = "mpi")]
pub fn library_version() -> Option<String> {
    let text = mpi::environment::library_version().ok()?;
    Some(text.trim_end_matches('\0').lines().next().unwrap_or_default().trim().to_owned())
}

/// Elements of the block of [`Class::Communication`](tisserand_kernels::Class::Communication) that `start`
/// takes, of the dtype of the call's block, and `wait` gives back: the slices of the other ranks that are
/// reduced. The same at every rank, and known without MPI, so that a dry run takes it too.
pub fn workspace_elements(call: Call, size: usize, len: usize) -> usize {
    match call {
        Call::AllReduce(_) | Call::ReduceScatter(_) => (size - 1) * len.div_ceil(size),
        _ => 0,
    }
}
