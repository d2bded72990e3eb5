//! `jobs/<n>-<job id>/`: what one start of a run leaves behind so that it can be explained later.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::folder::RunFolder;
use super::host::host_name;
use crate::build;
use crate::files::{Access, io_error};
use crate::log::clock;
use crate::{Error, Result};

/// Variables that explain how a job was placed and tuned.
const KEPT_PREFIXES: [&str; 13] = [
    "SLURM_",
    "OMP_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "HIP_",
    "ROCR_",
    "MPI",
    "OMPI_",
    "PMIX_",
    "UCX_",
    "FI_",
    "TISSERAND_",
];

/// Parts of names whose values may be secrets (`SLURM_JWT` logs into the cluster).
const SECRET_PARTS: [&str; 6] = ["JWT", "TOKEN", "SECRET", "PASS", "CREDENTIAL", "KEY"];

/// How this process was started. The caller reads the environment, so that this crate need not.
#[derive(Clone, Debug, Default)]
pub struct ProcessDescription {
    variables: Vec<(String, String)>,
    command_line: Vec<String>,
}

impl ProcessDescription {
    /// Keeps the variables of Slurm, OpenMP, CUDA, NCCL, MPI and the network from `variables`
    /// (`std::env::vars_os()`), without those that may be secrets, and the command line
    /// (`std::env::args_os()`).
    pub fn new(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        command_line: impl IntoIterator<Item = OsString>,
    ) -> Self {
        let text = |s: OsString| s.to_string_lossy().into_owned();
        let kept = |name: &str| {
            KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                && !SECRET_PARTS.iter().any(|part| name.contains(part))
        };
        let mut variables: Vec<(String, String)> = variables
            .into_iter()
            .map(|(name, value)| (text(name), text(value)))
            .filter(|(name, _)| kept(name))
            .collect();
        variables.sort();
        ProcessDescription { variables, command_line: command_line.into_iter().map(text).collect() }
    }

    /// The variables that were kept, by name.
    pub fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// The command line.
    pub fn command_line(&self) -> &[String] {
        &self.command_line
    }
}

/// One rank in `hosts.json`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HostRow {
    /// Rank in the run.
    pub rank: usize,
    /// Rank on its host.
    pub local_rank: usize,
    /// Name of the host.
    pub host: String,
    /// Slurm's name of it, where it has one.
    #[serde(default)]
    pub node: Option<String>,
    /// Process id there.
    pub pid: u32,
    /// The device in words: model and index, or the processor and its threads.
    pub device: String,
    /// The GPU, if it computes on one.
    pub gpu: Option<GpuRow>,
    /// CPUs that the process may run on, as Linux lists them: "0-3,8".
    pub cpus: String,
    /// Whether these are fewer than the host has.
    pub bound: bool,
    /// NUMA nodes of these CPUs, listed in the same way; empty where the system tells none.
    pub numa: String,
}

/// A GPU in `hosts.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GpuRow {
    /// Number among the GPUs that the process sees.
    pub index: usize,
    /// The vendor's name.
    pub name: String,
    /// Where it sits on the host, the same for every process: "0000:1B:00.0".
    pub bus_id: String,
}

impl HostRow {
    /// The machine as Slurm calls it, else by its own name.
    pub fn machine(&self) -> &str {
        self.node.as_deref().unwrap_or(&self.host)
    }
}

/// The folder of this start.
#[derive(Clone, Debug)]
pub struct JobFolder {
    dir: PathBuf,
    access: Access,
}

impl RunFolder {
    /// Makes `jobs/<n>-<job_id>/` for this start, n counting from 0001, with `environment.json` and an empty
    /// `rank0.log`. Characters of `job_id` that do not belong in a file name become `_`.
    ///
    /// # Errors
    /// As [`io_error`].
    pub fn next_job(&self, job_id: &str, process: &ProcessDescription) -> Result<JobFolder> {
        let clean = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let name: String = job_id.chars().take(100).map(clean).collect();
        let mut number = newest_number(&self.jobs())? + 1;
        let dir = loop {
            let dir = self.jobs().join(format!("{number:04}-{name}"));
            match fs::create_dir(&dir) {
                Ok(()) => break dir,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(io_error("create folder", &dir, &error)),
            }
        };
        self.access().share(&dir)?;
        let job = JobFolder { dir, access: self.access().clone() };
        job.write_json("environment.json", &environment(job_id, process))?;
        self.access().append(&job.log_file())?;
        Ok(job)
    }
}

impl JobFolder {
    /// The folder of the start that made it, as another rank sees it.
    pub fn of_lead(dir: PathBuf, access: &Access) -> Self {
        JobFolder { dir, access: access.clone() }
    }

    /// Writes `flight/rank-R.json`.
    ///
    /// # Errors
    /// As [`Access::write_atomic`].
    pub(super) fn write_flight(&self, rank: usize, text: &str) -> Result<()> {
        let folder = self.dir.join("flight");
        self.access.create_dir_all(&folder)?;
        self.access.replace(&folder.join(format!("rank-{rank}.json")), text.as_bytes())
    }

    /// The folder itself; failure reports go here too.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The log of rank 0, for [`crate::log::Logger::new`].
    pub fn log_file(&self) -> PathBuf {
        self.dir.join("rank0.log")
    }

    /// Writes `hosts.json`: where each rank runs.
    ///
    /// # Errors
    /// As [`Access::write_atomic`].
    pub fn write_hosts(&self, rows: &[HostRow]) -> Result<()> {
        self.write_json("hosts.json", rows)
    }

    fn write_json<T: Serialize + ?Sized>(&self, name: &str, value: &T) -> Result<()> {
        let path = self.dir.join(name);
        let mut text = serde_json::to_string_pretty(value)
            .map_err(|error| Error::fault(format!("cannot encode {}: {error}", path.display())))?;
        text.push('\n');
        self.access.write_atomic(&path, text.as_bytes())
    }
}

/// Keeps the text that explains a failure in the newest job's folder of the run in `run_dir`, as `failure.txt`. As
/// far as possible: whoever calls it has an error to report already.
pub fn keep_failure_report(run_dir: &Path, text: &str) {
    let jobs = run_dir.join("jobs");
    let Ok(entries) = fs::read_dir(&jobs) else { return };
    // Scripts and logs of Slurm's jobs lie there too.
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    let newest = folders.map(|entry| entry.file_name()).max();
    if let Some(newest) = newest {
        let _ = Access::umask().write_atomic(&jobs.join(newest).join("failure.txt"), text.as_bytes());
    }
}

/// Largest `<n>` among the job folders; 0 if there are none.
fn newest_number(jobs: &Path) -> Result<u32> {
    let fail = |e: std::io::Error| io_error("read folder", jobs, &e);
    let mut newest = 0;
    for entry in fs::read_dir(jobs).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let digits = name.to_string_lossy().split('-').next().and_then(|n| n.parse().ok());
        newest = newest.max(digits.unwrap_or(0));
    }
    Ok(newest)
}

fn environment(job_id: &str, process: &ProcessDescription) -> Value {
    let variables: Map<String, Value> =
        process.variables.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    json!({
        "time": clock::rfc3339(SystemTime::now()),
        "job_id": job_id,
        "host": host_name(),
        "pid": std::process::id(),
        "command_line": process.command_line,
        "version": build::VERSION,
        "git_commit": build::GIT_COMMIT,
        "build": { "debug_assertions": cfg!(debug_assertions), "arch": std::env::consts::ARCH },
        "variables": variables,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_explain_are_kept_and_secrets_are_not() {
        let given =
            ["SLURM_JOB_ID", "SLURM_JWT", "HOME", "NCCL_DEBUG", "TISSERAND_API_KEY", "OMP_NUM_THREADS"];
        let process = ProcessDescription::new(given.map(|n| (n.into(), "1".into())), ["tisserand".into()]);
        let names: Vec<&str> = process.variables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["NCCL_DEBUG", "OMP_NUM_THREADS", "SLURM_JOB_ID"]);
    }

    #[test]
    fn job_folders_count_up_whatever_lies_beside_them() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(root.path(), None).unwrap();
        fs::create_dir(folder.jobs().join("notes")).unwrap();
        let process = ProcessDescription::default();
        let names: Vec<String> = ["123", "../x y", "", "123"]
            .iter()
            .map(|id| folder.next_job(id, &process).unwrap())
            .map(|job| job.dir().file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["0001-123", "0002-.._x_y", "0003-", "0004-123"]);
        let text = fs::read_to_string(folder.jobs().join("0001-123/environment.json")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["pid"], std::process::id());
        assert!(folder.jobs().join("0001-123/rank0.log").is_file());
    }

    #[test]
    fn a_failure_is_told_in_the_newest_folder_beside_scripts_and_logs() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(root.path(), None).unwrap();
        let process = ProcessDescription::default();
        folder.next_job("7", &process).unwrap();
        fs::write(folder.jobs().join("slurm-7.log"), "").unwrap();
        fs::write(folder.jobs().join("submit-2026.sbatch"), "").unwrap();
        keep_failure_report(root.path(), "why");
        assert_eq!(fs::read_to_string(folder.jobs().join("0001-7/failure.txt")).unwrap(), "why");
        assert_eq!(folder.next_job("8", &process).unwrap().dir().file_name().unwrap(), "0002-8");
    }
}
