//! The ranks of a run: threads of this process ([`threads`](crate::threads)), or processes, of which this is one
//! (`processes`); and what both do when one fails.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tisserand_collectives::control::{self, ControlPlane, Failure, RankReport};
use tisserand_runtime::config::Config;
use tisserand_runtime::run::{self, RunFolder};
use tisserand_runtime::train::report;
use tisserand_runtime::{Error, Result};

use crate::device::Place;
use crate::env;
use crate::node::Node;
use crate::ranks::{Ranks, Source};

/// Where the ranks of a run are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum World {
    /// So many threads of this process.
    Threads(usize),
    /// Processes, of which this is one.
    #[cfg(feature = "processes")]
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
            #[cfg(feature = "processes")]
            None => Ok(World::Processes),
            #[cfg(not(feature = "processes"))]
            None => Err(Error::input(format!(
                "this program was built without MPI and NCCL, but this process is {described}; hint: cargo build \
                 --release --features mpi (nccl for GPUs), or one process with --ranks {} for threads of one machine",
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
            #[cfg(feature = "processes")]
            World::Processes => ranks.world_size,
        }
    }

    /// Runs `body` on this process's rank, or on all of them; see [`threads::join`](crate::threads::join) and `processes::join`.
    ///
    /// # Errors
    /// Of a rank.
    pub fn run<R: Send>(
        &self,
        ranks: &Ranks,
        node: &mut Node,
        config: &Config,
        body: impl Fn(Place, Arc<dyn ControlPlane>) -> Result<R> + Sync,
    ) -> Result<R> {
        match *self {
            World::Threads(threads) => {
                let _ = node;
                if matches!(ranks.source, Source::Script { .. }) {
                    eprintln!("warning: {}", ranks.describe());
                }
                crate::threads::join(threads, &Terms::of(config), body)
            }
            #[cfg(feature = "processes")]
            World::Processes => crate::processes::join(ranks, node, config, body),
        }
    }
}

/// Runs a command on the ranks of this process, which is one of them or, with `--ranks` (`threads`), all of them.
///
/// # Errors
/// The launcher's variables contradict each other; those of [`World::new`], and of the command: what
/// [`speak`] leaves to this rank.
pub fn enter(threads: Option<usize>, command: impl FnOnce(&Ranks, World) -> Result<u8>) -> Result<u8> {
    let ranks = Ranks::discover(&env::variable).map_err(|error| Error::input(error.to_string()))?;
    match World::new(&ranks, threads) {
        Ok(world) => speak(ranks.rank, Agree::Perhaps, command(&ranks, world)),
        Err(error) => speak(ranks.rank, Agree::Surely, Err(error)),
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
    /// The key `run.group`.
    pub group: Option<String>,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Whether Slurm chose the machines, and may be asked to leave one out.
    pub in_slurm: bool,
}

impl Terms {
    /// Those of a run.
    pub fn of(config: &Config) -> Self {
        let timeout = Duration::from_secs_f64(config.run.collective_timeout_s);
        let (run_dir, group) = (Some(config.run.dir.clone()), config.run.group.clone());
        Terms {
            timeout,
            run_dir,
            group,
            total_steps: config.training.steps,
            in_slurm: env::slurm_job().is_some(),
        }
    }

    /// Those of a command that leaves nothing behind.
    pub fn passing() -> Self {
        Terms {
            timeout: Duration::from_secs(600),
            run_dir: None,
            group: None,
            total_steps: 0,
            in_slurm: false,
        }
    }
}

/// How long a rank waits for the others between collectives. Those come to their own end first, and know better who
/// is late.
pub(crate) fn patience(collective_timeout: Duration) -> Duration {
    collective_timeout.mul_f64(1.25)
}

/// Runs a rank's part; a panic becomes its error.
pub(crate) fn attempt<R>(body: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(Error::panicked(panic.as_ref())))
}

/// Says what every rank was doing when the run failed, on standard error and in the run folder, and `then` the last
/// line, in one piece. Bad input and refusals need no table.
pub(crate) fn tell(
    terms: &Terms,
    error: &(impl Display + ?Sized),
    failure: &Failure,
    reports: &[RankReport],
    then: &str,
) {
    if !failure.wants_table() {
        return eprint!("{then}");
    }
    let hint = if terms.in_slurm { control::exclusion_hint(reports) } else { None };
    let table = control::table(reports) + &hint.unwrap_or_default();
    let text = format!("{table}{then}");
    eprint!("{text}");
    if let Some(dir) = &terms.run_dir {
        run::keep_failure_report(dir, &format!("{error}\n\n{table}"));
    }
}

/// Tells of a failure for a rank that does not: in one piece with the table, and in the run's status.
pub(crate) fn tell_for_all(terms: &Terms, failure: &Failure, reports: &[RankReport], then: &str) {
    tell(terms, failure, failure, reports, &format!("error: {failure}\n{then}"));
    // Before the first step the folder may be another job's, with a status of its own.
    if reports.iter().any(|report| report.activity.step > 0)
        && let Some(dir) = &terms.run_dir
        && let Ok(folder) = RunFolder::open(dir, terms.group.as_deref())
    {
        report::failed(&folder, &Error::Peer(failure.clone()), terms.total_steps);
    }
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

    #[cfg(not(feature = "processes"))]
    #[test]
    fn a_build_for_threads_alone_says_what_to_build() {
        let error = World::new(&ranks("2"), None).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2);
        assert!(
            text.starts_with("this program was built without MPI and NCCL, but this process is rank 0 of 2"),
            "{text}"
        );
        assert!(
            text.contains("--release --features mpi (nccl for GPUs), or one process with --ranks 2"),
            "{text}"
        );
    }

    #[cfg(feature = "processes")]
    #[test]
    fn ranks_of_a_launcher_are_processes() {
        assert_eq!(World::new(&ranks("2"), None).unwrap(), World::Processes);
    }
}
