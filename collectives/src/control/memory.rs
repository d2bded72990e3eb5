//! The control plane of ranks that are threads of one process.

use std::sync::Arc;
use std::time::Duration;

use super::board::Board;
use super::hub::{Hub, Seat};
use super::inbox::Inbox;
use super::member::{Joined, Member, Route};
use super::rounds::{Call, Key};
use super::{Failure, Progress, RankReport, host_name};

/// One rank of a world in memory. Dropping it says that the rank has ended: a round that waits for it is a
/// failure, and so is a thread that panics.
pub struct Memory(Member);

impl Memory {
    /// All ranks of a world, in their order. They wait for each other for ever.
    pub fn new(world_size: usize) -> Vec<Memory> {
        Memory::make(world_size, None)
    }

    /// The same, but once a rank has noted its first step, a round of [`Channel::Step`](super::Channel::Step) that
    /// some rank does not come to for so long is that rank's failure.
    pub fn with_patience(world_size: usize, patience: Duration) -> Vec<Memory> {
        Memory::make(world_size, Some(patience))
    }

    fn make(world_size: usize, patience: Option<Duration>) -> Vec<Memory> {
        let inboxes: Vec<Arc<Inbox>> = (0..world_size).map(|_| Arc::default()).collect();
        let here: Vec<_> = (0..world_size).map(|rank| (rank, Progress::default())).collect();
        let board = Board::new(world_size, &host_name(), here.clone());
        let seats = inboxes.iter().map(|inbox| Box::new(Arc::clone(inbox)) as Box<dyn Seat>).collect();
        let hub = Arc::new(Hub::new(seats, board));
        let ranks = inboxes.into_iter().zip(here);
        ranks
            .map(|(inbox, (rank, progress))| {
                let route = Arc::new(Direct { rank, hub: Arc::clone(&hub) });
                Memory(Member::new(rank, world_size, inbox, progress, route).with_patience(patience))
            })
            .collect()
    }
}

impl Joined for Memory {
    fn member(&self) -> &Member {
        &self.0
    }
}

/// The hub is at hand.
struct Direct {
    rank: usize,
    hub: Arc<Hub>,
}

impl Route for Direct {
    fn deposit(&self, key: Key, call: Call) {
        self.hub.deposit(self.rank, key, call);
    }

    fn late(&self, key: Key, waited: &str) -> Option<Failure> {
        self.hub.late(self.rank, key, waited)
    }

    fn fail(&self, failure: Failure) {
        self.hub.fail(failure);
    }

    /// The first that asks gets the answer, unless it is the one that failed.
    fn report(&self) -> Option<Vec<RankReport>> {
        match self.hub.failure() {
            Some(failure) if failure.rank != self.rank => self.hub.board().take(Duration::ZERO),
            _ => None,
        }
    }

    fn leave(&self) {
        self.hub.leave(self.rank);
    }
}
