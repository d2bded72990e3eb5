//! The result as a file that can be sent to others, and as lines on the terminal.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};
use tisserand_runtime::{Error, Result, files};

use crate::doctor::Report;
use crate::output;

/// What a stage has shown.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// Whether it is as it must be.
    pub passed: bool,
    /// How long it took.
    pub seconds: f64,
    /// In one line.
    pub message: String,
    /// In numbers.
    pub figures: Value,
}

/// Rank 0's.
pub struct Record {
    file: PathBuf,
    state: Mutex<State>,
}

struct State {
    ranks: usize,
    running: Option<&'static str>,
    stages: Vec<Stage>,
    doctor: Value,
}

impl Record {
    /// An empty one, which is written at once: a file that cannot be written is found out before anything is done.
    ///
    /// # Errors
    /// As [`files::io_error`].
    pub fn new(file: PathBuf, ranks: usize) -> Result<Self> {
        let state = State { ranks, running: None, stages: Vec::new(), doctor: Value::Null };
        let record = Record { file, state: Mutex::new(state) };
        record.change(|_| {})?;
        Ok(record)
    }

    /// A stage begins.
    ///
    /// # Errors
    /// As [`files::io_error`].
    pub fn begin(&self, name: &'static str) -> Result<()> {
        eprintln!("{name} ...");
        self.change(|state| state.running = Some(name))
    }

    /// A stage is done.
    ///
    /// # Errors
    /// As [`files::io_error`].
    pub fn end(&self, stage: Stage) -> Result<()> {
        let word = if stage.passed { "passed" } else { "FAILED" };
        output::line(&format!("{word} {:<16} {:>6.1} s  {}", stage.name, stage.seconds, stage.message))?;
        self.change(|state| {
            state.running = None;
            state.stages.push(stage);
        })
    }

    /// What ended everything before its end: a failure of the stage that runs.
    ///
    /// # Errors
    /// As [`files::io_error`].
    pub fn broken(&self, error: &Error) -> Result<()> {
        let name = self.state.lock().unwrap_or_else(PoisonError::into_inner).running.unwrap_or("start");
        let (message, figures) = (error.to_string(), Value::Null);
        self.end(Stage { name, passed: false, seconds: 0.0, message, figures })
    }

    /// Keeps the doctor's whole report.
    ///
    /// # Errors
    /// As [`files::io_error`].
    pub fn doctor(&self, report: &Report) -> Result<()> {
        let report = serde_json::to_value(report).map_err(wrong)?;
        self.change(|state| state.doctor = report)
    }

    /// Whether all stages so far have passed, `count` of them.
    pub fn passed(&self, count: usize) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stages.len() == count && state.stages.iter().all(|stage| stage.passed)
    }

    /// The last line, for people and in the file.
    ///
    /// # Errors
    /// As [`files::io_error`].
    pub fn close(&self, passed: bool) -> Result<()> {
        let verdict = if passed { "passed" } else { "failed" };
        self.write(verdict)?;
        output::line(&format!("{verdict}: {} has all figures", self.file.display()))
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.write("running")
    }

    fn write(&self, verdict: &str) -> Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { ranks, running, stages, doctor } = &*state;
        let text = serde_json::to_vec_pretty(&json!({
            "format": 1,
            "tisserand": env!("CARGO_PKG_VERSION"),
            "features": features(),
            "unix_time_s": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            "ranks": ranks,
            "verdict": verdict,
            "running": running,
            "stages": stages,
            "doctor": doctor,
        }));
        files::write_atomic(&self.file, &text.map_err(wrong)?)
    }
}

/// What the program was built with.
fn features() -> Vec<&'static str> {
    let all =
        [("mpi", cfg!(feature = "mpi")), ("cuda", cfg!(feature = "cuda")), ("nccl", cfg!(feature = "nccl"))];
    all.into_iter().filter_map(|(name, is_on)| is_on.then_some(name)).collect()
}

fn wrong(error: serde_json::Error) -> Error {
    Error::fault(format!("cannot write the result: {error}"))
}
