//! The ranks of a run: threads of this process, which are started and joined here, or processes, of which this is
//! one (`processes`). When one fails tells why, once.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tisserand_collectives::control::{self, ControlPlane, Failure, Memory, RankReport};
use tisserand_collectives::threads;
use tisserand_runtime::config::Config;
use tisserand_runtime::{Error, Result, run};

use crate::device::{self, Link, Place};
use crate::ranks::{Ranks, Source};

/// Where the ranks of a run are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum World {
    /// So many threads of this process.
    Threads(usize),
    /// Processes, of which this is one.
    #[cfg(feature = "mpi")]
    Processes,
}

impl World {
    /// `threads` is `--ranks`.
    ///
    /// # Errors
    /// Both a launcher and `--ranks` name ranks, or this program was built without what processes need. The same
    /// at all of them.
    pub fn new(ranks: &Ranks, threads: Option<usize>) -> Result<World> {
        let described = ranks.describe();
        match threads {
            _ if ranks.world_size == 1 => Ok(World::Threads(threads.unwrap_or(1))),
            Some(threads) => Err(Error::input(format!(
                "--ranks {threads} makes ranks of threads, but this process is {described}; hint: one process for \
                 --ranks, or leave --ranks out"
            ))),
            #[cfg(feature = "mpi")]
            None => Ok(World::Processes),
            #[cfg(not(feature = "mpi"))]
            None => Err(Error::input(format!(
                "this program was built without MPI, but this process is {described}; hint: cargo build --release \
                 --features mpi, or one process with --ranks {} for threads of one machine",
                ranks.world_size
            ))),
        }
    }
}

impl World {
    /// Number of ranks.
    pub fn size(&self, ranks: &Ranks) -> usize {
        match *self {
            World::Threads(threads) => threads.max(ranks.world_size),
            #[cfg(feature = "mpi")]
            World::Processes => ranks.world_size,
        }
    }

    /// Runs `body` on this process's rank, or on all of them; see [`on_threads`] and `processes::join`.
    ///
    /// # Errors
    /// Of a rank.
    pub fn run<R: Send>(
        &self,
        ranks: &Ranks,
        config: &Config,
        body: impl Fn(Place, Arc<dyn ControlPlane>) -> Result<R> + Sync,
    ) -> Result<R> {
        match *self {
            World::Threads(threads) => {
                if matches!(ranks.source, Source::Script { .. }) {
                    eprintln!("warning: {}", ranks.describe());
                }
                on_threads(threads, &Terms::of(config), body)
            }
            #[cfg(feature = "mpi")]
            World::Processes => crate::processes::join(ranks, config, body),
        }
    }
}

/// What a rank returns for an error that it met before it could tell the others: all may have met it. Rank 0
/// speaks. The others return the exit code without a word if they `agree` on that, else speak later, by when a
/// launcher has ended them if rank 0 has failed.
pub fn speak(rank: usize, agree: Agree, result: Result<u8>) -> Result<u8> {
    const LATER: Duration = Duration::from_secs(3);
    match (result, agree) {
        (Err(error), Agree::Surely) if rank > 0 => {
            // A process that ends before rank 0 has spoken may be the reason why rank 0 is ended.
            std::thread::sleep(Duration::from_secs(1));
            Ok(error.exit_code())
        }
        (Err(error), Agree::Perhaps) if rank > 0 => {
            std::thread::sleep(LATER);
            match &error {
                Error::Peer(failure) if failure.rank != rank => {}
                Error::Peer(failure) => eprintln!("error: {failure}"),
                error => eprintln!("error: rank {rank}: {error}"),
            }
            Ok(error.exit_code())
        }
        (result, _) => result,
    }
}

/// Whether all ranks meet an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Agree {
    /// It follows from what is the same at all of them.
    Surely,
    /// It may be this one's alone.
    Perhaps,
}

/// What ranks that work together agree on besides their number.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How long a collective may take.
    pub timeout: Duration,
    /// Where the report of a failure is kept, if anywhere.
    pub run_dir: Option<PathBuf>,
}

impl Terms {
    /// Those of a run.
    pub fn of(config: &Config) -> Self {
        let timeout = Duration::from_secs_f64(config.run.collective_timeout_s);
        Terms { timeout, run_dir: Some(config.run.dir.clone()) }
    }

    /// Those of a command that leaves nothing behind.
    pub fn passing() -> Self {
        Terms { timeout: Duration::from_secs(600), run_dir: None }
    }
}

/// Runs `body` on every rank and returns what it returns on rank 0. If a rank fails, all end, a table of what
/// each was doing goes to standard error and to the run folder, and the failure is the result.
pub fn on_threads<R: Send>(
    ranks: usize,
    terms: &Terms,
    body: impl Fn(Place, Arc<dyn ControlPlane>) -> Result<R> + Sync,
) -> Result<R> {
    if ranks == 1 {
        let control = control::Alone::default();
        let place = Place { progress: control.progress().clone(), ..Place::alone() };
        return body(place, Arc::new(control));
    }
    let seats = || threads::seats(ranks, terms.timeout).into_iter();
    let links = seats().zip(seats());
    let ended: Vec<Ended<R>> = std::thread::scope(|scope| {
        let start = |(rank, ((world, inner), control)): (usize, _)| {
            let body = &body;
            let control: Arc<dyn ControlPlane> = Arc::new(control);
            let name = format!("rank-{rank}");
            let run = move || {
                wake_on_failure(control.as_ref(), [&world, &inner]);
                let progress = control.progress().clone();
                let link = Link::Threads([world, inner]);
                let (cores, notices) = (device::cores(ranks), Vec::new());
                let place = Place { local_rank: rank, cores, link, progress, notices };
                guard(control.as_ref(), || body(place, Arc::clone(&control)))
            };
            std::thread::Builder::new().name(name).spawn_scoped(scope, run)
        };
        let threads: Vec<_> =
            links.zip(Memory::with_patience(ranks, patience(terms.timeout))).enumerate().map(start).collect();
        threads.into_iter().map(|thread| Ended::join(thread)).collect()
    });
    conclude(terms, ended)
}

/// How long a rank waits for the others between collectives. Those come to their own end first, and know better who
/// is late.
pub(crate) fn patience(collective_timeout: Duration) -> Duration {
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
    let result = attempt(body);
    let Err(error) = &result else { return Ended { result, failure: None, reports: None } };
    control.fail(error.failure(control.rank()));
    Ended { result, failure: control.failure(), reports: control.report() }
}

/// Runs a rank's part; a panic becomes its error.
pub(crate) fn attempt<R>(body: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(Error::panicked(panic.as_ref())))
}

/// Says what every rank was doing when the run failed, on standard error and in the run folder, and `then` the last
/// line, in one piece. Bad input needs no table.
pub(crate) fn tell(
    terms: &Terms,
    error: &(impl Display + ?Sized),
    reports: &[RankReport],
    exit_code: u8,
    then: &str,
) {
    if exit_code != 1 {
        return eprint!("{then}");
    }
    let table = control::table(reports);
    let text = format!("{table}{then}");
    eprint!("{text}");
    if let Some(dir) = &terms.run_dir {
        run::keep_failure_report(dir, &format!("{error}\n\n{table}"));
    }
}

/// The result of rank 0, or the first cause of the failure.
fn conclude<R>(terms: &Terms, mut ended: Vec<Ended<R>>) -> Result<R> {
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
    if let Some(reports) = reports.filter(|_| !agreed) {
        tell(terms, &error, &reports, error.exit_code(), "");
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(world_size: &'static str) -> Ranks {
        let variables = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", world_size)];
        let lookup = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Ranks::discover(&lookup).unwrap()
    }

    #[test]
    fn one_process_may_have_ranks_that_are_threads_and_several_may_not() {
        assert_eq!(World::new(&ranks("1"), None).unwrap(), World::Threads(1));
        assert_eq!(World::new(&ranks("1"), Some(4)).unwrap(), World::Threads(4));
        let error = World::new(&ranks("2"), Some(4)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error
                .to_string()
                .starts_with("--ranks 4 makes ranks of threads, but this process is rank 0 of 2")
        );
    }

    #[cfg(not(feature = "mpi"))]
    #[test]
    fn a_build_without_mpi_says_what_to_build() {
        let error = World::new(&ranks("2"), None).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2);
        assert!(
            text.starts_with("this program was built without MPI, but this process is rank 0 of 2"),
            "{text}"
        );
        assert!(
            text.contains("hint: cargo build --release --features mpi, or one process with --ranks 2"),
            "{text}"
        );
    }

    #[cfg(feature = "mpi")]
    #[test]
    fn ranks_of_a_launcher_are_processes() {
        assert_eq!(World::new(&ranks("2"), None).unwrap(), World::Processes);
    }
}
