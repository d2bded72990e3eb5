//! `tisserand launch`

use std::ffi::OsString;
use std::iter::once;
use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use tisserand_runtime::config::{Config, DeviceKind};
use tisserand_runtime::{Error, Result};

use super::load;
use crate::cli::{self, Cli, Command, RunFile};
use crate::env;
use crate::local::{self, Launch, Method};
use crate::ranks::{Ranks, Source};

/// Starts the ranks and waits for their end.
pub(super) fn run(arguments: &cli::Launch) -> Result<u8> {
    refuse_among_ranks()?;
    let run_file = run_file(arguments)?;
    // What every rank would refuse is refused once, before there are any.
    let config = load(&run_file, Some(arguments.ranks))?;
    local::run(&Launch {
        ranks: arguments.ranks,
        command: arguments.command.clone(),
        method: method(&config, arguments.ranks)?,
        quiet_ranks: arguments.quiet_ranks,
        grace: Duration::from_secs(arguments.grace_s),
    })
}

/// A launcher inside of a launcher would start every rank several times.
fn refuse_among_ranks() -> Result<()> {
    let ranks = Ranks::discover(&env::variable).map_err(|error| Error::input(error.to_string()))?;
    if ranks.world_size > 1 || matches!(ranks.source, Source::Mpi(_)) {
        let described = ranks.describe();
        return Err(Error::input(format!(
            "launch starts ranks by itself, but this process is {described}; hint: let srun or mpirun start \
             \"tisserand train\" without launch"
        )));
    }
    Ok(())
}

/// The run file of the command that the ranks are to run.
fn run_file(arguments: &cli::Launch) -> Result<RunFile> {
    let words = &arguments.command;
    let first = words[0].to_string_lossy();
    if Cli::command().find_subcommand(&*first).is_none() {
        return Err(no_command(&words[0], arguments.ranks));
    }
    // Usage errors, and --help, end the process here as they would without launch.
    let command = Cli::parse_from(once(OsString::from("tisserand")).chain(words.iter().cloned())).command;
    let (run_file, threads) = match command {
        Command::Train(train) => (train.run_file, train.ranks),
        Command::Eval(eval) => (eval.run_file, eval.ranks),
        _ => {
            return Err(Error::input(format!(
                "launch -n {}: {first} works in one process; hint: tisserand {first} ..., without launch",
                arguments.ranks
            )));
        }
    };
    match threads {
        None => Ok(run_file),
        Some(threads) => Err(Error::input(format!(
            "launch -n {} makes ranks of processes and --ranks {threads} of threads; hint: leave one of them out",
            arguments.ranks
        ))),
    }
}

fn no_command(word: &OsString, ranks: usize) -> Error {
    let shown = word.to_string_lossy();
    let hint = if Path::new(word).file_name().is_some_and(|name| name == "tisserand") {
        "hint: leave that word out"
    } else {
        "hint: mpirun and srun start other programs"
    };
    Error::input(format!(
        "launch starts ranks of tisserand train or eval, and \"{}\" is no command of it; {hint}, or: tisserand launch \
         -n {ranks} -- train RUN.toml",
        shown.escape_debug()
    ))
}

/// How ranks of this build reach each other, and so who must start them.
fn method(config: &Config, ranks: usize) -> Result<Method> {
    let device = config.run.device;
    match device {
        _ if ranks == 1 => Ok(Method::Processes),
        DeviceKind::Cpu if cfg!(feature = "mpi") => Ok(Method::Mpirun),
        DeviceKind::Cuda if cfg!(feature = "nccl") => Ok(Method::Processes),
        DeviceKind::Cpu => Err(Error::input(format!(
            "run.device = \"cpu\" on {ranks} processes needs MPI, and this program was built without it; hint: tisserand \
             train RUN.toml --ranks {ranks} (threads of one process), or cargo build --release --features mpi"
        ))),
        DeviceKind::Cuda => Err(Error::input(format!(
            "run.device = \"cuda\" on {ranks} processes needs NCCL, and this program was built without it; hint: cargo \
             build --release --features nccl"
        ))),
    }
}
