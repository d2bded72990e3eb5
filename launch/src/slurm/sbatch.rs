//! Hands scripts to Slurm.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use tisserand_runtime::{Error, Result};

/// Submits the script; the job's id, as Slurm writes it.
///
/// # Errors
/// Input, if there is no sbatch here, or it refuses the job; its own words follow.
pub fn submit(script: &Path) -> Result<String> {
    let output = Command::new("sbatch").arg("--parsable").arg(script).output().map_err(|error| {
        match error.kind() {
            ErrorKind::NotFound => Error::input(
                "sbatch: no such program on this machine; hint: submit on a login node, or --dry-run to print \
                 the script",
            ),
            _ => Error::fault(format!("cannot run sbatch: {error}")),
        }
    })?;
    let words =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).split_whitespace().collect::<Vec<_>>().join(" ");
    if !output.status.success() {
        return Err(Error::input(format!(
            "{}: sbatch refused it: {}; hint: --sbatch NAME=VALUE adds or replaces an option",
            script.display(),
            words(&output.stderr)
        )));
    }
    // The id, and the cluster's name where there are several.
    let id = words(&output.stdout);
    match id.split(';').next() {
        Some(id) if !id.is_empty() => Ok(id.to_owned()),
        _ => Err(Error::fault(format!("sbatch named no job but {id:?}; hint: look with squeue --me"))),
    }
}
