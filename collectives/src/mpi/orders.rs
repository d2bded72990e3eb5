//! What the callers' threads leave for the thread that owns MPI.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::job::Job;
use crate::{CommError, Failure};

/// The one place where the threads meet.
#[derive(Default)]
pub(super) struct Orders {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// With the index of their communicator.
    jobs: Vec<(usize, Job)>,
    /// Why no job is taken any more.
    refusal: Option<CommError>,
    /// Whether the thread knows of the refusal.
    refusal_taken: bool,
    end: bool,
    /// The thread is gone.
    ended: bool,
}

/// What has come since the thread looked last.
pub(super) struct News {
    pub(super) jobs: Vec<(usize, Job)>,
    pub(super) failure: Option<CommError>,
    pub(super) end: bool,
}

/// How long to wait for news.
#[derive(Clone, Copy)]
pub(super) enum Wait {
    Not,
    AtMost(Duration),
    ForNews,
}

impl State {
    fn has_news(&self) -> bool {
        let refused = self.refusal.is_some() && !self.refusal_taken;
        !self.jobs.is_empty() || refused || self.end
    }
}

impl Orders {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    pub(super) fn take(&self, wait: Wait) -> News {
        let mut state = self.state();
        match wait {
            Wait::Not => {}
            Wait::AtMost(limit) => {
                let waited = self.changed.wait_timeout_while(state, limit, |state| !state.has_news());
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            Wait::ForNews => {
                let waited = self.changed.wait_while(state, |state| !state.has_news());
                state = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }
        let failure = state.refusal.clone().filter(|_| !state.refusal_taken);
        state.refusal_taken |= failure.is_some();
        News { jobs: std::mem::take(&mut state.jobs), failure, end: state.end }
    }

    /// # Errors
    /// The failure that ended the communicators of this process.
    pub(super) fn submit(&self, line: usize, job: Job) -> Result<(), CommError> {
        let mut state = self.state();
        if let Some(error) = &state.refusal {
            return Err(error.clone());
        }
        state.jobs.push((line, job));
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Why no job is taken any more.
    pub(super) fn refusal(&self) -> Option<CommError> {
        self.state().refusal.clone()
    }

    /// Ends every job with this failure, unless another one came first.
    pub(super) fn fail(&self, failure: Failure) {
        self.change(|state| {
            state.refusal.get_or_insert(CommError::Failed(failure));
        });
    }

    pub(super) fn end(&self) {
        self.change(|state| state.end = true);
    }

    /// Called by the thread when it goes, also by a panic: nobody waits for it any more.
    pub(super) fn ended(&self) {
        let gone = || CommError::Failed(Failure::fault(0, "the thread that owns MPI has ended"));
        let mut jobs = Vec::new();
        self.change(|state| {
            state.ended = true;
            state.refusal.get_or_insert_with(gone);
            jobs = std::mem::take(&mut state.jobs);
        });
        let error = self.refusal().unwrap_or_else(gone);
        jobs.into_iter().for_each(|(_, job)| job.fail(error.clone()));
    }

    /// Waits until the thread is gone; returns whether it is.
    pub(super) fn wait_until_ended(&self, limit: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), limit, |state| !state.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }
}
