//! `status.json`: what the run is doing, for scripts and people who look in from outside.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::files::{Access, io_error};
use crate::log::{clock, number};
use crate::{Error, Result};

/// What the run is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Reading data and checkpoints, before the first step.
    Starting,
    /// Training.
    Running,
    /// Training stands still for a checkpoint.
    Saving,
    /// All steps are done; exit code 0.
    Finished,
    /// Stopped early with a checkpoint; exit code 75, run it again.
    Stopped,
    /// Ended by an error; exit code 1 or 2.
    Failed,
}

impl State {
    /// Whether the process that wrote this is about to end.
    pub fn is_final(self) -> bool {
        matches!(self, State::Finished | State::Stopped | State::Failed)
    }
}

/// The contents of `status.json`, without the time of writing.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// What the run is doing.
    pub state: State,
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub total_steps: u64,
    /// Tokens trained on so far, padding and masked ones included.
    pub consumed_tokens: u64,
    /// Training loss of the newest logged step.
    #[serde(with = "number::option")]
    pub loss: Option<f32>,
    /// Tokens per second over the last log interval.
    #[serde(with = "number::option")]
    pub tokens_per_s: Option<f64>,
    /// Seconds until the last step, by the speed so far.
    #[serde(with = "number::option")]
    pub eta_s: Option<f64>,
    /// Seconds of the slowest save of the newest start that had one, snapshot included: what a stop before a time
    /// limit must leave.
    #[serde(with = "number::option", default)]
    pub save_s: Option<f64>,
    /// One line for people: the error, or why it stopped.
    pub message: String,
    /// Exit code; `None` while running.
    pub exit_code: Option<u8>,
}

impl Status {
    /// A run of `total_steps` that has not begun.
    pub fn starting(total_steps: u64) -> Self {
        Status {
            state: State::Starting,
            step: 0,
            total_steps,
            consumed_tokens: 0,
            loss: None,
            tokens_per_s: None,
            eta_s: None,
            save_s: None,
            message: String::new(),
            exit_code: None,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Stored<S> {
    #[serde(flatten)]
    status: S,
    /// RFC 3339, UTC.
    updated: String,
}

/// Writer of `status.json`.
#[derive(Clone, Debug)]
pub struct StatusFile {
    path: PathBuf,
    access: Access,
}

impl StatusFile {
    /// The writer of `path`; nothing is written yet.
    pub fn new(path: PathBuf, access: Access) -> Self {
        StatusFile { path, access }
    }

    /// Replaces the file; readers see the old status or the new one. A final state also survives a crash of
    /// the machine; the others do not wait for the disk, since they are written between steps.
    ///
    /// # Errors
    /// As [`Access::write_atomic`].
    pub fn write(&self, status: &Status) -> Result<()> {
        let stored = Stored { status, updated: clock::rfc3339(SystemTime::now()) };
        let mut text = serde_json::to_string_pretty(&stored)
            .map_err(|error| Error::fault(format!("cannot encode {}: {error}", self.path.display())))?;
        text.push('\n');
        if status.state.is_final() {
            self.access.write_atomic(&self.path, text.as_bytes())
        } else {
            self.access.replace(&self.path, text.as_bytes())
        }
    }

    /// Reads a status and when it was written (RFC 3339, UTC).
    ///
    /// # Errors
    /// Input, if the file is missing, unreadable or damaged.
    pub fn read(path: &Path) -> Result<(Status, String)> {
        let text = fs::read_to_string(path).map_err(|e| io_error("read", path, &e))?;
        let stored: Stored<Status> = serde_json::from_str(&text).map_err(|error| {
            Error::input(format!(
                "{} is damaged: {error}; hint: the next log line replaces it",
                path.display()
            ))
        })?;
        Ok((stored.status, stored.updated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_reads_back_also_with_a_loss_that_json_cannot_hold() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.json");
        let file = StatusFile::new(path.clone(), Access::umask());
        for (state, loss) in
            [(State::Running, Some(0.1)), (State::Failed, Some(f32::INFINITY)), (State::Saving, None)]
        {
            let status = Status { state, loss, step: 3, ..Status::starting(10) };
            file.write(&status).unwrap();
            let (read, updated) = StatusFile::read(&path).unwrap();
            assert_eq!(read, status);
            assert!(updated.ends_with('Z'));
        }
    }
}
