//! The environment, read here only.

use tisserand_runtime::run::ProcessDescription;

/// A variable's value, if it is set and valid UTF-8.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The names of all variables that are valid UTF-8.
pub fn names() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

/// The job's name in the run folder: Slurm's id, or "local".
pub fn job_id() -> String {
    variable("SLURM_JOB_ID").unwrap_or_else(|| "local".to_owned())
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
