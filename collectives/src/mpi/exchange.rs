//! Messages under way in both directions, and the memory that they are read from and written to.
//!
//! An [`Exchange`] owns that memory until every message has ended. If it is dropped before, it leaks the
//! memory, because MPI goes on writing to it.

use std::mem::ManuallyDrop;
use std::ops::Range;

use tisserand_kernels::{Block, Cpu};

use super::ffi::{Comm, MpiError, Request};
use super::plan;

/// Longest piece of a message: MPI counts bytes in an `int`. A longer message is several pieces, which MPI
/// keeps in order between two ranks. Both ends cut at multiples of it.
const PIECE_BYTES: usize = 1 << 30;

/// Pieces that are under way at once in each direction, beyond which the next message waits: hundreds of
/// large messages at once into one rank slow each other down, and each costs an `MPI_Test` per poll.
const WINDOW: usize = 32;

/// The memory of one job.
pub(super) struct Buffers {
    /// What this rank calls, then what each peer calls, of one length each; empty if nobody asks.
    pub(super) headers: Vec<u8>,
    pub(super) block: Option<Block<Cpu>>,
    pub(super) workspace: Option<Block<Cpu>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Memory {
    Headers,
    Data(plan::Place),
}

/// A message: bytes of the memory, to or from a peer.
pub(super) struct Message {
    pub(super) peer: usize,
    memory: Memory,
    bytes: Range<usize>,
}

impl Message {
    pub(super) fn header(peer: usize, bytes: Range<usize>) -> Self {
        Message { peer, memory: Memory::Headers, bytes }
    }

    pub(super) fn data(message: &plan::Message, element_bytes: usize) -> Self {
        let plan::Message { peer, place, elements } = message;
        let bytes = elements.start * element_bytes..elements.end * element_bytes;
        Message { peer: *peer, memory: Memory::Data(*place), bytes }
    }
}

/// How messages are told from others between the same ranks.
#[derive(Clone, Copy)]
pub(super) struct Tags {
    pub(super) send: i32,
    pub(super) receive: i32,
}

/// Whether a send ends when its bytes have left, or when the receiver takes them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    Buffered,
    Synchronous,
}

/// A message that has gone wrong.
pub(super) enum Fault {
    Mpi(MpiError),
    /// A message from this peer has another length than is expected.
    Length {
        peer: usize,
        bytes: usize,
        expected: usize,
    },
}

impl From<MpiError> for Fault {
    fn from(error: MpiError) -> Self {
        Fault::Mpi(error)
    }
}

/// What a poll has found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Poll {
    Waiting,
    Moved,
    Ended,
}

pub(super) struct Exchange {
    buffers: ManuallyDrop<Buffers>,
    /// Where the memory lies. No reference to it is made from here on, while MPI uses it.
    regions: Regions,
    comm: Comm,
    tags: Tags,
    sending: Sending,
    sends: Lane,
    receives: Lane,
}

/// The messages of one direction.
struct Lane {
    messages: Vec<Message>,
    /// Messages before this one were begun.
    next: usize,
    under_way: Vec<Piece>,
}

struct Piece {
    peer: usize,
    bytes: usize,
    request: Request,
}

impl Exchange {
    /// Begins to move messages.
    ///
    /// # Panics
    /// If a message leaves its memory, or one that is received overlaps another one: what MPI may do with the
    /// memory rests on this.
    pub(super) fn new(
        comm: Comm,
        tags: Tags,
        sending: Sending,
        mut buffers: Buffers,
        sends: Vec<Message>,
        receives: Vec<Message>,
    ) -> Self {
        assert!(disjoint(&sends, &receives), "a message that is received overlaps no other one");
        let regions = Regions::of(&mut buffers);
        for Message { memory, bytes, .. } in sends.iter().chain(&receives) {
            let len = regions.get(*memory).1;
            assert!(bytes.start <= bytes.end && bytes.end <= len, "bytes {bytes:?} of {len}");
        }
        let lane = |messages| Lane { messages, next: 0, under_way: Vec::new() };
        let buffers = ManuallyDrop::new(buffers);
        Exchange { buffers, regions, comm, tags, sending, sends: lane(sends), receives: lane(receives) }
    }

    /// Looks after the messages.
    pub(super) fn poll(&mut self) -> Result<Poll, Fault> {
        let mut moved = false;
        for (lane, receiving) in [(&mut self.receives, true), (&mut self.sends, false)] {
            let before = lane.under_way.len();
            lane.drop_ended(receiving)?;
            moved |= lane.under_way.len() < before;
            while lane.under_way.len() < WINDOW && lane.next < lane.messages.len() {
                let Message { peer, memory, ref bytes } = lane.messages[lane.next];
                for start in bytes.clone().step_by(PIECE_BYTES) {
                    let len = PIECE_BYTES.min(bytes.end - start);
                    // SAFETY: `new` has checked that the message lies inside the region.
                    let start = unsafe { self.regions.get(memory).0.add(start) };
                    let (comm, tags) = (&self.comm, self.tags);
                    // SAFETY: the `len` bytes are inside the message, hence inside memory that `self` owns on the
                    // heap or in an arena, so that it stays where it is when `self` moves. The memory is given
                    // away by `into_buffers` once no piece is under way, and leaked by `drop` otherwise; until then
                    // nothing else reaches it. `new` has checked that no message overlaps one that is received.
                    let request = unsafe {
                        match (receiving, self.sending) {
                            (true, _) => comm.receive(start, len, peer, tags.receive),
                            (false, Sending::Buffered) => comm.send(start, len, peer, tags.send),
                            (false, Sending::Synchronous) => {
                                comm.send_synchronously(start, len, peer, tags.send)
                            }
                        }
                    }?;
                    lane.under_way.push(Piece { peer, bytes: len, request });
                }
                lane.next += 1;
                moved = true;
            }
        }
        let ended = |lane: &Lane| lane.under_way.is_empty() && lane.next == lane.messages.len();
        Ok(match ended(&self.sends) && ended(&self.receives) {
            true => Poll::Ended,
            false if moved => Poll::Moved,
            false => Poll::Waiting,
        })
    }

    /// Peers from whom something is awaited; if there is none, those who do not take what is sent to them.
    pub(super) fn late(&self) -> Vec<usize> {
        let lane = if self.receives.under_way.is_empty() { &self.sends } else { &self.receives };
        let mut peers: Vec<usize> = lane.under_way.iter().map(|piece| piece.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// The memory, after the last message.
    ///
    /// # Panics
    /// If a message is under way.
    pub(super) fn into_buffers(mut self) -> Buffers {
        assert!(self.is_idle(), "the memory of a message under way is not given away");
        let nothing = Buffers { headers: Vec::new(), block: None, workspace: None };
        std::mem::replace(&mut *self.buffers, nothing)
    }

    /// Whether MPI uses none of the memory.
    pub(super) fn is_idle(&self) -> bool {
        self.sends.under_way.is_empty() && self.receives.under_way.is_empty()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.is_idle() {
            // SAFETY: dropped here and nowhere else; nothing reads it after `drop`.
            unsafe { ManuallyDrop::drop(&mut self.buffers) };
        }
    }
}

impl Lane {
    /// Forgets pieces that have ended. One whose test fails stays: what MPI does with it is unknown.
    fn drop_ended(&mut self, receiving: bool) -> Result<(), Fault> {
        let mut i = 0;
        while i < self.under_way.len() {
            let piece = &mut self.under_way[i];
            match piece.request.test()? {
                Some(bytes) => {
                    let Piece { peer, bytes: expected, .. } = self.under_way.swap_remove(i);
                    if receiving && bytes != expected {
                        return Err(Fault::Length { peer, bytes, expected });
                    }
                }
                None => i += 1,
            }
        }
        Ok(())
    }
}

/// Start and length of each memory.
struct Regions {
    headers: (*mut u8, usize),
    block: (*mut u8, usize),
    workspace: (*mut u8, usize),
}

impl Regions {
    fn of(buffers: &mut Buffers) -> Self {
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

    fn get(&self, memory: Memory) -> (*mut u8, usize) {
        match memory {
            Memory::Headers => self.headers,
            Memory::Data(plan::Place::Block) => self.block,
            Memory::Data(plan::Place::Workspace) => self.workspace,
        }
    }
}

fn region(bytes: &mut [u8]) -> (*mut u8, usize) {
    (bytes.as_mut_ptr(), bytes.len())
}

/// Whether no message that is received shares a byte with another one.
fn disjoint(sends: &[Message], receives: &[Message]) -> bool {
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
        let message = |bytes| Message::header(0, bytes);
        let check = |sends: &[Range<usize>], receives: &[Range<usize>]| {
            let messages =
                |ranges: &[Range<usize>]| -> Vec<Message> { ranges.iter().cloned().map(message).collect() };
            disjoint(&messages(sends), &messages(receives))
        };
        assert!(check(&[0..4, 0..4, 2..4], &[4..8, 8..9]));
        assert!(!check(&[0..9], &[4..8]));
        assert!(!check(&[7..9], &[4..8]));
        assert!(!check(&[], &[4..8, 5..6]));
        assert!(!check(&[0..1, 6..7], &[4..8, 8..9]));
    }
}
