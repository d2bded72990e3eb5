//! The control plane of processes: a star of TCP connections with rank 0 in the middle.
//!
//! [`Rendezvous`] says where to meet. Rank 0 listens ([`Listener`]), the others call (`dial`), and both sides
//! prove that they know the [`Secret`] (`handshake`). Afterwards rank 0 is `root`, which owns the hub, and the
//! others are `spoke`s; `wire` is what they say, `outbox` and `link` the two directions of a connection.
//!
//! **Death.** A connection that ends without a goodbye is the death of its rank, told to all at once. A rank
//! of which nothing is heard for [`Rendezvous::dead_after`] is dead as well: a machine that lost power sends
//! no end. Signs of life come from a thread of their own every 500 ms, so a rank that computes for minutes is
//! alive, and one that is stopped is not. A process that was itself stopped (`scontrol suspend`) begins to
//! count anew.
//!
//! **Reports.** Ranks send what they do with their beats. After a failure rank 0 reports, if it lives; if it
//! is the one that died, rank 1 does, its deputy, which gets the board with rank 0's beats and so knows the
//! others as of a second ago. If both are dead at once, every rank still ends with the failure, but nobody
//! reports; nor does anybody if rank 0 dies after it has told of another's failure and before its report.
//! If a rank calls another one late, and rank 0 misses a third, the third is named: who waits for it is late for others.
//! A rank that tells rank 0 of a failure and gets no answer within two seconds ends with its own, and the deputy
//! reports that. A process that was stopped, taken for dead, and goes on (launchers continue stopped processes before they end
//! them) reads that it is dead before it reads that the others are gone, and does not report.
//!
//! **Limits.** One star: rank 0 has one file descriptor and two threads (reader, writer) for each other rank,
//! and a round costs it one read and one write a rank. That is for about a thousand ranks; beyond, a tree
//! would be wanted. Until all ranks are here, only the end of a connection counts as death.

mod dial;
mod handshake;
mod link;
mod listener;
mod outbox;
mod root;
mod spoke;
mod wire;

use std::time::Duration;

pub use handshake::Secret;
pub use listener::Listener;

use super::Failure;
use super::member::{Joined, Member};

/// Where the ranks of a run meet.
#[derive(Clone, Debug)]
pub struct Rendezvous {
    /// This rank.
    pub rank: usize,
    /// Number of ranks.
    pub world_size: usize,
    /// The machine of rank 0, as the others reach it.
    pub host: String,
    /// The port that rank 0 listens on, on all interfaces.
    pub port: u16,
    /// What only the ranks of this run know.
    pub secret: Secret,
    /// How long to wait for the others.
    pub timeout: Duration,
    /// A rank of which nothing is heard for this long is dead. See [`Rendezvous::DEAD_AFTER`].
    pub dead_after: Duration,
    /// Once a rank has noted its first step, a round of [`Channel::Step`](super::Channel::Step) that some rank does
    /// not come to for so long is that rank's failure. `None`: ranks wait for each other for ever.
    pub patience: Option<Duration>,
}

impl Rendezvous {
    /// Eight seconds: half a second of beats and the way to all ranks stay below ten.
    pub const DEAD_AFTER: Duration = Duration::from_secs(8);

    fn check(&self) -> Result<(), Failure> {
        let Rendezvous { rank, world_size, .. } = *self;
        if rank < world_size {
            return Ok(());
        }
        let cause = format!("is not below the number of ranks, {world_size}; hint: ranks count from 0");
        Err(Failure { rank, cause, exit_code: 2, is_refusal: false })
    }

    /// A beat, and four in the time after which a rank is dead.
    fn beat(&self) -> Duration {
        link::BEAT.min(self.dead_after / 4)
    }

    fn silent(&self) -> String {
        format!("no sign of life for {}", seconds(self.dead_after))
    }
}

/// One process of a world. Dropping it says goodbye: a round that waits for this rank is a failure, its
/// silence is none.
pub struct Tcp {
    member: Member,
    refused: Vec<String>,
}

impl Tcp {
    /// Meets the other ranks. Returns when all are here.
    ///
    /// # Errors
    /// They do not all come in time, do not agree, or one dies on the way: the same failure at all that came.
    pub fn connect(meeting: &Rendezvous) -> Result<Tcp, Failure> {
        meeting.check()?;
        match meeting.rank {
            0 => Listener::bind(meeting.port)?.accept(meeting),
            _ => dial::dial(meeting),
        }
    }

    /// Who was turned away while the ranks met, and why, one line each, for the log. At rank 0.
    pub fn refused(&self) -> &[String] {
        &self.refused
    }
}

impl Joined for Tcp {
    fn member(&self) -> &Member {
        &self.member
    }
}

/// To a tenth, since what is left of a deadline is rarely round.
fn seconds(duration: Duration) -> String {
    format!("{} s", (duration.as_secs_f64() * 10.0).round() / 10.0)
}
