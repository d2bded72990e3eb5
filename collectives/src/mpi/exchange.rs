//! Messages under way in both directions, and the memory that they are read from and written to.
//!
//! An [`Exchange`] owns that memory until every message has ended. If it is dropped before, it leaks the
//! memory, because MPI goes on writing to it.

use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use super::ffi::{Comm, MpiError, Request};
use super::memory::{Buffers, Message, Regions, disjoint};

/// Longest piece of a message: MPI counts bytes in an `int`. A longer message is several pieces, which MPI
/// keeps in order between two ranks. Both ends cut at multiples of it.
const PIECE_BYTES: usize = 1 << 30;

/// Pieces that are under way at once in each direction, beyond which the next message waits: hundreds of
/// large messages at once into one rank slow each other down, and each costs an `MPI_Test` per poll.
const WINDOW: usize = 32;

/// A poll that takes longer than this, and this for each piece under way, was not only a question: MPI was
/// moving bytes, and gets on only while it is asked. Measured with two ranks of one machine whose library
/// copies through shared memory, 64 MiB: 4.7 GB/s, and 0.6 where the thread napped all the same.
const QUESTION: (Duration, Duration) = (Duration::from_micros(2), Duration::from_nanos(300));

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
    /// A message from this peer has another length than is expected; none if MPI does not say which, because
    /// it is longer.
    Length {
        peer: usize,
        bytes: Option<usize>,
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
    /// Nothing has come to its end, but MPI is at work.
    Busy,
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
        let began = Instant::now();
        // Sends first: where MPI copies a whole message as soon as both ends are there, the peers would copy in
        // turn, and not at the same time.
        for (lane, receiving) in [(&mut self.sends, false), (&mut self.receives, true)] {
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
        if ended(&self.sends) && ended(&self.receives) {
            return Ok(Poll::Ended);
        }
        let pieces = self.sends.under_way.len() + self.receives.under_way.len();
        let question = QUESTION.0 + QUESTION.1 * pieces as u32;
        Ok(match moved {
            true => Poll::Moved,
            false if began.elapsed() > question => Poll::Busy,
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
            let (peer, expected) = (piece.peer, piece.bytes);
            let ended = piece.request.test().map_err(|error| match error.truncated {
                true => Fault::Length { peer, bytes: None, expected },
                false => Fault::Mpi(error),
            })?;
            match ended {
                Some(bytes) => {
                    self.under_way.swap_remove(i);
                    if receiving && bytes != expected {
                        return Err(Fault::Length { peer, bytes: Some(bytes), expected });
                    }
                }
                None => i += 1,
            }
        }
        Ok(())
    }
}
