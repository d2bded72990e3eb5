//! One job under way, from the question whether all ranks mean the same to the last combined piece. Every
//! step returns at once.

use std::sync::mpsc::SyncSender;
use std::time::Instant;

use tisserand_kernels::Cpu;

use super::arithmetic::{combine_some, copy_within};
use super::exchange::{Exchange, Fault, Poll, Sending, Tags};
use super::job::{Job, Name, Site, Split, Task};
use super::memory::{Buffers, Message};
use crate::header::{Header, mismatch, unlike_pair};
use crate::messages::{self, After, Phase};
use crate::{Call, CommError, Completion, Failure, ReduceOp};

/// What is said between all ranks, of collectives and of what they move; then what is said about a message
/// from one rank to another, by its sender and by its receiver, and the message itself.
const HEADER: Tags = Tags { send: 0, receive: 0 };
const COLLECTIVE: Tags = Tags { send: 1, receive: 1 };
const SENDER_HEADER: Tags = Tags { send: 2, receive: 3 };
const RECEIVER_HEADER: Tags = Tags { send: 3, receive: 2 };
const MESSAGE: Tags = Tags { send: 4, receive: 4 };

/// A job that has begun.
pub(super) struct Running {
    name: Name,
    header: Header,
    end: End,
    phases: std::vec::IntoIter<Phase>,
    stage: Stage,
    /// When something moved last; none before the first step.
    moved: Option<Instant>,
}

/// Who is told of the end.
enum End {
    Move(Call, Completion<Cpu>),
    Barrier(SyncSender<Result<(), CommError>>),
    Split(Split),
}

enum Stage {
    Asking(Exchange),
    Moving(Exchange, After),
    /// The elements of this rank's slice before `done` are combined.
    Combining {
        buffers: Buffers,
        op: ReduceOp,
        done: usize,
    },
    Over(Buffers),
    /// Something failed that was not a message.
    Failed,
}

impl Running {
    pub(super) fn new(site: &Site, job: Job) -> Self {
        let Job { name, header, checked, task } = job;
        let (end, block, workspace) = match task {
            Task::Move { call, block, workspace, completion } => {
                (End::Move(call, completion), Some(block), workspace)
            }
            Task::Barrier { reply } => (End::Barrier(reply), None, None),
            Task::Split(split) => (End::Split(split), None, None),
        };
        let phases = match (&end, &block) {
            (End::Move(call, _), Some(block)) => messages::phases(*call, site.rank, site.size, block.len()),
            _ => vec![],
        };
        let buffers = Buffers { headers: Vec::new(), block, workspace };
        let phases = phases.into_iter();
        let mut running = Running { name, header, end, phases, stage: Stage::Failed, moved: None };
        let asks = checked || !matches!(running.end, End::Move(..));
        running.stage = if asks { running.ask(site, buffers) } else { running.next_phase(site, buffers) };
        running
    }

    /// The receiver of a send: later jobs do not wait for it.
    pub(super) fn receiver(&self) -> Option<usize> {
        match self.end {
            End::Move(Call::Send { to }, _) => Some(to),
            _ => None,
        }
    }

    /// Whether MPI still uses memory of the job.
    pub(super) fn has_messages_under_way(&self) -> bool {
        match &self.stage {
            Stage::Asking(exchange) | Stage::Moving(exchange, _) => !exchange.is_idle(),
            Stage::Combining { .. } | Stage::Over(_) | Stage::Failed => false,
        }
    }

    /// The other end, if the call has only one.
    fn peer(&self) -> Option<usize> {
        match self.end {
            End::Move(Call::Send { to: peer } | Call::Recv { from: peer }, _) => Some(peer),
            _ => None,
        }
    }

    fn ask(&self, site: &Site, mut buffers: Buffers) -> Stage {
        let (tags, peers) = match (self.peer(), self.receiver()) {
            (Some(peer), Some(_)) => (SENDER_HEADER, vec![peer]),
            (Some(peer), None) => (RECEIVER_HEADER, vec![peer]),
            (None, _) => (HEADER, (1..site.size).map(|step| (site.rank + step) % site.size).collect()),
        };
        let place = |rank: usize| rank * Header::BYTES..(rank + 1) * Header::BYTES;
        buffers.headers = vec![0; site.size * Header::BYTES];
        buffers.headers[place(site.rank)].copy_from_slice(&self.header.encode());
        let own = |peer: &usize| Message::header(*peer, place(site.rank));
        let theirs = |peer: &usize| Message::header(*peer, place(*peer));
        let sends = peers.iter().map(own).collect();
        let receives = peers.iter().rev().map(theirs).collect();
        Stage::Asking(Exchange::new(site.comm, tags, Sending::Buffered, buffers, sends, receives))
    }

    fn compare(&self, site: &Site, headers: &[u8]) -> Result<(), CommError> {
        let headers: Vec<_> = headers.chunks_exact(Header::BYTES).map(Header::decode).collect();
        let call = format!("{} call #{}", self.name.axis, self.name.sequence);
        let end = |rank: usize| (site.world_ranks[rank], headers[rank]);
        let difference = match (self.peer(), self.receiver()) {
            (Some(peer), Some(_)) => {
                let call = format!("{} send #{}", self.name.axis, self.name.sequence);
                unlike_pair(&call, end(site.rank), end(peer))
            }
            (Some(peer), None) => {
                let call = format!("{} send #{}", self.name.axis, self.name.sequence);
                unlike_pair(&call, end(peer), end(site.rank))
            }
            (None, _) => mismatch(&call, &site.world_ranks, &headers),
        };
        difference.map_or(Ok(()), |difference| Err(CommError::Mismatch(difference)))
    }

    fn next_phase(&mut self, site: &Site, mut buffers: Buffers) -> Stage {
        buffers.headers = Vec::new();
        let Some(Phase { sends, receives, after }) = self.phases.next() else {
            return Stage::Over(buffers);
        };
        let element_bytes = buffers.block.as_ref().map_or(1, |block| block.dtype().size_bytes());
        let messages = |messages: Vec<messages::Message>| {
            messages.iter().map(|message| Message::data(message, element_bytes)).collect()
        };
        let (tags, sending) = match self.peer() {
            Some(_) => (MESSAGE, Sending::Synchronous),
            None => (COLLECTIVE, Sending::Buffered),
        };
        let (sends, receives) = (messages(sends), messages(receives));
        Stage::Moving(Exchange::new(site.comm, tags, sending, buffers, sends, receives), after)
    }

    /// Looks after the job; [`Poll::Ended`] asks for [`Running::finish`].
    pub(super) fn step(&mut self, site: &Site) -> Result<Poll, CommError> {
        let moved = *self.moved.get_or_insert_with(Instant::now);
        let poll = match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Asking(mut exchange) => match self.poll(site, &mut exchange, moved) {
                Ok(Poll::Ended) => {
                    let buffers = exchange.into_buffers();
                    self.compare(site, &buffers.headers)?;
                    self.stage = self.next_phase(site, buffers);
                    Poll::Moved
                }
                poll => {
                    self.stage = Stage::Asking(exchange);
                    poll?
                }
            },
            Stage::Moving(mut exchange, after) => match self.poll(site, &mut exchange, moved) {
                Ok(Poll::Ended) => {
                    let mut buffers = exchange.into_buffers();
                    self.stage = match after {
                        After::Nothing => self.next_phase(site, buffers),
                        After::Combine(op) => Stage::Combining { buffers, op, done: 0 },
                        After::Copy { from, to } => {
                            copy_within(site, &mut buffers, from, to)?;
                            self.next_phase(site, buffers)
                        }
                    };
                    Poll::Moved
                }
                poll => {
                    self.stage = Stage::Moving(exchange, after);
                    poll?
                }
            },
            Stage::Combining { mut buffers, op, done } => {
                self.stage = match combine_some(site, op, &mut buffers, done)? {
                    Some(done) => Stage::Combining { buffers, op, done },
                    None => self.next_phase(site, buffers),
                };
                Poll::Moved
            }
            over @ Stage::Over(_) => {
                self.stage = over;
                return Ok(Poll::Ended);
            }
            Stage::Failed => unreachable!("a job that has failed is not looked after"),
        };
        if poll == Poll::Moved {
            self.moved = Some(Instant::now());
        }
        Ok(poll)
    }

    fn poll(&self, site: &Site, exchange: &mut Exchange, moved: Instant) -> Result<Poll, CommError> {
        let poll = exchange.poll().map_err(|fault| self.explain(site, fault))?;
        if matches!(poll, Poll::Moved | Poll::Ended) || moved.elapsed() <= site.timeout {
            return Ok(poll);
        }
        let late: Vec<usize> = exchange.late().into_iter().map(|peer| site.world_ranks[peer]).collect();
        let mut cause = format!("did not join {} within {} s", self.name, site.timeout.as_secs_f64());
        if late.len() > 1 {
            let others: Vec<String> = late[1..].iter().take(8).map(usize::to_string).collect();
            let more = if late.len() > 9 { format!(" and {} more", late.len() - 9) } else { String::new() };
            cause += &format!("; nor did {}{more}", others.join(", "));
        }
        let rank = late.first().copied().unwrap_or(site.world_ranks[site.rank]);
        Err(CommError::Failed(Failure::fault(rank, cause)))
    }

    fn explain(&self, site: &Site, fault: Fault) -> CommError {
        let rank = site.world_ranks[site.rank];
        match fault {
            Fault::Mpi(error) => CommError::Failed(Failure::fault(rank, format!("{}: {error}", self.name))),
            Fault::Length { peer, bytes, expected } => {
                let (name, peer) = (&self.name, site.world_ranks[peer]);
                let bytes = bytes.map_or_else(|| format!("more than {expected}"), |bytes| bytes.to_string());
                let line = format!("{name}: rank {peer} sends {bytes} bytes, rank {rank} expects {expected}");
                CommError::Mismatch(line)
            }
        }
    }

    /// Hands the block back; a split is left to do.
    ///
    /// # Panics
    /// If the job has not ended.
    pub(super) fn finish(self, site: &Site) -> Option<Split> {
        let Stage::Over(buffers) = self.stage else { panic!("{} has not ended", self.name) };
        let Name { axis, kind, sequence } = &self.name;
        site.progress.end_call(axis, kind, *sequence);
        match self.end {
            End::Move(_, completion) => {
                let block = buffers.block.expect("a call that moves something has a block");
                completion.complete_with(&site.device, block, buffers.workspace);
                None
            }
            End::Barrier(reply) => {
                // Who asked may be gone; that is no concern of the others.
                let _ = reply.send(Ok(()));
                None
            }
            End::Split(split) => Some(split),
        }
    }

    /// Tells the caller, once the arena has its blocks back; what MPI still writes to is leaked.
    pub(super) fn fail(self, error: CommError) {
        drop(self.stage);
        match self.end {
            End::Move(_, completion) => completion.fail(error),
            End::Barrier(reply) => drop(reply.send(Err(error))),
            End::Split(split) => drop(split.reply.send(Err(error))),
        }
    }
}
