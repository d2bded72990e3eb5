//! What stops a run early and lets it go on, as a user or a job script meets it: files in the run folder, time limits
//! and what Slurm says of them, starts that come nowhere.
//!
//! Slurm itself is not here: of its commands these tests play the odd answers, those of a controller that is slow,
//! confused or absent.

mod idle;
mod limits;
#[path = "../support/run.rs"]
mod run;
mod triggers;

use std::process::{Child, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use run::{Run, errors};

/// A run that does not come to its end by itself.
fn endless(sets: &[&str]) -> Run {
    Run::endless(&["eval.every_steps=0", "log.every_steps=50"]).and(sets)
}

/// Asks it to stop; it must do so with 75.
fn stops(run: &Run, mut child: Child) -> Output {
    // An earlier start has left another state behind.
    run.wait_until(&mut child, "step 1", |run| {
        run.dir().join("status.json").exists() && run.status()["state"] == "running"
    });
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", errors(&output));
    output
}

/// The log of the newest start.
fn log(run: &Run) -> String {
    let jobs = std::fs::read_dir(run.dir().join("jobs")).into_iter().flatten();
    let newest = jobs.map(|job| job.unwrap().path()).max();
    newest.and_then(|job| std::fs::read_to_string(job.join("rank0.log")).ok()).unwrap_or_default()
}
