//! What ends this process when a rank has failed, whatever its other threads do.
//!
//! The threads that train learn of a failure where they wait for others: soon, if they do, and not at all if they
//! are inside of a call of MPI that never returns. So a thread of its own waits for the news, tells why the run has
//! failed if that falls to this rank, gives the others [`GRACE`], and ends the process. Nothing is lost with it:
//! after a failure nothing is saved, and a save under way is a folder that the next start clears away.
//!
//! **Why at once, and without the usual way out.** mpirun ends the other processes when one has ended badly: Open
//! MPI sends SIGTERM after a second, which asks for a stop and comes too late to matter, and SIGKILL after two. By
//! then the table must be out. MPI_Finalize and the destructors of an MPI library wait for processes that are dead;
//! MPI_Abort would end the rank that is about to report.
//!
//! **Panics** of any thread count as failures, and are told before the thread unwinds: what it drops on the way may
//! wait for other ranks.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tisserand_collectives::control::Tcp;
use tisserand_collectives::{ControlPlane, Failure, end_process};
use tisserand_runtime::config::Config;
use tisserand_runtime::{Error, Result};

use crate::world::{self, Terms};

/// The process outlives the news of a failure by so much, so that what is on its way to other ranks arrives and
/// the one that reports is not ended by the launcher.
const LINGER: Duration = Duration::from_millis(600);

/// The threads that train have so long to come to their end.
const GRACE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Watch {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// A thread of this process, with its last words.
    panicked: Option<Failure>,
    /// Of any rank, and when it was known.
    failed: Option<(Failure, Instant)>,
    /// The thread that trains has come to its end.
    ended: bool,
    /// All ranks are done.
    dismissed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn wait_while(&self, condition: impl FnMut(&mut State) -> bool) -> MutexGuard<'_, State> {
        self.changed.wait_while(self.state(), condition).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Begins to watch over this process.
    pub(super) fn start(control: &Arc<Tcp>, config: &Config) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (watcher, weak, terms) = (Arc::clone(&shared), Arc::downgrade(control), Terms::of(config));
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watch(&watcher, &weak, &terms))
            .map_err(|error| Error::fault(format!("cannot start the thread that watches: {error}")))?;
        let on_failure = Arc::clone(&shared);
        control.on_failure(Box::new(move |failure: &Failure| {
            let known = (failure.clone(), Instant::now());
            on_failure.change(|state| state.failed = Some(known));
        }));
        let (on_panic, rank) = (Arc::clone(&shared), control.rank());
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            print(panic);
            let cause = Error::panicked(panic.payload()).to_string();
            on_panic.change(|state| {
                state.panicked.get_or_insert(Failure::fault(rank, cause));
            });
        }));
        Ok(Watch { shared })
    }

    /// All ranks are done: what happens to them from now on is no failure of the run.
    pub(super) fn dismiss(self) {
        self.shared.change(|state| state.dismissed = true);
    }

    /// The thread that trains has come to its end because of a failure that the control plane knows.
    pub(super) fn end(self) -> ! {
        self.shared.change(|state| state.ended = true);
        loop {
            std::thread::park();
        }
    }
}

fn watch(shared: &Shared, control: &Weak<Tcp>, terms: &Terms) {
    let state =
        shared.wait_while(|state| state.failed.is_none() && state.panicked.is_none() && !state.dismissed);
    if state.dismissed {
        return;
    }
    let panicked = state.panicked.clone();
    drop(state);
    // Before it is dropped, all ranks are done, and that is known here.
    let Some(control) = control.upgrade() else { return };
    if let Some(failure) = panicked {
        control.fail(failure);
    }
    let Some((failure, known)) = shared.wait_while(|state| state.failed.is_none()).failed.clone() else {
        return;
    };
    if let Some(reports) = control.report() {
        world::tell_for_all(terms, &failure, &reports, "");
    }
    let left = |until: Duration| (known + until).saturating_duration_since(Instant::now());
    let ended = shared.changed.wait_timeout_while(shared.state(), left(GRACE), |state| !state.ended);
    drop(ended);
    std::thread::sleep(left(LINGER));
    end_process(failure.exit_code)
}
