//! Which elements a call sends to whom, which it receives, and what is done with them: pure arithmetic.
//!
//! A call is one or two phases, each a set of messages in both directions. Peers are met in the order
//! rank + 1, rank + 2, … by senders and rank − 1, rank − 2, … by receivers, so that the k-th message of one
//! is the k-th of the other and no rank is flooded by all at once.

use std::ops::Range;

use crate::mpi::workspace_elements;
use crate::{Call, ReduceOp};

/// Which of a call's two blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Place {
    Block,
    Workspace,
}

/// Elements to or from a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) peer: usize,
    pub(crate) place: Place,
    pub(crate) elements: Range<usize>,
}

/// What happens once every message of a phase has arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum After {
    Nothing,
    /// Slice `rank` of the block becomes the tree over it and the slices in the workspace.
    Combine(ReduceOp),
    /// These elements of the block become those.
    Copy {
        from: Range<usize>,
        to: Range<usize>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Phase {
    pub(crate) sends: Vec<Message>,
    pub(crate) receives: Vec<Message>,
    pub(crate) after: After,
}

/// The elements of slice `rank`.
pub(crate) fn slice(len: usize, size: usize, rank: usize) -> Range<usize> {
    rank * len / size..(rank + 1) * len / size
}

/// Where the workspace holds this rank's slice of `peer`.
pub(crate) fn slot(len: usize, size: usize, rank: usize, peer: usize) -> Range<usize> {
    let slice_len = slice(len, size, rank).len();
    let index = if peer < rank { peer } else { peer - 1 };
    index * slice_len..(index + 1) * slice_len
}

/// The phases of a call that [`Call::check`] admits. No message is empty.
pub(crate) fn phases(call: Call, rank: usize, size: usize, len: usize) -> Vec<Phase> {
    let slice = |part: usize| slice(len, size, part);
    let block = |peer, elements| Message { peer, place: Place::Block, elements };
    let sends = |part: &dyn Fn(usize) -> Range<usize>| -> Vec<Message> {
        (1..size).map(|step| (rank + step) % size).map(|peer| block(peer, part(peer))).collect()
    };
    let sources = || (1..size).map(|step| (rank + size - step) % size);
    let gather = || Phase {
        sends: sends(&|_| slice(rank)),
        receives: sources().map(|peer| block(peer, slice(peer))).collect(),
        after: After::Nothing,
    };
    let reduce = |op| {
        let place = Place::Workspace;
        let receive = |peer| Message { peer, place, elements: slot(len, size, rank, peer) };
        Phase { sends: sends(&slice), receives: sources().map(receive).collect(), after: After::Combine(op) }
    };
    let mut phases = match call {
        Call::AllReduce(op) => vec![reduce(op), gather()],
        Call::ReduceScatter(op) => vec![reduce(op)],
        Call::AllGather => vec![gather()],
        Call::AllToAll => {
            let half = len / 2;
            let sent = |part| self::slice(half, size, part);
            let received = |part| half + sent(part).start..half + sent(part).end;
            vec![Phase {
                sends: sends(&sent),
                receives: sources().map(|peer| block(peer, received(peer))).collect(),
                after: After::Copy { from: sent(rank), to: received(rank) },
            }]
        }
        Call::Broadcast { root } => broadcast(rank, root, gather(), sends(&slice), block(root, slice(rank))),
        Call::Send { to } => {
            vec![Phase { sends: vec![block(to, 0..len)], receives: vec![], after: After::Nothing }]
        }
        Call::Recv { from } => {
            vec![Phase { sends: vec![], receives: vec![block(from, 0..len)], after: After::Nothing }]
        }
    };
    for phase in &mut phases {
        phase.sends.retain(|message| !message.elements.is_empty());
        phase.receives.retain(|message| !message.elements.is_empty());
    }
    debug_assert!(
        phases.iter().flat_map(|phase| &phase.receives).all(|message| {
            message.place == Place::Block || message.elements.end <= workspace_elements(call, size, len)
        }),
        "the workspace holds what is received"
    );
    phases
}

/// The root hands out one slice each, then all gather: twice the bytes of the block over every link, where
/// a tree moves it log n times over the root's, and every rank hears from every other, so that one that is
/// late is known by name.
fn broadcast(rank: usize, root: usize, mut gather: Phase, slices: Vec<Message>, own: Message) -> Vec<Phase> {
    if rank == root {
        let sends = slices.into_iter().chain(gather.sends).collect();
        return vec![Phase { sends, receives: vec![], after: After::Nothing }];
    }
    gather.sends.retain(|message| message.peer != root);
    vec![Phase { sends: vec![], receives: vec![own], after: After::Nothing }, gather]
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};

    use super::*;

    fn calls(size: usize) -> Vec<Call> {
        let sum = ReduceOp::Sum;
        let mut calls = vec![Call::AllReduce(sum), Call::ReduceScatter(sum), Call::AllGather, Call::AllToAll];
        calls.extend((0..size).map(|root| Call::Broadcast { root }));
        calls
    }

    /// The messages between two ranks, in the order in which one sends and the other receives them.
    fn lengths(phases: &[Phase], pick: impl Fn(&Phase) -> &Vec<Message>) -> HashMap<usize, VecDeque<usize>> {
        let mut lengths = HashMap::<usize, VecDeque<usize>>::new();
        for message in phases.iter().flat_map(pick) {
            lengths.entry(message.peer).or_default().push_back(message.elements.len());
        }
        lengths
    }

    #[test]
    fn every_message_that_is_sent_is_received_in_the_same_order() {
        for size in [1, 2, 3, 4, 7, 16] {
            for (call, len) in calls(size).into_iter().flat_map(|call| {
                let multiple = 2 * size;
                let any = matches!(call, Call::AllReduce(_) | Call::Broadcast { .. });
                let odd = if any { vec![1, size - 1, size + 1, 3 * size + 2] } else { vec![] };
                [0, multiple, 5 * multiple].into_iter().chain(odd).map(move |len| (call, len))
            }) {
                let all: Vec<_> = (0..size).map(|rank| phases(call, rank, size, len)).collect();
                for (rank, phases) in all.iter().enumerate() {
                    let sent = lengths(phases, |phase| &phase.sends);
                    for (peer, sent) in sent {
                        let received = lengths(&all[peer], |phase| &phase.receives).remove(&rank);
                        assert_eq!(Some(sent), received, "{call:?} of {len}, {rank} to {peer} of {size}");
                    }
                    let received = lengths(phases, |phase| &phase.receives).into_values().flatten().count();
                    let to_me = |phases: &Vec<Phase>| {
                        lengths(phases, |phase| &phase.sends).remove(&rank).map_or(0, |lengths| lengths.len())
                    };
                    assert_eq!(received, all.iter().map(to_me).sum::<usize>(), "{call:?} of {len}");
                }
            }
        }
    }

    #[test]
    fn a_slice_of_an_uneven_length_may_be_empty() {
        let lengths: Vec<usize> = (0..4).map(|rank| slice(3, 4, rank).len()).collect();
        assert_eq!(lengths, [0, 1, 1, 1]);
        assert_eq!(workspace_elements(Call::AllReduce(ReduceOp::Sum), 4, 3), 3);
        assert_eq!(workspace_elements(Call::ReduceScatter(ReduceOp::Sum), 4, 400), 300);
        assert_eq!(workspace_elements(Call::AllGather, 4, 400), 0);
    }
}
