//! What ranks tell each other of a call before anything moves, and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use super::fabric::Name;
use crate::header::{Header, mismatch, unlike_pair};
use crate::{CommError, ControlPlane, Meeting};

/// What ranks tell each other about a call.
pub(super) struct Check {
    pub(super) meeting: Meeting,
    /// Ranks of the job, in the order of the communicator.
    pub(super) ranks: Arc<[usize]>,
    pub(super) subject: Subject,
}

/// What they compare.
pub(super) enum Subject {
    /// All call the same.
    Same(Name),
    /// Two ends of a message.
    Message { name: Name, sender: usize, receiver: usize },
}

impl Check {
    /// # Errors
    /// Ranks differ, or do not come.
    pub(super) fn run(&self, control: &dyn ControlPlane, timeout: Duration) -> Result<(), CommError> {
        let (Subject::Same(name) | Subject::Message { name, .. }) = &self.subject;
        let brought = control.brought(&self.meeting, &name.to_string(), timeout)?;
        let header = |rank: usize| {
            let place = self.meeting.members.iter().position(|member| *member == rank)?;
            Header::decode(brought.get(place)?)
        };
        let difference = match &self.subject {
            Subject::Same(name) => {
                let headers: Vec<_> = self.ranks.iter().map(|rank| header(*rank)).collect();
                mismatch(&format!("{} call #{}", name.axis, name.sequence), &self.ranks, &headers)
            }
            Subject::Message { name, sender, receiver } => {
                let (sent, received) = (header(*sender), header(*receiver));
                let message = format!("{} send #{}", name.axis, name.sequence);
                unlike_pair(&message, (*sender, sent), (*receiver, received))
            }
        };
        difference.map_or(Ok(()), |difference| Err(CommError::Mismatch(difference)))
    }
}
