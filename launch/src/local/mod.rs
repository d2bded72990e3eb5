//! Ranks of one machine, started by `tisserand launch` where no srun or mpirun does it.
//!
//! - `start`: the processes. Ranks that compute on GPUs meet by themselves, so they are started as they are. Ranks on
//!   CPUs speak MPI, whose processes only MPI's own launcher can bring together: mpirun starts them, below this one.
//! - `desk`: where a rank says who it is and leaves what it prints (`rank` is its side), so that both kinds look and
//!   behave alike: mpirun would cut its ranks' lines, and end them where a signal asks for a checkpoint.
//! - `lines`: whole lines, with their rank. `wait`: signals, failures, the end.
//!
//! **Nobody outlives the others.** When a rank fails the others are told to end, and made to after a while. When the
//! launcher dies, the kernel closes the desk, and each rank that sees it close asks itself to stop as SIGTERM would:
//! at the next step, with a checkpoint.

mod desk;
mod lines;
mod rank;
mod start;
mod wait;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use tisserand_runtime::{Error, Result};

use crate::env;
use crate::ranks::Ranks;
use desk::Desk;
use lines::Printer;

/// Where the desk is, for ranks.
const DESK: &str = "TISSERAND_LAUNCH_DESK";

/// What is to be started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Number of ranks.
    pub ranks: usize,
    /// What each does: a command of this program and its arguments.
    pub command: Vec<OsString>,
    /// Who starts them.
    pub method: Method,
    /// Whether what ranks but 0 write to standard output is passed over.
    pub quiet_ranks: bool,
    /// Between SIGTERM and SIGKILL, when a rank has failed.
    pub grace: Duration,
}

/// Who starts the ranks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// This process.
    Processes,
    /// An mpirun that this process starts.
    Mpirun,
}

/// Starts the ranks, waits for them, and returns the exit code of the launch: that of the first rank that failed (128
/// and the number of a signal that ended it), else 75 if any stopped early, else 0.
///
/// # Errors
/// They cannot be started.
pub fn run(launch: &Launch) -> Result<u8> {
    // Before there are ranks: a signal that comes from now on is theirs.
    let signals = wait::signals()?;
    let desk = Desk::open(Printer::new(launch.quiet_ranks))?;
    let mut started = match launch.method {
        Method::Processes => start::processes(launch, desk.path()),
        Method::Mpirun => start::mpirun(launch, desk.path()),
    }?;
    for process in &mut started {
        desk.take_output(process)?;
    }
    let code = wait::until_all_ended(started, &desk, signals, launch.grace);
    desk.close();
    code
}

/// In a rank that `launch` has started: says who it is, and prints there from now on. Elsewhere it does nothing.
///
/// # Errors
/// The launcher cannot be reached.
pub fn report_to_launcher() -> Result<()> {
    let Some(desk) = env::variable(DESK) else { return Ok(()) };
    // What is wrong with the variables, the command says.
    let Ok(ranks) = Ranks::discover(&env::variable) else { return Ok(()) };
    rank::report(Path::new(&desk), ranks.rank).map_err(|error| {
        Error::fault(format!(
            "rank {} cannot reach its launcher at {DESK} = {desk}: {error}; hint: unset it, if it is left over",
            ranks.rank
        ))
    })
}
