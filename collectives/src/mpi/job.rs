//! What a communicator is asked to do, and where.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tisserand_kernels::{Block, Cpu};

use super::ffi::Comm;
use crate::header::Header;
use crate::{Call, CommError, Completion, Progress};

/// A call's place in the calls of its communicator.
#[derive(Clone)]
pub(super) struct Name {
    pub(super) axis: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) sequence: u64,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} #{}", self.axis, self.kind, self.sequence)
    }
}

pub(super) struct Job {
    pub(super) name: Name,
    pub(super) header: Header,
    /// Whether all ranks tell each other what they call before anything is moved.
    pub(super) checked: bool,
    pub(super) task: Task,
}

pub(super) enum Task {
    Move {
        call: Call,
        block: Block<Cpu>,
        workspace: Option<Block<Cpu>>,
        completion: Completion<Cpu>,
    },
    /// Nothing but the headers.
    Barrier {
        reply: SyncSender<Result<(), CommError>>,
    },
    /// The headers, and then MPI's own call, which blocks, but not for long: every rank has come to it.
    Split(Split),
}

pub(super) struct Split {
    pub(super) color: usize,
    pub(super) key: usize,
    pub(super) reply: SyncSender<Result<Member, CommError>>,
}

/// A rank's place in a new communicator.
pub(super) struct Member {
    pub(super) line: usize,
    pub(super) rank: usize,
    pub(super) size: usize,
}

/// Where jobs are carried out.
pub(super) struct Site {
    pub(super) comm: Comm,
    pub(super) rank: usize,
    pub(super) size: usize,
    /// Ranks of the communicator as ranks of the job.
    pub(super) world_ranks: Vec<usize>,
    pub(super) device: Cpu,
    pub(super) progress: Progress,
    pub(super) timeout: Duration,
}

impl Job {
    /// Tells the caller that a job is not begun.
    pub(super) fn fail(self, error: CommError) {
        match self.task {
            Task::Move { block, workspace, completion, .. } => {
                drop((block, workspace));
                completion.fail(error);
            }
            Task::Barrier { reply } => drop(reply.send(Err(error))),
            Task::Split(split) => drop(split.reply.send(Err(error))),
        }
    }
}
