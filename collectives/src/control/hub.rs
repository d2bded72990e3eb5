//! The middle of the star: takes the calls of all ranks and tells each what came of them.
//!
//! In memory there is one for the process; over TCP it lives at rank 0.

use std::sync::{Arc, Mutex, OnceLock};

use super::board::Board;
use super::inbox::{Hook, Inbox, run};
use super::rounds::{Call, Key, Outcome, Rounds};
use super::{Channel, Failure, lock};

/// What came of a round, for the ranks that all get the same.
pub(super) struct Delivery {
    pub(super) key: Key,
    pub(super) outcome: Outcome,
    /// The outcome as it goes over the wire: made once for a thousand ranks.
    pub(super) frame: OnceLock<Arc<[u8]>>,
}

impl Delivery {
    pub(super) fn new(key: Key, outcome: Outcome) -> Arc<Self> {
        Arc::new(Delivery { key, outcome, frame: OnceLock::new() })
    }
}

/// How a rank is reached. Nothing here waits for the rank: a slow one must not delay the others.
pub(super) trait Seat: Send + Sync {
    /// What came of a round.
    fn deliver(&self, delivery: Arc<Delivery>);

    /// The run has failed. The hooks are for the caller to run, when all ranks are told.
    fn fail(&self, failure: &Failure) -> Vec<Hook>;
}

impl Seat for Arc<Inbox> {
    fn deliver(&self, delivery: Arc<Delivery>) {
        Inbox::deliver(self, delivery);
    }

    fn fail(&self, failure: &Failure) -> Vec<Hook> {
        self.trip(failure)
    }
}

/// See the module.
pub(super) struct Hub {
    rounds: Mutex<Rounds>,
    failure: Mutex<Option<Failure>>,
    /// Told in reverse order. Rank 0 is the last: as soon as it knows, its process may say goodbye to the
    /// others, who must have heard by then.
    seats: Vec<Box<dyn Seat>>,
    board: Board,
}

impl Hub {
    /// One seat for each rank, in their order.
    pub(super) fn new(seats: Vec<Box<dyn Seat>>, board: Board) -> Self {
        let rounds = Mutex::new(Rounds::new(seats.len()));
        Hub { rounds, failure: Mutex::new(None), seats, board }
    }

    pub(super) fn board(&self) -> &Board {
        &self.board
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        lock(&self.failure).clone()
    }

    /// `rank` comes to a round.
    pub(super) fn deposit(&self, rank: usize, key: Key, call: Call) {
        let members = match &call {
            Call::Meet { members, .. } => Some(members.clone()),
            _ => None,
        };
        // The lock is released before anybody is told.
        let met = lock(&self.rounds).deposit(rank, key, call);
        match met {
            Ok(None) => {}
            Ok(Some(Outcome::Gathered(all))) => {
                let nothing = Delivery::new(key, Outcome::Nothing);
                self.seats[1..].iter().rev().for_each(|seat| seat.deliver(Arc::clone(&nothing)));
                self.seats[0].deliver(Delivery::new(key, Outcome::Gathered(all)));
            }
            Ok(Some(outcome)) => {
                let delivery = Delivery::new(key, outcome);
                if let Some(members) = members {
                    let seats = members.iter().rev().map(|member| &self.seats[*member as usize]);
                    return seats.for_each(|seat| seat.deliver(Arc::clone(&delivery)));
                }
                self.seats.iter().rev().for_each(|seat| seat.deliver(Arc::clone(&delivery)));
            }
            Err(failure) => self.fail(failure),
        }
    }

    /// See [`Rounds::late`].
    pub(super) fn late(&self, rank: usize, key: Key, waited: &str) -> Option<Failure> {
        lock(&self.rounds).late(rank, key, waited)
    }

    /// `rank` has waited too long at the meeting of this number: who is late there fails.
    pub(super) fn blame_late(&self, rank: usize, meeting: u64, waited: &str) {
        let key = Key { channel: Channel::Calls, sequence: meeting };
        if let Some(failure) = self.late(rank, key, waited) {
            self.fail(failure);
        }
    }

    /// Tells all ranks; only the first failure counts.
    pub(super) fn fail(&self, failure: Failure) {
        {
            let mut known = lock(&self.failure);
            if known.is_some() {
                return;
            }
            *known = Some(failure.clone());
        }
        self.board.close(&failure);
        let hooks = self.seats.iter().rev().flat_map(|seat| seat.fail(&failure)).collect();
        run(hooks, &failure);
    }

    /// `rank` has died.
    pub(super) fn die(&self, rank: usize, cause: impl Into<String>) {
        let cause = cause.into();
        self.board.gone(rank, &cause);
        self.fail(Failure::fault(rank, cause));
    }

    /// `rank` has ended in good order. A failure only if a round waits for it.
    pub(super) fn leave(&self, rank: usize) {
        self.board.left(rank);
        let left = lock(&self.rounds).leave(rank);
        if let Err(failure) = left {
            self.fail(failure);
        }
    }
}
