//! What [`Memory`](super::Memory) and [`Tcp`](super::Tcp) have in common: a rank that numbers its calls, brings
//! them to the hub, and waits at its inbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::inbox::{Hook, Inbox, run};
use super::rounds::{Call, Key, Outcome};
use super::{Channel, Combine, ControlPlane, Failure, Meeting, Progress, RankReport};

/// How long a rank that fails waits to hear from the hub whose failure was the first.
const ECHO: Duration = Duration::from_secs(2);

/// The way from a rank to the hub. Nothing here waits for other ranks, except `report` and `leave`, which
/// bound their waiting.
pub(super) trait Route: Send + Sync {
    fn deposit(&self, key: Key, call: Call);

    /// Whom this rank, which has waited too long as `waited` tells, waits for in a round. `None`: the round has
    /// ended, or this route cannot tell.
    fn late(&self, _key: Key, _waited: &str) -> Option<Failure> {
        None
    }

    fn fail(&self, failure: Failure);
    fn report(&self) -> Option<Vec<RankReport>>;
    fn leave(&self);

    /// The hub was told of this failure and has not answered.
    fn unanswered(&self, _failure: &Failure) {}
}

/// One rank's part.
pub(super) struct Member {
    rank: usize,
    world_size: usize,
    inbox: Arc<Inbox>,
    progress: Progress,
    /// The number of the next round, by channel.
    next: [AtomicU64; 4],
    route: Arc<dyn Route>,
    /// See [`Memory::with_patience`](super::Memory::with_patience).
    patience: Option<Duration>,
}

impl Member {
    pub(super) fn new(
        rank: usize,
        world_size: usize,
        inbox: Arc<Inbox>,
        progress: Progress,
        route: Arc<dyn Route>,
    ) -> Self {
        Member { rank, world_size, inbox, progress, next: Default::default(), route, patience: None }
    }

    pub(super) fn with_patience(mut self, patience: Option<Duration>) -> Self {
        self.patience = patience;
        self
    }

    fn call(&self, channel: Channel, call: Call) -> Result<Outcome, Failure> {
        if let Some(failure) = self.inbox.failure() {
            return Err(failure);
        }
        let sequence = self.next[channel as usize].fetch_add(1, Ordering::Relaxed);
        let key = Key { channel, sequence };
        self.route.deposit(key, call);
        // Rank 0 may prepare data for hours before the first step, and write files for long beside one.
        let patience = self.patience.filter(|_| channel == Channel::Step && self.progress.read().0.step > 0);
        loop {
            if let Some(outcome) = self.inbox.wait(key, patience)? {
                return Ok(outcome);
            }
            let waited = format!(
                "{:.0} s (from run.collective_timeout_s)",
                patience.unwrap_or_default().as_secs_f64()
            );
            if let Some(failure) = self.route.late(key, &waited) {
                self.fail(failure);
            }
        }
    }

    fn meet(&self, key: Key, subject: &str, patience: Duration) -> Result<Outcome, Failure> {
        let waited = format!("{:.0} s (from run.collective_timeout_s) in {subject}", patience.as_secs_f64());
        loop {
            if let Some(outcome) = self.inbox.wait(key, Some(patience))? {
                return Ok(outcome);
            }
            if let Some(failure) = self.route.late(key, &waited) {
                self.fail(failure);
            }
        }
    }

    /// The answer to another call: only a broken peer sends it.
    fn unexpected(&self, what: &str) -> Failure {
        let failure = Failure::fault(0, format!("answered {what} of rank {} with something else", self.rank));
        self.fail(failure.clone());
        failure
    }

    fn fail(&self, failure: Failure) {
        if self.inbox.failure().is_some() {
            return;
        }
        self.route.fail(failure.clone());
        // The hub decides which failure was the first, so that all ranks name the same.
        self.inbox.wait_for_failure(ECHO);
        if self.inbox.failure().is_none() {
            self.route.unanswered(&failure);
        }
        run(self.inbox.trip(&failure), &failure);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail(Failure::fault(self.rank, "died: panicked"));
        }
        self.route.leave();
    }
}

/// Whoever has a [`Member`] is a control plane.
pub(super) trait Joined: Send + Sync {
    fn member(&self) -> &Member;
}

impl<T: Joined> ControlPlane for T {
    fn rank(&self) -> usize {
        self.member().rank
    }

    fn world_size(&self) -> usize {
        self.member().world_size
    }

    fn reduce(&self, channel: Channel, combine: Combine, words: &[u64]) -> Result<Vec<u64>, Failure> {
        match self.member().call(channel, Call::Reduce { combine, words: words.to_vec() })? {
            Outcome::Words(combined) if combined.len() == words.len() => Ok(combined),
            _ => Err(self.member().unexpected("a reduce")),
        }
    }

    fn gather(&self, channel: Channel, bytes: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        match self.member().call(channel, Call::Gather(bytes))? {
            Outcome::Gathered(all) => Ok(Some(all)),
            Outcome::Nothing => Ok(None),
            _ => Err(self.member().unexpected("a gather")),
        }
    }

    fn broadcast(&self, channel: Channel, bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
        // Others' bytes are not looked at, so they need not travel.
        let bytes = if self.member().rank == 0 { bytes } else { Vec::new() };
        match self.member().call(channel, Call::Broadcast(bytes))? {
            Outcome::Bytes(bytes) => Ok(bytes),
            _ => Err(self.member().unexpected("a broadcast")),
        }
    }

    fn bring(&self, meeting: &Meeting, bytes: Vec<u8>) {
        let members = meeting.members.iter().map(|member| *member as u32).collect();
        self.member().route.deposit(meeting_key(meeting), Call::Meet { members, bytes });
    }

    fn brought(&self, meeting: &Meeting, subject: &str, patience: Duration) -> Result<Vec<Vec<u8>>, Failure> {
        match self.member().meet(meeting_key(meeting), subject, patience)? {
            Outcome::Met(all) if all.len() == meeting.members.len() => Ok(all),
            _ => Err(self.member().unexpected("a meeting")),
        }
    }

    fn progress(&self) -> &Progress {
        &self.member().progress
    }

    fn fail(&self, failure: Failure) {
        self.member().fail(failure);
    }

    fn failure(&self) -> Option<Failure> {
        self.member().inbox.failure()
    }

    fn on_failure(&self, hook: Hook) {
        self.member().inbox.on_failure(hook);
    }

    fn report(&self) -> Option<Vec<RankReport>> {
        self.member().route.report()
    }
}

fn meeting_key(meeting: &Meeting) -> Key {
    Key { channel: Channel::Calls, sequence: meeting.number }
}
