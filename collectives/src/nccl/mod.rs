//! Ranks that are processes with a GPU each, over NCCL. The host never waits for the GPU.
//!
//! - `communicator`: `Nccl`, what callers see; `process`: what the communicators of a rank share, and the thread that
//!   watches over them; `order`: the one thread that speaks to NCCL; `calls`: the calls of one communicator from their
//!   start to their end; `check`: what ranks tell each other of them; `split`: how ranks of a part find each other.
//! - `plan`: what NCCL does of a call and what we do; `sums`: [`Sums`], and the workspace that we take for them.
//! - `fabric`: what a communicator needs of whatever moves the bytes. `library` (feature `nccl`): NCCL itself, found
//!   at run time. In tests, `in_memory`: threads that stand for it on any machine.
//!
//! **Streams.** A communicator has a stream of its own, which begins a call when the rank's compute stream has come to
//! the place of its start; [`Pending::wait`](crate::Pending::wait) lets the compute stream go on behind the call.
//! Blocks belong to the compute stream before and after.
//!
//! **Order.** Calls of several communicators deadlock if ranks make them in different orders, or if their kernels start
//! in different orders on GPUs without room for all of them ("Using multiple NCCL communicators concurrently" in NCCL's
//! manual). So all that a rank asks of NCCL goes through one queue, in the order in which the rank's program asks, and
//! one thread; `start` does not wait for it. All ranks run one program, and so have one order, whether calls are
//! checked or not. On the GPU NCCL itself starts its kernels in that order if it can (2.26 or newer) and is told to
//! (`NCCL_LAUNCH_ORDER_IMPLICIT=1`): then those of several communicators overlap. Else a call begins on its stream when
//! the one before it, of whichever communicator, has ended. All streams of communicators have one priority: a later
//! kernel of a higher one could pass an earlier one.
//!
//! **Sums.** With [`Sums::Tree`] floating-point reductions have the bits of every other communicator: NCCL only moves
//! elements (sends and receives in one group, the bytes of a reduce-scatter) and
//! [`combine`](tisserand_kernels::ops::elementwise::combine) adds them. With [`Sums::Library`] sums of f32 are NCCL's
//! own, in an order that depends on network and version. Sums of bf16 are never NCCL's, which rounds to bf16 at every
//! hop; ours add in f32 and round once. Nor are maxima of floats: NCCL's lose NaN. Integers are always NCCL's.
//!
//! **Checked calls.** At first, until `Handle::set_checked`, ranks tell each other over the control plane what they
//! call, and NCCL gets a call only when all agree: it would hang, or write where it must not. The thread of the order
//! waits for the others, so what stands behind such a call waits too. Ranks that have different orders are late to each
//! other then, which ends the run after the timeout by name.
//!
//! **Messages.** A send takes its place in the order by its own `wait`, or together with the next `Recv` of this rank.
//! Ranks that receive as often as they send may so begin with either. NCCL runs what one communicator gets in order: a
//! receive whose message waits for a later call of this rank does not end, and is a failure after the timeout.
//!
//! **When a rank dies**, the control plane tells; then every NCCL communicator is aborted, which ends its kernels, so
//! that no stream waits any more. NCCL's own errors are asked for by the thread that watches, which also finds calls
//! that have not ended in time. Communicators do not block, else they could not be aborted while NCCL is busy with
//! them; for that NCCL takes a thread for each call, some ten microseconds of the time of the thread of the order. One
//! that has not returned there is waited for before anything else is asked, of any communicator.
//!
//! **At the end** ranks end their communicators one after the other, in one order too: NCCL waits for the other ranks
//! of the node. One that panics or has failed aborts its own.
//!
//! Every communicator takes memory of the GPU beside the arena, some hundred MiB with many peers. Hence the one of all
//! ranks moves nothing: it is there to be split; and one rank alone has none.

#[cfg(any(feature = "nccl", test))]
mod calls;
#[cfg(any(feature = "nccl", test))]
mod check;
#[cfg(any(feature = "nccl", test))]
mod communicator;
#[cfg(any(feature = "nccl", test))]
mod fabric;
#[cfg(test)]
mod in_memory;
#[cfg(feature = "nccl")]
mod library;
#[cfg(any(feature = "nccl", test))]
mod order;
#[cfg(any(feature = "nccl", test))]
mod plan;
#[cfg(any(feature = "nccl", test))]
mod process;
#[cfg(any(feature = "nccl", test))]
mod split;
mod sums;
#[cfg(test)]
mod tests;

#[cfg(any(feature = "nccl", test))]
pub use communicator::Nccl;
#[cfg(feature = "nccl")]
pub use library::{Library, LibraryError, Search};
#[cfg(any(feature = "nccl", test))]
pub use process::Handle;
pub use sums::{Sums, workspace_elements};
