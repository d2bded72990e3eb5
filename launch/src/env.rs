//! The environment, read here only.

use tisserand_runtime::run::{JobEnd, JobFacts, ProcessDescription};
use tisserand_runtime::{Error, Result};

/// Tells NCCL to start its kernels of all communicators in the order of its calls, so that they may overlap.
pub const NCCL_LAUNCH_ORDER: &str = "NCCL_LAUNCH_ORDER_IMPLICIT";

/// A variable's value, if it is set and valid UTF-8.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The names of all variables that are valid UTF-8.
pub fn names() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

/// The id of the Slurm job that this process is part of.
pub fn slurm_job() -> Option<String> {
    variable("SLURM_JOB_ID")
}

/// Starts this program again as the same process, with these variables besides; returns if all of them are set.
///
/// # Errors
/// A fault: the program cannot be started.
#[cfg(feature = "nccl")]
pub fn start_again_with(variables: &[(&str, String)]) -> Result<()> {
    use std::os::unix::process::CommandExt;
    if variables.iter().all(|(name, _)| variable(name).is_some()) {
        return Ok(());
    }
    let cannot = |error: std::io::Error| Error::fault(format!("cannot start this program again: {error}"));
    let mut again = std::process::Command::new(program()?);
    again.args(std::env::args_os().skip(1)).envs(variables.iter().map(|(name, value)| (name, value)));
    Err(cannot(again.exec()))
}

/// This program's file.
///
/// # Errors
/// A fault: the system does not tell.
pub fn program() -> Result<std::path::PathBuf> {
    std::env::current_exe().map_err(|error| Error::fault(format!("cannot find this program's file: {error}")))
}

/// Names of the variables by which launchers tell a process its rank, as far as they are set.
pub fn of_launchers() -> impl Iterator<Item = String> {
    const PREFIXES: [&str; 8] =
        ["SLURM_", "OMPI_", "PMI_", "PMIX_", "MPI_LOCAL", "MASTER_", "LOCAL_RANK", "LOCAL_WORLD_SIZE"];
    names().filter(|name| {
        ["RANK", "WORLD_SIZE"].contains(&name.as_str())
            || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    })
}

/// The job's name in the run folder: Slurm's id, or "local".
pub fn job_id() -> String {
    slurm_job().unwrap_or_else(|| JobFacts::default().id)
}

/// What the environment says of this job. That it ends is told elsewhere: [`limit`](crate::slurm::limit).
///
/// # Errors
/// Input, if what the job script exports is no number.
pub fn job() -> Result<JobFacts> {
    let Some(id) = slurm_job() else { return Ok(JobFacts::default()) };
    let restarts = variable("SLURM_RESTART_COUNT").and_then(|count| count.parse().ok()).unwrap_or(0);
    let (node, signal_lead_s) = (variable("SLURMD_NODENAME"), signal_lead_s()?);
    Ok(JobFacts { id, restarts, node, signal_lead_s, end: JobEnd::default() })
}

/// When Slurm ends this job, in seconds since 1970, where it says so in the environment.
pub fn slurm_end_time() -> Option<u64> {
    variable("SLURM_JOB_END_TIME")?.parse().ok()
}

/// The lead of `--signal`, which Slurm tells nobody: job scripts export it.
fn signal_lead_s() -> Result<Option<f64>> {
    const NAME: &str = "TISSERAND_SIGNAL_LEAD_S";
    let Some(text) = variable(NAME).filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse() {
        Ok(seconds) if (0.0..1e9).contains(&seconds) => Ok(Some(seconds)),
        _ => Err(Error::input(format!(
            "{NAME} = {text:?} in the environment, expected seconds; hint: the number after @ of sbatch --signal"
        ))),
    }
}

/// How this process was called, for people.
pub fn command_line() -> Vec<String> {
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once("tisserand".to_owned()).chain(arguments).collect()
}

/// Variables and arguments of this process, for the job folder.
pub fn process() -> ProcessDescription {
    ProcessDescription::new(std::env::vars_os(), std::env::args_os())
}
