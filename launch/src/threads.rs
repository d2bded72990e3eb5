//! The ranks of a run as threads of this process. When one fails, all end, and why is told once.
//!
//! A thread that hangs cannot be ended, and joining it would hang too. So once a rank has failed the others have
//! `GRACE` to come to their end; then a thread of its own tells, and ends the process with what still runs. Nothing
//! is lost with it: after a failure nothing is saved, and a save under way is a folder that the next start clears away.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tisserand_collectives::control::{self, ControlPlane, Failure, Memory, RankReport};
use tisserand_runtime::opener::Opener;
use tisserand_runtime::{Error, Result};

use crate::device::{self, Link, Place, ThreadSeats};
use crate::world::{Terms, attempt, patience, tell, tell_for_all};

/// How long ranks have to come to their end after one has failed.
const GRACE: Duration = Duration::from_secs(5);

/// Runs `body` on every rank and returns what it returns on rank 0. If a rank fails, all end, a table of what
/// each was doing goes to standard error and to the run folder, and the failure is the result; or, if a rank hangs,
/// the process ends here.
///
/// # Errors
/// Of a rank, or its panic.
pub fn join<R: Send>(
    ranks: usize,
    terms: &Terms,
    body: impl Fn(Place, Arc<dyn ControlPlane>) -> Result<R> + Sync,
) -> Result<R> {
    if ranks == 1 {
        let control = control::Alone::default();
        let place = Place { progress: control.progress().clone(), ..Place::alone() };
        return body(place, Arc::new(control));
    }
    let end = End::watched(terms)?;
    let links = ThreadSeats::of(ranks, terms.timeout)
        .into_iter()
        .zip(Memory::with_patience(ranks, patience(terms.timeout)))
        .zip(std::iter::repeat_n(Opener::once(), ranks));
    let results: Vec<Result<R>> = std::thread::scope(|scope| {
        let start = |(rank, ((seats, control), opener)): (usize, ((ThreadSeats, Memory), Opener))| {
            let (body, end) = (&body, Arc::clone(&end));
            let control: Arc<dyn ControlPlane> = Arc::new(control);
            let run = move || {
                wake_on_failure(control.as_ref(), &seats);
                let progress = control.progress().clone();
                let link = Link::Threads(seats);
                let (cores, notices) = (device::cores(ranks), Vec::new());
                let place = Place { local_rank: rank, cores, opener, link, progress, notices };
                end.guard(control.as_ref(), || body(place, Arc::clone(&control)))
            };
            std::thread::Builder::new().name(format!("rank-{rank}")).spawn_scoped(scope, run)
        };
        let ranks: Vec<_> = links.enumerate().map(start).collect();
        ranks.into_iter().map(joined).collect()
    });
    let (failure, reports) = end.come();
    conclude(terms, results, failure, reports)
}

/// A failure ends the collectives that wait.
fn wake_on_failure(control: &dyn ControlPlane, seats: &ThreadSeats) {
    for aborter in seats.aborters() {
        control.on_failure(Box::new(move |failure| aborter(failure)));
    }
}

fn joined<R>(thread: std::io::Result<std::thread::ScopedJoinHandle<'_, Result<R>>>) -> Result<R> {
    match thread {
        Ok(thread) => thread.join().unwrap_or_else(|panic| Err(Error::panicked(panic.as_ref()))),
        Err(error) => Err(Error::fault(format!("cannot start the thread of a rank: {error}"))),
    }
}

/// How the run comes to its end.
#[derive(Default)]
struct End {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The failure that ended the run, if one did.
    failure: Option<Failure>,
    /// What every rank was doing then.
    reports: Option<Vec<RankReport>>,
    /// All threads have been joined.
    all_ended: bool,
    /// They have not, and the process is ending.
    given_up: bool,
}

impl End {
    /// With a thread that ends the process if ranks hang.
    fn watched(terms: &Terms) -> Result<Arc<Self>> {
        let end = Arc::<End>::default();
        let (watched, terms) = (Arc::clone(&end), terms.clone());
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watched.watch(&terms))
            .map_err(|error| Error::fault(format!("cannot start the thread that watches: {error}")))?;
        Ok(end)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a rank's part. Its error, or its panic, is told to all ranks.
    fn guard<R>(&self, control: &dyn ControlPlane, body: impl FnOnce() -> Result<R>) -> Result<R> {
        let result = attempt(body);
        if let Err(error) = &result {
            control.fail(error.failure(control.rank()));
            let (failure, reports) = (control.failure(), control.report());
            let mut state = self.state();
            state.failure = state.failure.take().or(failure);
            state.reports = state.reports.take().or(reports);
            self.changed.notify_all();
        }
        result
    }

    /// All threads have been joined: with what failure, and what they were doing.
    fn come(&self) -> (Option<Failure>, Option<Vec<RankReport>>) {
        let mut state = self.state();
        // The process ends while another thread tells.
        while state.given_up {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.all_ended = true;
        self.changed.notify_all();
        (state.failure.take(), state.reports.take())
    }

    fn watch(&self, terms: &Terms) {
        let runs = |state: &mut State| state.failure.is_none() && !state.all_ended;
        let state = self.changed.wait_while(self.state(), runs).unwrap_or_else(PoisonError::into_inner);
        let ending = self.changed.wait_timeout_while(state, GRACE, |state| !state.all_ended);
        let mut state = ending.unwrap_or_else(PoisonError::into_inner).0;
        let Some(failure) = state.failure.clone().filter(|_| !state.all_ended) else { return };
        state.given_up = true;
        let reports = state.reports.take().unwrap_or_default();
        drop(state);
        let then = format!(
            "not all ranks ended within {:.0} s; the process ends without them\n",
            GRACE.as_secs_f64()
        );
        tell_for_all(terms, &failure, &reports, &then);
        std::process::exit(failure.exit_code.into())
    }
}

/// The result of rank 0, or the first cause of the failure.
fn conclude<R>(
    terms: &Terms,
    results: Vec<Result<R>>,
    failure: Option<Failure>,
    reports: Option<Vec<RankReport>>,
) -> Result<R> {
    let Some(failure) = failure else {
        // Nobody failed, but for threads that could not be started.
        let results: Result<Vec<R>> = results.into_iter().collect();
        return results?.into_iter().next().ok_or_else(|| Error::fault("a run needs at least one rank"));
    };
    let own = |result: &Result<R>| result.as_ref().is_err_and(Error::is_own);
    // What all ranks came to by themselves, a loss that diverges, say, is nobody's death; and rank 0 speaks for
    // itself without its name.
    let agreed = results.iter().all(own);
    let speaks = agreed || (!failure.wants_table() && results.first().is_some_and(own));
    let first = results.into_iter().next().and_then(Result::err).filter(|_| speaks);
    let error = first.unwrap_or_else(|| Error::Peer(failure.clone()));
    if let Some(reports) = reports.filter(|_| !agreed) {
        tell(terms, &error, &failure, &reports, "");
    }
    Err(error)
}
