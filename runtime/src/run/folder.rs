//! The folder of a run: where everything lies, created as needed, readable by whom the user says.
//! Who may write it at a time is [`super::lock`]; what one start leaves behind is [`super::job`].

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::lineage::{self, LineageEntry, Start};
use super::lock::RunLock;
use super::status::StatusFile;
use crate::files::{Access, io_error};
use crate::{Error, Result};

/// An existing run folder. Owned by rank 0; the other ranks only need its paths.
#[derive(Clone, Debug)]
pub struct RunFolder {
    dir: PathBuf,
    access: Access,
}

impl RunFolder {
    /// Opens the run folder `dir` (the key `run.dir`) and creates what is missing of it, its parents
    /// included. `group` (the key `run.group`): a Unix group that may read whatever the run creates;
    /// with `None` or `""` files follow the umask.
    ///
    /// # Errors
    /// Input, if the folder cannot be made or entered, or the group is unknown.
    pub fn open(dir: &Path, group: Option<&str>) -> Result<Self> {
        let folder = Self::join(dir, group)?;
        for part in [folder.dir.clone(), folder.jobs(), folder.checkpoints()] {
            folder.access.create_dir_all(&part)?;
        }
        Ok(folder)
    }

    /// The run folder `dir` for a rank that only needs its paths, since another has opened it: nothing is looked at.
    ///
    /// # Errors
    /// Input, if the group is unknown.
    pub fn join(dir: &Path, group: Option<&str>) -> Result<Self> {
        if dir.as_os_str().is_empty() {
            return Err(Error::input("run.dir = \"\": no folder; hint: leave it out for runs/NAME"));
        }
        let access = match group {
            None | Some("") => Access::umask(),
            Some(name) => Access::group(name)?,
        };
        Ok(RunFolder { dir: dir.to_owned(), access })
    }

    /// Refuses a folder that holds anything (for `--fresh`), before [`RunFolder::open`].
    ///
    /// # Errors
    /// Input, if `dir` is not empty or cannot be read. A missing folder is fine.
    pub fn require_empty(dir: &Path) -> Result<()> {
        match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::input(format!(
                "--fresh: {} is not empty; hint: choose another run.dir or move the folder away",
                dir.display()
            ))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("read folder", dir, &error)),
        }
    }

    /// Keeps every other job out of this folder for as long as the result lives; see [`RunLock::acquire`].
    ///
    /// # Errors
    /// As [`RunLock::acquire`].
    pub fn lock(&self, job_id: &str, notify: impl FnMut(&str)) -> Result<RunLock> {
        RunLock::acquire(&self.dir, &self.access, job_id, notify)
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Who may read what the run creates; for every writer of files in this folder.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// `metrics.jsonl`: one record per logged step; see `docs/metrics.md`.
    pub fn metrics(&self) -> PathBuf {
        self.dir.join("metrics.jsonl")
    }

    /// `tb/`: event files for TensorBoard; created by their writer.
    pub fn tensorboard(&self) -> PathBuf {
        self.dir.join("tb")
    }

    /// `traces/step-A..B/rank-N.json`; created by its writer.
    pub fn trace(&self, [first, last]: [u64; 2], rank: usize) -> PathBuf {
        self.dir.join("traces").join(format!("step-{first}..{last}")).join(format!("rank-{rank}.json"))
    }

    /// `checkpoints/`.
    pub fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }

    /// `jobs/`: one folder per start.
    pub fn jobs(&self) -> PathBuf {
        self.dir.join("jobs")
    }

    /// `resolved.toml`: the configuration that the run uses, every default filled in.
    pub fn resolved_toml(&self) -> PathBuf {
        self.dir.join("resolved.toml")
    }

    /// Writes `run.toml`: the user's run file of the newest start, as it was.
    ///
    /// # Errors
    /// As [`Access::write_atomic`].
    pub fn write_run_toml(&self, text: &str) -> Result<()> {
        self.access.write_atomic(&self.dir.join("run.toml"), text.as_bytes())
    }

    /// Writes `resolved.toml`.
    ///
    /// # Errors
    /// As [`Access::write_atomic`].
    pub fn write_resolved_toml(&self, text: &str) -> Result<()> {
        self.access.write_atomic(&self.resolved_toml(), text.as_bytes())
    }

    /// `resolved.toml` of the start before, or `None` if there was none.
    ///
    /// # Errors
    /// Input, if it exists and cannot be read.
    pub fn read_resolved_toml(&self) -> Result<Option<String>> {
        let path = self.resolved_toml();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &path, &error)),
        }
    }

    /// The writer of `status.json`.
    pub fn status(&self) -> StatusFile {
        StatusFile::new(self.dir.join("status.json"), self.access.clone())
    }

    /// Every start of the run so far, oldest first.
    ///
    /// # Errors
    /// Input, if `lineage.json` is damaged.
    pub fn lineage(&self) -> Result<Vec<LineageEntry>> {
        lineage::read(&self.dir.join("lineage.json"))
    }

    /// Adds a start to `lineage.json`; `start` keeps its entry up to date.
    ///
    /// # Errors
    /// Input, if `lineage.json` is damaged; else as [`Access::write_atomic`].
    pub fn begin_start(&self, start: &Start, entry: LineageEntry) -> Result<()> {
        start.begin(&self.dir.join("lineage.json"), &self.access, entry)
    }
}
