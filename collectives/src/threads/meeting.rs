//! One meeting of the ranks of a group: what they came for, and what they leave for each other.

use std::sync::Arc;
use std::time::Instant;

use tisserand_kernels::{Block, DType, Device};

use crate::communicator::Call;

/// Parts of a block, by rank.
pub(super) type Parts<D> = Vec<Option<Block<D>>>;

/// Parts lent to all, by owner.
pub(super) type Lent<D> = Vec<Option<Arc<Block<D>>>>;

/// What ranks must agree on, and what they left for each other.
pub(super) struct Meeting<D: Device> {
    pub(super) guests: Vec<Guest<D>>,
    /// Parts handed over: by receiver, then giver.
    pub(super) handed: Vec<Parts<D>>,
    /// Parts on their way back: by owner, then by who had them.
    pub(super) returned: Vec<Parts<D>>,
    /// How many of its parts each rank has handed over and not got back.
    pub(super) awaited: Vec<usize>,
    /// Parts lent to all, by owner.
    pub(super) lent: Lent<D>,
    pub(super) words: Vec<[usize; 2]>,
    /// Ranks that have read what was lent.
    pub(super) served: usize,
    /// Ranks that have left.
    pub(super) left: usize,
}

/// What is known of a rank's visit.
pub(super) struct Guest<D: Device> {
    /// What it came for, once it has come.
    pub(super) subject: Option<Subject>,
    /// Behind it the rank's parts may be read and written.
    pub(super) ready: Option<D::Event>,
    /// Behind it the rank has read and written the parts of others, once it has given them back.
    pub(super) done: Option<D::Event>,
}

/// What ranks of one meeting must agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Subject {
    Call { call: Call, len: usize, dtype: DType },
    Words,
}

impl Subject {
    /// How often ranks meet for it.
    pub(super) fn meetings(&self) -> u64 {
        match self {
            Subject::Call { call: Call::Send { .. } | Call::Recv { .. }, .. } => 0,
            _ => 1,
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Words => f.write_str("barrier or split"),
            Subject::Call { call, len, dtype } => {
                write!(f, "{} of {len} {dtype}", call.kind().name())?;
                match call {
                    Call::AllReduce(op) | Call::ReduceScatter(op) => write!(f, " ({op:?})"),
                    Call::Broadcast { root } => write!(f, " from {root}"),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl<D: Device> Meeting<D> {
    pub(super) fn new(size: usize) -> Self {
        let parts = || (0..size).map(|_| (0..size).map(|_| None).collect()).collect();
        Meeting {
            guests: (0..size).map(|_| Guest { subject: None, ready: None, done: None }).collect(),
            handed: parts(),
            returned: parts(),
            awaited: vec![0; size],
            lent: (0..size).map(|_| None).collect(),
            words: vec![[0; 2]; size],
            served: 0,
            left: 0,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.guests.iter().all(|guest| guest.subject.is_some())
    }

    /// Ranks of the group that have not come.
    pub(super) fn absent(&self) -> Vec<usize> {
        (0..self.guests.len()).filter(|&rank| self.guests[rank].subject.is_none()).collect()
    }

    /// The first two ranks that came for different things.
    pub(super) fn difference(&self) -> Option<[(usize, Subject); 2]> {
        let mut ranks = self.guests.iter().filter_map(|guest| guest.subject).enumerate();
        let first = ranks.next()?;
        Some([first, ranks.find(|(_, subject)| *subject != first.1)?])
    }
}

/// One rank's visit of one meeting.
#[derive(Clone, Copy)]
pub(super) struct Visit {
    pub(super) rank: usize,
    /// Number of the meeting in its group.
    pub(super) meeting: u64,
    /// Number of the call, for messages.
    pub(super) sequence: u64,
    pub(super) subject: Subject,
    pub(super) deadline: Instant,
}
