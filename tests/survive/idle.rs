//! Starts that complete no step. Those that fail by themselves are in `tests/ranks`.

use std::fs;
use std::process::Output;

use serde_json::Value;

use crate::run::{Run, errors};

fn starts(run: &Run) -> Vec<Value> {
    serde_json::from_slice(&fs::read(run.dir().join("lineage.json")).unwrap()).unwrap()
}

/// The run as a start of Slurm's job 7 that was requeued so often.
fn requeued(run: &Run, restarts: u64) -> Output {
    let mut command = run.command();
    command.env("SLURM_JOB_ID", "7").env("SLURM_RESTART_COUNT", restarts.to_string());
    command.env("SLURM_JOB_END_TIME", "4102444800");
    command.output().unwrap()
}

#[test]
fn lineage_says_how_far_each_start_came_and_how_it_ended() {
    let mut run = Run::new(&["run.max_minutes=1e-6", "training.steps=3"]);
    run.exits(75);
    run.exits(75);
    run.set(&["training.seq_len=16"]);
    run.exits(2);
    run.set(&["training.seq_len=32"]);
    run.exits(0);
    run.exits(0);
    let columns =
        |start: &Value| [start["from_step"].clone(), start["last_step"].clone(), start["exit_code"].clone()];
    let want: [[Value; 3]; 4] = [
        [Value::Null, 1.into(), 75.into()],
        [1.into(), 2.into(), 75.into()],
        [2.into(), 3.into(), 0.into()],
        [3.into(), 3.into(), 0.into()],
    ];
    assert_eq!(starts(&run).iter().map(columns).collect::<Vec<_>>(), want);
}

/// Slurm counts the starts of a job, also those that ended before they could note anything.
#[test]
fn a_job_that_slurm_requeues_for_nothing_is_refused() {
    let run = Run::new(&["run.max_minutes=1e-6"]);
    let output = requeued(&run, 3);
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no step was completed in the last 3 starts") && said.contains("hint: "), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said}");
    assert!(!said.contains("collective"), "{said}");
    assert!(!run.dir().join("lineage.json").exists());
    // One start less is none too many, and a step makes good for all of them.
    for restarts in [2, 3, 5] {
        let output = requeued(&run, restarts);
        assert_eq!(output.status.code(), Some(75), "{}", errors(&output));
    }
    assert_eq!(requeued(&run, 9).status.code(), Some(1));
    let off = run.and(&["run.max_idle_starts=0"]);
    assert_eq!(requeued(&off, 9).status.code(), Some(75));
}
