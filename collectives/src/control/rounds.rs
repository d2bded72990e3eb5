//! Rounds: one call of every rank, numbered on its channel, and what comes of it. Pure: no threads, no I/O.
//!
//! The first rank to come says what the round is; one that comes with something else is a failure that names
//! both. Rounds of different channels, and early ranks of the next round, are open side by side.

use std::collections::HashMap;
use std::fmt;

use super::{Channel, Combine, Failure};

/// Which round: its channel, and its number there, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    pub(super) channel: Channel,
    pub(super) sequence: u64,
}

/// What a rank brings to a round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Call {
    Reduce {
        combine: Combine,
        words: Vec<u64>,
    },
    Gather(Vec<u8>),
    /// Of ranks other than 0, the bytes are not looked at.
    Broadcast(Vec<u8>),
    /// Of some ranks only, in ascending order; below the world size.
    Meet {
        members: Vec<u32>,
        bytes: Vec<u8>,
    },
}

/// What comes of a round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Of a reduce, at every rank.
    Words(Vec<u64>),
    /// Of a gather, at rank 0.
    Gathered(Vec<Vec<u8>>),
    /// Of a gather, at the others.
    Nothing,
    /// Of a broadcast, at every rank.
    Bytes(Vec<u8>),
    /// Of a meeting, at its members, in their order.
    Met(Vec<Vec<u8>>),
}

/// What all ranks must agree on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fingerprint {
    Reduce { combine: Combine, words: usize },
    Gather,
    Broadcast,
    Meet { members: usize },
}

impl Call {
    fn fingerprint(&self) -> Fingerprint {
        match self {
            Call::Reduce { combine, words } => Fingerprint::Reduce { combine: *combine, words: words.len() },
            Call::Gather(_) => Fingerprint::Gather,
            Call::Broadcast(_) => Fingerprint::Broadcast,
            Call::Meet { members, .. } => Fingerprint::Meet { members: members.len() },
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fingerprint::Reduce { words: 0, .. } => write!(out, "a barrier"),
            Fingerprint::Reduce { combine: Combine::Sum, words } => write!(out, "a sum of {words} words"),
            Fingerprint::Reduce { combine: Combine::Max, words } => write!(out, "a maximum of {words} words"),
            Fingerprint::Gather => write!(out, "a gather"),
            Fingerprint::Broadcast => write!(out, "a broadcast"),
            Fingerprint::Meet { members } => write!(out, "a meeting of {members} ranks"),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channel = match self.channel {
            Channel::Step => "step",
            Channel::Save => "save",
            Channel::Setup => "setup",
            Channel::Calls => "calls",
        };
        write!(out, "round {} of channel {channel}", self.sequence)
    }
}

/// A round that some ranks have not come to yet.
struct Round {
    fingerprint: Fingerprint,
    first: usize,
    present: Vec<bool>,
    missing: usize,
    so_far: Outcome,
}

impl Round {
    fn open(world_size: usize, rank: usize, call: &Call) -> Self {
        let fingerprint = call.fingerprint();
        let mut present = vec![false; world_size];
        let so_far = match fingerprint {
            // Zero is neutral for both: words are unsigned.
            Fingerprint::Reduce { words, .. } => Outcome::Words(vec![0; words]),
            Fingerprint::Gather => Outcome::Gathered(vec![Vec::new(); world_size]),
            Fingerprint::Broadcast => Outcome::Bytes(Vec::new()),
            Fingerprint::Meet { members } => Outcome::Met(vec![Vec::new(); members]),
        };
        if let Call::Meet { members, .. } = call {
            // Nobody waits for who is no member.
            present.fill(true);
            members.iter().for_each(|member| present[*member as usize] = false);
        }
        let missing = present.iter().filter(|present| !**present).count();
        Round { fingerprint, first: rank, present, missing, so_far }
    }

    fn add(&mut self, rank: usize, call: Call) {
        match (&mut self.so_far, call) {
            (Outcome::Words(sums), Call::Reduce { combine, words }) => {
                for (sum, word) in sums.iter_mut().zip(words) {
                    *sum = match combine {
                        Combine::Sum => sum.wrapping_add(word),
                        Combine::Max => word.max(*sum),
                    };
                }
            }
            (Outcome::Gathered(all), Call::Gather(bytes)) => all[rank] = bytes,
            (Outcome::Bytes(all), Call::Broadcast(bytes)) if rank == 0 => *all = bytes,
            (Outcome::Met(all), Call::Meet { members, bytes }) => {
                if let Some(place) = members.iter().position(|member| *member as usize == rank) {
                    all[place] = bytes;
                }
            }
            _ => {}
        }
        self.present[rank] = true;
        self.missing -= 1;
    }
}

/// All open rounds of a world.
pub(super) struct Rounds {
    open: HashMap<Key, Round>,
    left: Vec<bool>,
}

impl Rounds {
    pub(super) fn new(world_size: usize) -> Self {
        Rounds { open: HashMap::new(), left: vec![false; world_size] }
    }

    /// `rank`, below the world size, comes to a round. The outcome, if it was the last.
    ///
    /// # Errors
    /// It calls something else than the ranks before it, or waits for one that has left.
    pub(super) fn deposit(&mut self, rank: usize, key: Key, call: Call) -> Result<Option<Outcome>, Failure> {
        let world_size = self.left.len();
        let here = call.fingerprint();
        if let Call::Meet { members, .. } = &call
            && members.iter().any(|member| *member as usize >= world_size)
        {
            return Err(Failure::fault(rank, format!("called {here} with ranks beyond {world_size}")));
        }
        let round = self.open.entry(key).or_insert_with(|| Round::open(world_size, rank, &call));
        if round.fingerprint != here {
            let (first, there) = (round.first, round.fingerprint);
            let cause = format!("called {here} as {key}, where rank {first} called {there}");
            return Err(Failure::fault(rank, cause));
        }
        if round.present[rank] {
            return Err(Failure::fault(rank, format!("called {here} twice as {key}")));
        }
        round.add(rank, call);
        if round.missing == 0 {
            return Ok(self.open.remove(&key).map(|round| round.so_far));
        }
        match (0..world_size).find(|&other| self.left[other] && !round.present[other]) {
            Some(absent) => Err(absence(absent, key, round)),
            None => Ok(None),
        }
    }

    /// `rank` has waited too long, as `waited` tells, in a round: whom it waits for. `None` if the round has ended.
    pub(super) fn late(&self, rank: usize, key: Key, waited: &str) -> Option<Failure> {
        let round = self.open.get(&key)?;
        let absent = |other: &usize| !round.present[*other];
        let late: Vec<usize> = (0..self.left.len()).filter(absent).collect();
        let names = late.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let what = round.fingerprint;
        if matches!(what, Fingerprint::Meet { .. }) {
            let cause = format!("late: rank {rank} waited {waited}, for rank {names}");
            return Some(Failure::fault(*late.first()?, cause));
        }
        let cause = format!("late: rank {rank} waited {waited} in {what} as {key}, for rank {names}");
        Some(Failure::fault(*late.first()?, cause))
    }

    /// `rank` comes to no more rounds.
    ///
    /// # Errors
    /// A round waits for it.
    pub(super) fn leave(&mut self, rank: usize) -> Result<(), Failure> {
        self.left[rank] = true;
        match self.open.iter().find(|(_, round)| !round.present[rank]) {
            Some((&key, round)) => Err(absence(rank, key, round)),
            None => Ok(()),
        }
    }
}

fn absence(rank: usize, key: Key, round: &Round) -> Failure {
    let Round { first, fingerprint, .. } = round;
    Failure::fault(rank, format!("left before {key}, where rank {first} called {fingerprint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Key = Key { channel: Channel::Step, sequence: 4 };
    const SAVE: Key = Key { channel: Channel::Save, sequence: 0 };

    fn sum(words: &[u64]) -> Call {
        Call::Reduce { combine: Combine::Sum, words: words.to_vec() }
    }

    #[test]
    fn the_last_rank_ends_a_round_and_other_rounds_stay_open() {
        let mut rounds = Rounds::new(2);
        assert_eq!(rounds.deposit(1, STEP, sum(&[u64::MAX, 5])), Ok(None));
        assert_eq!(rounds.deposit(0, SAVE, Call::Gather(vec![7])), Ok(None));
        let next = Key { sequence: 5, ..STEP };
        assert_eq!(rounds.deposit(1, next, Call::Broadcast(vec![1])), Ok(None));
        assert_eq!(rounds.deposit(0, STEP, sum(&[2, 6])), Ok(Some(Outcome::Words(vec![1, 11]))));
        let gathered = Outcome::Gathered(vec![vec![7], vec![8]]);
        assert_eq!(rounds.deposit(1, SAVE, Call::Gather(vec![8])), Ok(Some(gathered)));
        let bytes = Outcome::Bytes(vec![2]);
        assert_eq!(rounds.deposit(0, next, Call::Broadcast(vec![2])), Ok(Some(bytes)));
        assert!(rounds.open.is_empty());
    }

    #[test]
    fn ranks_that_call_different_things_are_named_with_what_they_called() {
        let different = [
            (sum(&[1, 2]), sum(&[1]), "called a sum of 1 words as", "called a sum of 2 words"),
            (sum(&[1]), Call::Gather(vec![]), "called a gather as", "called a sum of 1 words"),
            (Call::Gather(vec![]), sum(&[]), "called a barrier as", "called a gather"),
            (Call::Gather(vec![]), Call::Broadcast(vec![]), "called a broadcast as", "called a gather"),
            (
                sum(&[1]),
                Call::Reduce { combine: Combine::Max, words: vec![1] },
                "called a maximum of 1 words as",
                "called a sum of 1 words",
            ),
        ];
        for (first, second, here, there) in different {
            let mut rounds = Rounds::new(3);
            rounds.deposit(2, STEP, first).unwrap();
            let failure = rounds.deposit(1, STEP, second).unwrap_err();
            let expected = format!("rank 1: {here} round 4 of channel step, where rank 2 {there}");
            assert_eq!(failure.to_string(), expected);
        }
    }

    #[test]
    fn a_rank_that_left_is_a_failure_only_of_rounds_without_it() {
        let mut rounds = Rounds::new(2);
        rounds.deposit(1, STEP, sum(&[])).unwrap();
        assert_eq!(rounds.leave(1), Ok(()));
        assert_eq!(rounds.deposit(0, STEP, sum(&[])), Ok(Some(Outcome::Words(vec![]))));
        let failure = rounds.deposit(0, SAVE, sum(&[])).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "rank 1: left before round 0 of channel save, where rank 0 called a barrier"
        );
        let mut rounds = Rounds::new(2);
        rounds.deposit(0, SAVE, sum(&[])).unwrap();
        assert_eq!(rounds.leave(1), Err(failure));
    }

    #[test]
    fn who_is_late_is_named_until_the_round_has_ended() {
        let mut rounds = Rounds::new(3);
        rounds.deposit(0, STEP, sum(&[1])).unwrap();
        let late = rounds.late(0, STEP, "9 s").unwrap();
        assert_eq!(
            late.to_string(),
            "rank 1: late: rank 0 waited 9 s in a sum of 1 words as round 4 of channel step, for rank 1, 2"
        );
        rounds.deposit(1, STEP, sum(&[1])).unwrap();
        assert_eq!(rounds.late(1, STEP, "9 s").unwrap().rank, 2);
        rounds.deposit(2, STEP, sum(&[1])).unwrap();
        assert_eq!(rounds.late(0, STEP, "9 s"), None);
    }

    fn meet(members: &[u32], byte: u8) -> Call {
        Call::Meet { members: members.to_vec(), bytes: vec![byte] }
    }

    #[test]
    fn a_meeting_waits_for_its_members_alone() {
        let key = Key { channel: Channel::Calls, sequence: u64::MAX };
        let mut rounds = Rounds::new(4);
        rounds.leave(0).unwrap();
        assert_eq!(rounds.deposit(3, key, meet(&[1, 3], 7)), Ok(None));
        let late = rounds.late(3, key, "9 s in tp all_gather #3").unwrap();
        assert_eq!(late.to_string(), "rank 1: late: rank 3 waited 9 s in tp all_gather #3, for rank 1");
        assert_eq!(rounds.deposit(1, key, meet(&[1, 3], 8)), Ok(Some(Outcome::Met(vec![vec![8], vec![7]]))));
        assert_eq!(rounds.deposit(1, key, meet(&[1, 2], 8)), Ok(None));
        let failure = rounds.leave(2).unwrap_err();
        assert!(failure.to_string().ends_with("where rank 1 called a meeting of 2 ranks"), "{failure}");
    }

    #[test]
    fn a_meeting_with_who_is_not_there_is_refused() {
        let key = Key { channel: Channel::Calls, sequence: 1 };
        assert!(Rounds::new(2).deposit(0, key, meet(&[0, 2], 0)).is_err());
    }

    #[test]
    fn coming_twice_is_refused() {
        let mut rounds = Rounds::new(2);
        rounds.deposit(0, STEP, sum(&[])).unwrap();
        let failure = rounds.deposit(0, STEP, sum(&[])).unwrap_err();
        assert_eq!(failure.to_string(), "rank 0: called a barrier twice as round 4 of channel step");
    }
}
