//! `lineage.json`: where a run came from, one entry per start, never rewritten, only added to.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// Step of the checkpoint from which it went on; `None` at the first start.
    pub from_step: Option<u64>,
    /// What changed in the configuration since the start before.
    pub differences: Vec<Difference>,
    /// Version of the program.
    pub version: String,
}

impl LineageEntry {
    /// The entry of a start now, by this version of the program.
    pub fn now(job_id: &str, from_step: Option<u64>, differences: Vec<Difference>) -> Self {
        LineageEntry {
            time: clock::rfc3339(SystemTime::now()),
            job_id: job_id.to_owned(),
            from_step,
            differences,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
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

/// Adds an entry. Called by the holder of the run's lock only: this reads, then replaces the file.
///
/// # Errors
/// As [`read`] and [`Access::write_atomic`].
pub fn append(path: &Path, access: &Access, entry: LineageEntry) -> Result<()> {
    let mut entries = read(path)?;
    entries.push(entry);
    let mut text = serde_json::to_string_pretty(&entries)
        .map_err(|error| Error::fault(format!("cannot encode {}: {error}", path.display())))?;
    text.push('\n');
    access.write_atomic(path, text.as_bytes())
}
