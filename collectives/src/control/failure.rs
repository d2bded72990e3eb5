//! Why a run of several ranks ends before its time.

use serde::{Deserialize, Serialize};

/// A rank that cannot go on. Known to all ranks, and the same at all of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("rank {rank}: {cause}")]
pub struct Failure {
    /// The rank that failed: which died, was late, or met an error.
    pub rank: usize,
    /// What happened, in one line.
    pub cause: String,
    /// The exit code that every process returns: 1, or 2 for bad input.
    pub exit_code: u8,
    /// The run refuses to go on, and what ranks were doing is no matter.
    pub is_refusal: bool,
}

impl Failure {
    /// A rank died or was late, or the machine failed it: exit code 1.
    pub fn fault(rank: usize, cause: impl Into<String>) -> Self {
        Failure { rank, cause: cause.into(), exit_code: 1, is_refusal: false }
    }

    /// Whether what every rank was doing explains it.
    pub fn wants_table(&self) -> bool {
        self.exit_code == 1 && !self.is_refusal
    }
}
