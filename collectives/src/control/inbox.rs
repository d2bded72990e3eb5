//! Where the threads of one rank wait: for the outcomes of rounds, or for the news of a failure.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::hub::Delivery;
use super::rounds::{Key, Outcome};
use super::{Failure, lock};

/// What a communicator wants done when a failure is known.
pub(super) type Hook = Box<dyn FnOnce(&Failure) + Send>;

/// Outcomes that have come and are not fetched yet, and the failure that ends all waiting.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    outcomes: HashMap<Key, Arc<Delivery>>,
    failure: Option<Failure>,
    closed: Option<Failure>,
    hooks: Vec<Hook>,
}

impl Inbox {
    pub(super) fn deliver(&self, delivery: Arc<Delivery>) {
        lock(&self.state).outcomes.insert(delivery.key, delivery);
        self.changed.notify_all();
    }

    /// Parks until the outcome is there. One that came before a failure is still handed out: the other ranks
    /// act on it as well. `None` if it has not come for as long as `patience`.
    pub(super) fn wait(&self, key: Key, patience: Option<Duration>) -> Result<Option<Outcome>, Failure> {
        let deadline = patience.map(|patience| Instant::now() + patience);
        let mut state = lock(&self.state);
        loop {
            if let Some(delivery) = state.outcomes.remove(&key) {
                drop(state);
                // Gathered bytes have one owner and are not copied.
                let outcome = Arc::try_unwrap(delivery)
                    .map_or_else(|shared| shared.outcome.clone(), |delivery| delivery.outcome);
                return Ok(Some(outcome));
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if let Some(failure) = state.closed.clone() {
                drop(state);
                run(self.trip(&failure), &failure);
                return Err(failure);
            }
            let Some(deadline) = deadline else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Wakes every waiting call with `failure`, unless one is known already. The caller runs the hooks, once
    /// all ranks it has to tell are told and no lock is held.
    #[must_use = "hooks wake the threads that wait in communicators"]
    pub(super) fn trip(&self, failure: &Failure) -> Vec<Hook> {
        let mut state = lock(&self.state);
        if state.failure.is_some() {
            return Vec::new();
        }
        state.failure = Some(failure.clone());
        self.changed.notify_all();
        std::mem::take(&mut state.hooks)
    }

    /// No outcomes will come any more. That is a failure only of those who call.
    pub(super) fn close(&self, failure: Failure) {
        lock(&self.state).closed.get_or_insert(failure);
        self.changed.notify_all();
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        lock(&self.state).failure.clone()
    }

    /// Parks until a failure is known, or no news can come, or for as long as `patience`.
    pub(super) fn wait_for_failure(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = lock(&self.state);
        while state.failure.is_none() && state.closed.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn on_failure(&self, hook: Hook) {
        let mut state = lock(&self.state);
        match state.failure.clone() {
            None => state.hooks.push(hook),
            Some(failure) => {
                drop(state);
                hook(&failure);
            }
        }
    }
}

/// Runs hooks that [`Inbox::trip`] handed out.
pub(super) fn run(hooks: Vec<Hook>, failure: &Failure) {
    for hook in hooks {
        hook(failure);
    }
}
