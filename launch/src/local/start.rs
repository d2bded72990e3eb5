//! The processes of a launch.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tisserand_runtime::{Error, Result};

use super::lines::Speaker;
use super::{DESK, Launch};
use crate::env;

/// Slurm's variables that say nothing of ranks and hosts. The others would make an mpirun spread its ranks over the
/// machines of a job.
const KEPT_OF_SLURM: [&str; 3] = ["SLURM_JOB_ID", "SLURM_JOB_END_TIME", "SLURM_JOB_NAME"];

/// A process, and who it is.
pub(super) struct Started {
    pub(super) who: Speaker,
    pub(super) child: Child,
}

/// One process for each rank.
///
/// # Errors
/// A process cannot be started; those before it are ended.
pub(super) fn processes(launch: &Launch, desk: &Path) -> Result<Vec<Started>> {
    let program = env::program()?;
    let (size, port) = (launch.ranks.to_string(), free_port()?.to_string());
    let mut started = Vec::new();
    for rank in 0..launch.ranks {
        let number = rank.to_string();
        let mut command = Command::new(&program);
        command.args(&launch.command).env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port);
        command.env("RANK", &number).env("LOCAL_RANK", &number);
        command.env("WORLD_SIZE", &size).env("LOCAL_WORLD_SIZE", &size);
        match spawn(command, Speaker::Rank(rank), desk) {
            Ok(process) => started.push(process),
            Err(error) => {
                // They wait for a rank that does not come.
                started.iter_mut().for_each(|process| drop(process.child.kill()));
                return Err(error);
            }
        }
    }
    Ok(started)
}

/// An mpirun that starts the ranks, on this machine alone.
///
/// # Errors
/// There is no mpirun.
pub(super) fn mpirun(launch: &Launch, desk: &Path) -> Result<Vec<Started>> {
    let mut command = Command::new(env::variable("MPIRUN").unwrap_or_else(|| "mpirun".to_owned()));
    command.args(["-n", &launch.ranks.to_string()]).arg(env::program()?).args(&launch.command);
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", free_port()?.to_string());
    for name in env::names().filter(|name| name.starts_with("SLURM_")) {
        if !KEPT_OF_SLURM.contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    for name in ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"] {
        command.env_remove(name);
    }
    // More ranks than cores are the user's choice, and ranks share the cores out by themselves. By variables, which
    // other libraries than Open MPI (4, then 5) pass over, where each has options of its own.
    command.env("OMPI_MCA_rmaps_base_oversubscribe", "1").env("OMPI_MCA_hwloc_base_binding_policy", "none");
    command.env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe");
    command.env("PRTE_MCA_hwloc_default_binding_policy", "none");
    // Nor a page about a code that is not 0, such as 75: the ranks have said what there is to say.
    command.env("OMPI_MCA_orte_execute_quiet", "1");
    if nix::unistd::geteuid().is_root() {
        // Whoever runs this program as root means it: a container.
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    }
    Ok(vec![spawn(command, Speaker::Mpirun, desk)?])
}

/// In a process group of its own: control-C reaches this process, which passes it on, once.
pub(super) fn spawn(mut command: Command, who: Speaker, desk: &Path) -> Result<Started> {
    command.env(DESK, desk).process_group(0);
    if env::variable(env::NCCL_LAUNCH_ORDER).is_none() {
        command.env(env::NCCL_LAUNCH_ORDER, "1");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = command.get_program().display().to_string();
    let child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound if who == Speaker::Mpirun => Error::input(format!(
            "{program}: no such program, and ranks on CPUs need it; hint: load the module of the MPI library, or name \
             its launcher in the variable MPIRUN"
        )),
        _ => Error::fault(format!("cannot start {program}: {error}")),
    })?;
    Ok(Started { who, child })
}

/// A port that was free a moment ago. Rank 0 says so if somebody else has taken it since.
fn free_port() -> Result<u16> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Error::fault(format!("no free port on 127.0.0.1: {error}")))
}
