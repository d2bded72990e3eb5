//! The ranks of a run: threads of this process. Starts them, joins them, and when one fails tells why, once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tisserand_collectives::control::{self, ControlPlane, Failure, Memory, RankReport};
use tisserand_collectives::threads;
use tisserand_runtime::config::Config;
use tisserand_runtime::{Error, Result, run};

use crate::device::{Link, Place};

/// Runs `body` on every rank and returns what it returns on rank 0. If a rank fails, all end, a table of what
/// each was doing goes to standard error and to the run folder, and the failure is the result.
pub fn on_threads<R: Send>(
    ranks: usize,
    config: &Config,
    body: impl Fn(Place, Arc<dyn ControlPlane>) -> Result<R> + Sync,
) -> Result<R> {
    if ranks == 1 {
        return body(Place::alone(), Arc::new(control::Alone::default()));
    }
    let timeout = Duration::from_secs_f64(config.run.collective_timeout_s);
    let links = threads::seats(ranks, timeout).into_iter().zip(threads::seats(ranks, timeout));
    let ended: Vec<Ended<R>> = std::thread::scope(|scope| {
        let start = |(rank, ((world, inner), control)): (usize, _)| {
            let body = &body;
            let control: Arc<dyn ControlPlane> = Arc::new(control);
            let name = format!("rank-{rank}");
            let run = move || {
                wake_on_failure(control.as_ref(), [&world, &inner]);
                let progress = control.progress().clone();
                let link = Link::Threads([world, inner]);
                let place = Place { local_rank: rank, local_size: ranks, link, progress };
                guard(control.as_ref(), || body(place, Arc::clone(&control)))
            };
            std::thread::Builder::new().name(name).spawn_scoped(scope, run)
        };
        let threads: Vec<_> =
            links.zip(Memory::with_patience(ranks, patience(timeout))).enumerate().map(start).collect();
        threads.into_iter().map(|thread| Ended::join(thread)).collect()
    });
    conclude(config, ended)
}

/// How long a rank waits for the others between collectives. Those come to their own end first, and know better who
/// is late.
fn patience(collective_timeout: Duration) -> Duration {
    collective_timeout.mul_f64(1.25)
}

/// A failure ends the collectives that wait.
fn wake_on_failure(control: &dyn ControlPlane, seats: [&threads::Seat<tisserand_kernels::Cpu>; 2]) {
    for aborter in seats.map(threads::Seat::aborter) {
        control.on_failure(Box::new(move |failure| aborter(failure)));
    }
}

/// How a rank ended.
struct Ended<R> {
    result: Result<R>,
    /// The failure that ended the run, if one did: the same at all ranks.
    failure: Option<Failure>,
    /// What every rank was doing, if it fell to this one to say so.
    reports: Option<Vec<RankReport>>,
}

impl<R> Ended<R> {
    fn join(thread: std::io::Result<std::thread::ScopedJoinHandle<'_, Ended<R>>>) -> Self {
        let failed = |error: Error| Ended { result: Err(error), failure: None, reports: None };
        match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| failed(Error::panicked(panic.as_ref()))),
            Err(error) => failed(Error::fault(format!("cannot start the thread of a rank: {error}"))),
        }
    }
}

/// Runs a rank's part. Its error, or its panic, is told to all ranks.
fn guard<R>(control: &dyn ControlPlane, body: impl FnOnce() -> Result<R>) -> Ended<R> {
    let result =
        catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(Error::panicked(panic.as_ref())));
    let Err(error) = &result else { return Ended { result, failure: None, reports: None } };
    control.fail(error.failure(control.rank()));
    Ended { result, failure: control.failure(), reports: control.report() }
}

/// The result of rank 0, or the first cause of the failure.
fn conclude<R>(config: &Config, mut ended: Vec<Ended<R>>) -> Result<R> {
    let reports = ended.iter_mut().find_map(|rank| rank.reports.take());
    let Some(failure) = ended.iter().find_map(|rank| rank.failure.clone()) else {
        // Nobody failed, but for threads that could not be started.
        let results: Result<Vec<R>> = ended.into_iter().map(|rank| rank.result).collect();
        return results?.into_iter().next().ok_or_else(|| Error::fault("a run needs at least one rank"));
    };
    let own = |rank: &Ended<R>| rank.result.as_ref().is_err_and(Error::is_own);
    // What all ranks came to by themselves, a loss that diverges, say, is nobody's death; and rank 0 speaks for
    // itself without its name.
    let agreed = ended.iter().all(own);
    let speaks = agreed || (failure.exit_code != 1 && ended.first().is_some_and(own));
    let first = ended.into_iter().next().and_then(|rank| rank.result.err()).filter(|_| speaks);
    let error = first.unwrap_or(Error::Peer(failure));
    if let Some(reports) = reports.filter(|_| !agreed && error.exit_code() == 1) {
        let table = control::table(&reports);
        eprint!("{table}");
        run::keep_failure_report(&config.run.dir, &format!("{error}\n\n{table}"));
    }
    Err(error)
}
