//! The command line of Tisserand: arguments in, exit code out.
//!
//! - [`cli`]: the vocabulary of commands. Start here.
//! - [`commands`]: one file per command.
//! - [`world`]: the ranks of a run; `processes`: ranks that are processes, behind the features `mpi` and `nccl`.
//! - [`device`]: the one `match` that chooses a device; [`placement`]: the table of ranks, and what it must not show.
//! - [`doctor`]: checks of the machines; [`accept`]: checks of the program on them.
//! - [`mod@env`]: the only place that reads the environment; [`signals`]: the only one that handles signals.
//! - [`local`]: ranks that `launch` starts on this machine.
//! - [`node`]: what the first rank of a machine reads for the others of it.
//! - [`ranks`]: which rank this process is, as its launcher says; [`hostlist`]: Slurm's lists of hosts.
//! - [`scaling`]: what `bench scaling` measures and prints; [`curves`]: losses of runs; [`plot`]: figures and pages.
//! - [`slurm`]: job scripts, and what each machine wants in them; when a job ends.

pub mod accept;
pub mod cli;
pub mod commands;
pub mod curves;
pub mod device;
pub mod doctor;
pub mod env;
pub mod hostlist;
pub mod local;
pub mod node;
mod open_files;
pub mod output;
pub mod placement;
pub mod plot;
mod private_socket;
#[cfg(feature = "processes")]
pub mod processes;
pub mod ranks;
pub mod scaling;
pub mod signals;
pub mod slurm;
pub mod threads;
pub mod world;

use std::process::ExitCode;

use clap::Parser;

/// Runs the command that the arguments name. Exit codes: 0 done, 1 failed, 2 bad usage or input, 75 stopped
/// early with a checkpoint.
pub fn main() -> ExitCode {
    open_files::allow_all();
    if let Err(error) = local::report_to_launcher() {
        eprintln!("error: {error}");
        return ExitCode::from(error.exit_code());
    }
    // clap prints usage errors itself and exits with 2.
    let arguments = cli::Cli::parse();
    match commands::run(arguments.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
