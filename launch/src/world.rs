//! The ranks of a run: threads of this process. Starts them, joins them, and when one fails tells why, once.

use std::any::Any;
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
        let control = control::Alone::default();
        let place = Place { progress: control.progress().clone(), ..Place::alone() };
        return body(place, Arc::new(control));
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
        let threads: Vec<_> = links.zip(Memory::new(ranks)).enumerate().map(start).collect();
        threads.into_iter().map(|thread| Ended::join(thread)).collect()
    });
    conclude(config, ended)
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
    /// What every rank was doing, if it fell to this one to say so.
    reports: Option<Vec<RankReport>>,
}

impl<R> Ended<R> {
    fn join(thread: std::io::Result<std::thread::ScopedJoinHandle<'_, Ended<R>>>) -> Self {
        let failed = |why: String| Ended { result: Err(Error::fault(why)), reports: None };
        match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| failed(message(panic.as_ref()))),
            Err(error) => failed(format!("cannot start the thread of a rank: {error}")),
        }
    }
}

/// Runs a rank's part. Its error, or its panic, is told to all ranks.
fn guard<R>(control: &dyn ControlPlane, body: impl FnOnce() -> Result<R>) -> Ended<R> {
    let rank = control.rank();
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        Err(Error::Peer(Failure::fault(rank, format!("panicked: {}", message(panic.as_ref())))))
    });
    let failure = match &result {
        Ok(_) => return Ended { result, reports: None },
        Err(Error::Peer(failure)) => failure.clone(),
        Err(error) => Failure { rank, cause: error.to_string(), exit_code: error.exit_code() },
    };
    control.fail(failure);
    Ended { result, reports: control.report() }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// The result of rank 0, or the first cause of the failure.
fn conclude<R>(config: &Config, ended: Vec<Ended<R>>) -> Result<R> {
    let mut first = None;
    let mut own = None;
    let mut peer = None;
    for Ended { result, reports } in ended {
        if let Some(reports) = reports {
            peer = Some(reports);
        }
        match result {
            Ok(value) if first.is_none() && own.is_none() => first = Some(value),
            Ok(_) => {}
            Err(error) if own.is_none() || !matches!(error, Error::Peer(_)) => own = Some(error),
            Err(_) => {}
        }
    }
    let Some(error) = own else {
        return first.ok_or_else(|| Error::fault("a run needs at least one rank"));
    };
    if let Some(reports) = peer.filter(|_| error.exit_code() == 1) {
        let table = control::table(&reports);
        eprint!("{table}");
        run::keep_failure_report(&config.run.dir, &format!("{error}\n\n{table}"));
    }
    Err(error)
}
