//! Meetings of a communicator's ranks, and how those of a part of it find each other.

use std::sync::Arc;

use tisserand_kernels::Device;

use super::calls::Calls;
use super::communicator::Nccl;
use super::fabric::Place;
use super::process::Process;
use crate::header::Kind;
use crate::{CommError, Communicator, Meeting};

/// What a meeting is about.
#[derive(Clone, Copy)]
pub(super) enum Topic {
    Call(u64),
    Message { from: usize, to: usize, number: u64 },
    Colors(u64),
    Id,
}

impl Topic {
    fn words(self) -> [u64; 4] {
        match self {
            Topic::Call(sequence) => [0, sequence, 0, 0],
            Topic::Message { from, to, number } => [1, from as u64, to as u64, number],
            Topic::Colors(sequence) => [2, sequence, 0, 0],
            Topic::Id => [3, 0, 0, 0],
        }
    }
}

/// A number that depends on all of these.
pub(super) fn digest(words: &[u64]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for word in words {
        hasher.update(&word.to_le_bytes());
    }
    u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

impl<D: Device> Nccl<D> {
    /// A meeting of some of its ranks.
    pub(super) fn meeting(&self, topic: Topic, ranks: &[usize]) -> Meeting {
        let mut members: Vec<usize> = ranks.iter().map(|rank| self.members[*rank]).collect();
        members.sort_unstable();
        let [a, b, c, d] = topic.words();
        Meeting { number: digest(&[self.number, a, b, c, d]), members: members.into() }
    }

    /// All of its ranks.
    pub(super) fn everyone(&self) -> Vec<usize> {
        (0..self.members.len()).collect()
    }

    /// See [`Communicator::split`].
    pub(super) fn split_off(&mut self, axis: &str, color: usize, key: usize) -> Result<Self, CommError> {
        let sequence = self.agree(Kind::Split)?;
        let words = self.colors(sequence, color, key)?;
        let mut ranks: Vec<usize> = (0..self.size()).filter(|rank| words[*rank][0] == color as u64).collect();
        ranks.sort_by_key(|rank| (words[*rank][1], *rank));
        let number = digest(&[self.number, sequence, color as u64]);
        self.part(axis, number, &ranks)
    }

    /// Colors and keys of all ranks.
    fn colors(&self, sequence: u64, color: usize, key: usize) -> Result<Vec<[u64; 2]>, CommError> {
        let own = [color as u64, key as u64];
        if self.members.len() == 1 {
            return Ok(vec![own]);
        }
        let (control, meeting) =
            (&self.process.control, self.meeting(Topic::Colors(sequence), &self.everyone()));
        control.bring(&meeting, own.iter().flat_map(|word| word.to_le_bytes()).collect());
        let brought = control.brought(&meeting, &format!("{} split", self.axis), self.process.timeout)?;
        let words = |rank: &usize| {
            let place = meeting.members.iter().position(|member| member == rank)?;
            let words = brought.get(place)?.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
            words.collect::<Vec<_>>().try_into().ok()
        };
        let all: Option<Vec<[u64; 2]>> = self.members.iter().map(words).collect();
        all.ok_or_else(|| CommError::Mismatch(format!("{} split: ranks of another version", self.axis)))
    }

    /// The communicator of these ranks of this one: they find each other by an id that the first of them makes.
    fn part(&self, axis: &str, number: u64, ranks: &[usize]) -> Result<Self, CommError> {
        let rank = ranks.iter().position(|rank| *rank == self.rank).expect("a rank has its own color");
        let members = ranks.iter().map(|rank| self.members[*rank]).collect();
        let process = Arc::clone(&self.process);
        let mut part = Self::new(axis, number, rank, members, process, None);
        if ranks.len() > 1 {
            let id = part.id()?;
            let Process { device, fabric, control, order, ended, timeout, .. } = &*part.process;
            let (ended, timeout) = (Arc::clone(ended), *timeout);
            let place = Place {
                axis: Arc::clone(&part.axis),
                rank,
                size: ranks.len(),
                ended,
                timeout,
                progress: part.process.progress.clone(),
            };
            let (fabric, control, order) = (Arc::clone(fabric), Arc::clone(control), Arc::clone(order));
            let line = order.run(move || fabric.connect(place, &id))??;
            let calls = Arc::new(Calls::new(line, device.clone(), control, timeout, order));
            part.process.add(&calls);
            part.calls = Some(calls);
        }
        Ok(part)
    }

    fn id(&self) -> Result<Vec<u8>, CommError> {
        let (control, meeting) = (&self.process.control, self.meeting(Topic::Id, &self.everyone()));
        let own = if self.rank == 0 { self.process.fabric.new_id()? } else { Vec::new() };
        control.bring(&meeting, own);
        let subject = format!("the start of {}", self.axis);
        let brought = control.brought(&meeting, &subject, self.process.timeout)?;
        let first = meeting.members.iter().position(|member| *member == self.members[0]);
        let id = first.and_then(|first| brought.into_iter().nth(first));
        id.ok_or_else(|| CommError::Mismatch(format!("{subject}: no rank has made an id")))
    }
}
