//! The memory of a job, and where its messages lie in it.

use std::ops::Range;

use tisserand_kernels::{Block, Cpu};

use crate::messages;

/// The memory of one job.
pub(super) struct Buffers {
    /// What each rank calls, in the order of ranks; empty if nobody asks.
    pub(super) headers: Vec<u8>,
    pub(super) block: Option<Block<Cpu>>,
    pub(super) workspace: Option<Block<Cpu>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Memory {
    Headers,
    Data(messages::Place),
}

/// A message: bytes of the memory, to or from a peer.
pub(super) struct Message {
    pub(super) peer: usize,
    pub(super) memory: Memory,
    pub(super) bytes: Range<usize>,
}

impl Message {
    pub(super) fn header(peer: usize, bytes: Range<usize>) -> Self {
        Message { peer, memory: Memory::Headers, bytes }
    }

    pub(super) fn data(message: &messages::Message, element_bytes: usize) -> Self {
        let messages::Message { peer, place, elements } = message;
        let bytes = elements.start * element_bytes..elements.end * element_bytes;
        Message { peer: *peer, memory: Memory::Data(*place), bytes }
    }
}

/// Start and length of each memory.
pub(super) struct Regions {
    headers: (*mut u8, usize),
    block: (*mut u8, usize),
    workspace: (*mut u8, usize),
}

impl Regions {
    pub(super) fn of(buffers: &mut Buffers) -> Self {
        let block = |block: Option<&mut Block<Cpu>>| match block {
            Some(block) => {
                let len = block.len();
                region(block.view_mut([len]).into_bytes())
            }
            None => region(&mut []),
        };
        Regions {
            headers: region(&mut buffers.headers),
            block: block(buffers.block.as_mut()),
            workspace: block(buffers.workspace.as_mut()),
        }
    }

    pub(super) fn get(&self, memory: Memory) -> (*mut u8, usize) {
        match memory {
            Memory::Headers => self.headers,
            Memory::Data(messages::Place::Block) => self.block,
            Memory::Data(messages::Place::Workspace) => self.workspace,
        }
    }
}

fn region(bytes: &mut [u8]) -> (*mut u8, usize) {
    (bytes.as_mut_ptr(), bytes.len())
}

/// Whether no message that is received shares a byte with another one.
pub(super) fn disjoint(sends: &[Message], receives: &[Message]) -> bool {
    let ranges = |messages: &[Message], receiving: bool| -> Vec<_> {
        messages.iter().map(|m| (m.memory, m.bytes.start, m.bytes.end, receiving)).collect()
    };
    let mut all = ranges(sends, false);
    all.extend(ranges(receives, true));
    all.sort_unstable();
    let (mut memory, mut end_of_all, mut end_of_receives) = (Memory::Headers, 0, 0);
    all.into_iter().all(|(of, start, end, receiving)| {
        if of != memory {
            (memory, end_of_all, end_of_receives) = (of, 0, 0);
        }
        let free = start >= if receiving { end_of_all } else { end_of_receives };
        end_of_all = end_of_all.max(end);
        if receiving {
            end_of_receives = end_of_receives.max(end);
        }
        free
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_with_what_is_received_are_found() {
        let messages = |ranges: &[(usize, usize)]| -> Vec<Message> {
            ranges.iter().map(|(start, end)| Message::header(0, *start..*end)).collect()
        };
        let check = |sends: &[_], receives: &[_]| disjoint(&messages(sends), &messages(receives));
        assert!(check(&[(0, 4), (0, 4), (2, 4)], &[(4, 8), (8, 9)]));
        assert!(!check(&[(0, 9)], &[(4, 8)]));
        assert!(!check(&[(7, 9)], &[(4, 8)]));
        assert!(!check(&[], &[(4, 8), (5, 6)]));
        assert!(!check(&[(0, 1), (6, 7)], &[(4, 8), (8, 9)]));
    }
}
