//! `lineage.json`: where a run came from, one entry per start. Entries are added, and the newest one is kept up to
//! date while its start runs ([`Start`]): how far it came, and with which exit code it ended. So a run that is started
//! again and again without coming anywhere is seen ([`idle_starts`]), whatever ended it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::JobFacts;
use crate::files::{Access, io_error};
use crate::log::clock;
use crate::{Error, Result};

/// One start of the run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LineageEntry {
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// Slurm's job id, or what stands for it.
    pub job_id: String,
    /// How often Slurm had started that job before.
    #[serde(default)]
    pub restarts: u64,
    /// Step of the checkpoint from which it went on; `None` at the first start.
    pub from_step: Option<u64>,
    /// The newest step that it is known to have completed, or the one that it began with: noted after its first one,
    /// with every checkpoint, and at its end. `None`: an earlier version wrote the entry.
    #[serde(default)]
    pub last_step: Option<u64>,
    /// The exit code with which it ended; `None` while it runs, and if it was ended from outside.
    #[serde(default)]
    pub exit_code: Option<u8>,
    /// What changed in the configuration since the start before.
    pub differences: Vec<Difference>,
    /// Version of the program.
    pub version: String,
}

impl LineageEntry {
    /// The entry of a start now, by this version of the program.
    pub fn now(job: &JobFacts, from_step: Option<u64>, differences: Vec<Difference>) -> Self {
        LineageEntry {
            time: clock::rfc3339(SystemTime::now()),
            job_id: job.id.clone(),
            restarts: job.restarts,
            from_step,
            last_step: Some(from_step.unwrap_or(0)),
            exit_code: None,
            differences,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether it ended, or seems to have, without a completed step. Not if it was refused or had nothing to do: then
    /// no script starts it again.
    fn is_idle(&self) -> bool {
        let first = self.from_step.unwrap_or(0);
        self.last_step.is_some_and(|last| last <= first) && !matches!(self.exit_code, Some(0 | 2))
    }
}

/// A key of the configuration that changed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Difference {
    /// `section.key`.
    pub key: String,
    /// Its value at the start before; null if it was absent.
    pub old: Value,
    /// Its value now; null if it is absent.
    pub new: Value,
}

/// How many starts in a row, up to the newest of `entries`, completed no step. Starts of a job that left no entry,
/// which show in Slurm's count of restarts, came not even that far. `job` is the one that starts now.
pub fn idle_starts(entries: &[LineageEntry], job: &JobFacts) -> u64 {
    let mut idle = 0;
    let (mut id, mut restarts) = (&job.id, job.restarts);
    for entry in entries.iter().rev() {
        let before = if entry.job_id == *id { restarts.saturating_sub(entry.restarts + 1) } else { restarts };
        idle += before;
        if !entry.is_idle() {
            return idle;
        }
        idle += 1;
        (id, restarts) = (&entry.job_id, entry.restarts);
    }
    idle + restarts
}

/// All entries, oldest first; none if the file does not exist.
///
/// # Errors
/// Input, if the file is unreadable or damaged.
pub fn read(path: &Path) -> Result<Vec<LineageEntry>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("read", path, &error)),
    };
    serde_json::from_str(&text).map_err(|error| {
        Error::input(format!("{} is damaged: {error}; hint: repair it or move it away", path.display()))
    })
}

/// The entry of the start that runs. Clones share it. Does nothing before it has begun, as on ranks other than 0.
#[derive(Clone, Debug, Default)]
pub struct Start(Arc<Mutex<Option<Written>>>);

/// The file as this start knows it.
#[derive(Debug)]
struct Written {
    path: PathBuf,
    access: Access,
    /// The newest one is this start's.
    entries: Vec<LineageEntry>,
}

impl Start {
    /// Adds the entry. Called by the holder of the run's lock only: this reads, then replaces the file.
    ///
    /// # Errors
    /// As [`read`] and [`Access::write_atomic`].
    pub(super) fn begin(&self, path: &Path, access: &Access, entry: LineageEntry) -> Result<()> {
        let mut entries = read(path)?;
        entries.push(entry);
        let written = Written { path: path.to_owned(), access: access.clone(), entries };
        written.write()?;
        *self.lock() = Some(written);
        Ok(())
    }

    /// The start has completed `step`.
    ///
    /// # Errors
    /// As [`Access::write_atomic`].
    pub fn reached(&self, step: u64) -> Result<()> {
        self.change(|entry| entry.last_step = entry.last_step.max(Some(step)))
    }

    /// The start ends with this exit code.
    ///
    /// # Errors
    /// As [`Access::write_atomic`].
    pub fn ended(&self, exit_code: u8) -> Result<()> {
        self.change(|entry| entry.exit_code = Some(exit_code))
    }

    /// How many starts in a row completed no step, this one included.
    pub fn idle(&self) -> u64 {
        let written = self.lock();
        let Some((own, before)) = written.as_ref().and_then(|written| written.entries.split_last()) else {
            return 0;
        };
        let job = JobFacts { id: own.job_id.clone(), restarts: own.restarts, ..JobFacts::default() };
        if own.is_idle() { 1 + idle_starts(before, &job) } else { 0 }
    }

    fn change(&self, change: impl FnOnce(&mut LineageEntry)) -> Result<()> {
        let mut written = self.lock();
        let Some(written) = written.as_mut() else { return Ok(()) };
        let Some(entry) = written.entries.last_mut() else { return Ok(()) };
        let before = entry.clone();
        change(entry);
        if *entry == before { Ok(()) } else { written.write() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    fn write(&self) -> Result<()> {
        let mut text = serde_json::to_string_pretty(&self.entries)
            .map_err(|error| Error::fault(format!("cannot encode {}: {error}", self.path.display())))?;
        text.push('\n');
        self.access.write_atomic(&self.path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, restarts: u64) -> JobFacts {
        JobFacts { id: id.to_owned(), restarts, ..JobFacts::default() }
    }

    /// Job, restarts, steps completed, exit code.
    type Row = (&'static str, u64, u64, Option<u8>);

    fn entries(starts: &[Row]) -> Vec<LineageEntry> {
        let entry = |&(id, restarts, steps, exit_code): &Row| LineageEntry {
            last_step: Some(40 + steps),
            exit_code,
            ..LineageEntry::now(&job(id, restarts), Some(40), Vec::new())
        };
        starts.iter().map(entry).collect()
    }

    #[test]
    fn starts_without_a_step_are_counted_from_the_newest_on() {
        let cases: [(&[Row], JobFacts, u64); 10] = [
            (&[], job("local", 0), 0),
            (&[("local", 0, 0, None), ("local", 0, 0, Some(1))], job("local", 0), 2),
            (&[("local", 0, 0, None), ("local", 0, 5, None), ("local", 0, 0, None)], job("local", 0), 1),
            // What was refused, or was done already, no script starts again.
            (&[("local", 0, 0, None), ("local", 0, 0, Some(2))], job("local", 0), 0),
            (&[("local", 0, 0, None), ("local", 0, 0, Some(0))], job("local", 0), 0),
            // Requeued: every start left an entry.
            (&[("7", 0, 9, Some(75)), ("7", 1, 0, None), ("7", 2, 0, None)], job("7", 3), 2),
            // Two left none.
            (&[("7", 0, 9, None)], job("7", 3), 2),
            (&[("7", 0, 9, None), ("7", 2, 0, None)], job("7", 3), 2),
            // Another job, none of whose starts left one.
            (&[("7", 4, 9, Some(75))], job("8", 3), 3),
            (&[], job("8", 3), 3),
        ];
        for (starts, now, idle) in cases {
            assert_eq!(idle_starts(&entries(starts), &now), idle, "{starts:?} {now:?}");
        }
        let mut old = entries(&[("1", 0, 0, None)]);
        old[0].last_step = None;
        assert_eq!(idle_starts(&old, &job("2", 0)), 0);
    }

    #[test]
    fn an_entry_of_an_earlier_version_is_read() {
        let text =
            r#"{"time": "t", "job_id": "1", "from_step": null, "differences": [], "version": "0.1.0"}"#;
        let entry: LineageEntry = serde_json::from_str(text).unwrap();
        assert_eq!((entry.restarts, entry.last_step, entry.exit_code), (0, None, None));
    }

    #[test]
    fn a_start_says_how_far_it_came() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lineage.json");
        let start = Start::default();
        start.reached(9).unwrap();
        assert!(!path.exists());
        for (idle, steps) in [(1, &[][..]), (2, &[][..]), (0, &[41, 45, 42][..]), (1, &[][..])] {
            let entry = LineageEntry::now(&job("local", 0), Some(40), Vec::new());
            start.begin(&path, &Access::umask(), entry).unwrap();
            steps.iter().for_each(|step| start.reached(*step).unwrap());
            start.ended(75).unwrap();
            assert_eq!(start.idle(), idle, "{steps:?}");
            let newest = read(&path).unwrap().pop().unwrap();
            let last = steps.iter().max().copied().unwrap_or(40);
            assert_eq!((newest.last_step, newest.exit_code), (Some(last), Some(75)));
        }
        assert_eq!(read(&path).unwrap().len(), 4);
    }
}
