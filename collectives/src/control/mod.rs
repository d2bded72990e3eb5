//! The control plane: small host-side agreements between all ranks, apart from the devices' traffic.
//!
//! It is there before MPI or NCCL start and outlives their failure. It carries token counts, agreement to
//! stop, votes on checkpoints, what each rank is doing ([`Progress`]), and the news that a rank has died
//! ([`Failure`]), upon which every call on every rank returns that failure and nobody waits any more.
//!
//! - [`ControlPlane`]: what a rank sees of it; a [`Meeting`] is an agreement of some ranks. [`Alone`]: one rank; [`Memory`]: ranks that are threads of one
//!   process; [`Tcp`]: processes, on one machine or many, which meet by a [`Rendezvous`].
//! - `rounds` counts who has called, `hub` tells the ranks what came of it, `inbox` is where a rank waits,
//!   `board` keeps what each rank was doing, [`table()`] says it, `member` is what `Memory` and `Tcp` have in common.

mod alone;
mod board;
pub mod failure;
mod host;
mod hub;
mod inbox;
mod member;
mod memory;
pub mod progress;
mod rounds;
mod table;
mod tcp;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use alone::Alone;
pub use failure::Failure;
pub use host::host_name;
pub use memory::Memory;
pub use progress::{Activity, CollectiveActivity, Progress};
pub use table::{RankReport, exclusion_hint, table};
pub use tcp::{Listener, Rendezvous, Secret, Tcp};

/// A thread that panicked with the lock in its hands must not take the news of its death with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rounds of different channels overtake each other; those of one channel are met by all ranks in the same
/// order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Channel {
    /// Starting up, and agreements at step boundaries.
    Step,
    /// The thread that writes checkpoints.
    Save,
    /// Communicators: what their libraries need to find each other.
    Setup,
    /// Meetings of some ranks ([`ControlPlane::bring`]), which name themselves.
    Calls,
}

/// A meeting of some of the ranks, at which each learns what the others have brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meeting {
    /// What tells it from every other meeting of the run; the same at all members.
    pub number: u64,
    /// Who comes: ranks in ascending order, this one among them.
    pub members: Arc<[usize]>,
}

/// How the words of several ranks become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Combine {
    /// Wrapping sum.
    Sum,
    /// Largest.
    Max,
}

/// What one rank sees of the control plane. Shared by its threads.
pub trait ControlPlane: Send + Sync {
    /// This rank.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world_size(&self) -> usize;

    /// The words of all ranks combined element by element, at every rank.
    ///
    /// # Errors
    /// A failure on any rank; ranks that give different numbers of words are one.
    fn reduce(&self, channel: Channel, combine: Combine, words: &[u64]) -> Result<Vec<u64>, Failure>;

    /// Every rank's bytes in the order of ranks at rank 0, nothing elsewhere. Returns at other ranks once
    /// rank 0 has them all.
    ///
    /// # Errors
    /// A failure on any rank.
    fn gather(&self, channel: Channel, bytes: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>, Failure>;

    /// Rank 0's bytes, at every rank; what others pass is not looked at.
    ///
    /// # Errors
    /// A failure on any rank.
    fn broadcast(&self, channel: Channel, bytes: Vec<u8>) -> Result<Vec<u8>, Failure>;

    /// Brings this rank's bytes to a meeting, and returns at once. Once for each meeting.
    fn bring(&self, meeting: &Meeting, bytes: Vec<u8>);

    /// What every member has brought to a meeting, in the order of members; parks until all have. Once for each
    /// meeting, after [`ControlPlane::bring`]. `subject` is what the meeting is for, in messages.
    ///
    /// # Errors
    /// A failure on any rank. That of a member who does not come within `patience`.
    fn brought(&self, meeting: &Meeting, subject: &str, patience: Duration) -> Result<Vec<Vec<u8>>, Failure>;

    /// Where this rank notes what it is doing.
    fn progress(&self) -> &Progress;

    /// Tells all ranks that this one cannot go on. The first failure counts; later ones are its echo.
    fn fail(&self, failure: Failure);

    /// The failure that ended the run, if one did.
    fn failure(&self) -> Option<Failure>;

    /// Calls `hook` once when a failure is known, at once if it is known already: communicators wake their
    /// waiting threads.
    fn on_failure(&self, hook: Box<dyn FnOnce(&Failure) + Send>);

    /// After a failure: what each rank was doing last, if it falls to this rank to say so. Exactly one
    /// surviving rank gets an answer, once. May wait half a second for what others have to say.
    fn report(&self) -> Option<Vec<RankReport>>;

    /// The sum of every rank's `value`.
    ///
    /// # Errors
    /// A failure on any rank.
    fn sum(&self, channel: Channel, value: u64) -> Result<u64, Failure> {
        Ok(self.reduce(channel, Combine::Sum, &[value])?[0])
    }

    /// The largest of every rank's `value`.
    ///
    /// # Errors
    /// A failure on any rank.
    fn max(&self, channel: Channel, value: u64) -> Result<u64, Failure> {
        Ok(self.reduce(channel, Combine::Max, &[value])?[0])
    }

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// A failure on any rank.
    fn barrier(&self, channel: Channel) -> Result<(), Failure> {
        self.reduce(channel, Combine::Sum, &[]).map(drop)
    }
}
