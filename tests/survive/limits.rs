//! Time limits: of the run file, and of Slurm.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

use crate::run::{Run, errors};
use crate::{endless, log, stops};

/// A folder with these programs for PATH.
fn programs(scripts: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, script) in scripts {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

/// The run as Slurm's job 7, with these programs before all others.
fn in_slurm(run: &Run, programs: &Path) -> Command {
    let mut command = run.command();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    command.env("SLURM_JOB_ID", "7").env("PATH", path);
    command
}

/// Runs until the log has `text`, then stops; the log.
fn said(run: &Run, command: &mut Command, text: &str) -> String {
    let mut child = command.spawn().unwrap();
    run.wait_until(&mut child, text, |run| log(run).contains(text));
    let output = stops(run, child);
    assert!(output.stderr.is_empty(), "{}", errors(&output));
    log(run)
}

#[test]
fn the_run_stops_before_the_end_of_the_job() {
    let none = programs(&[("squeue", "exit 1"), ("scontrol", "exit 1")]);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let run = endless(&[]);
    let output =
        in_slurm(&run, none.path()).env("SLURM_JOB_END_TIME", (now + 8).to_string()).output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", errors(&output));
    let status = run.status();
    assert!(status["message"].as_str().unwrap().contains("Slurm's time limit is near"), "{status}");
    assert!(status["save_s"].as_f64().unwrap() > 0.0, "{status}");
    let log_of_first = log(&run);
    assert!(log_of_first.contains("Slurm ends job 7 at 20"), "{log_of_first}");
    assert!(log_of_first.contains("not measured yet: "), "{log_of_first}");

    // Asked by its command, and with what the first start has measured.
    let end = "date -u -d '+1 hour' +'7 %Y-%m-%dT%H:%M:%S 2:00:00'";
    let squeue = programs(&[("squeue", end)]);
    let text = said(&run, &mut in_slurm(&run, squeue.path()), "the slowest of earlier starts");
    assert!(text.contains("time limit in 59m") || text.contains("time limit in 1h00m"), "{text}");
}

#[test]
fn odd_answers_of_the_controller_are_one_line_and_no_limit() {
    let cases = [
        (vec![("squeue", "echo 7 2027-01-01T00:00:00 UNLIMITED")], "Slurm sets job 7 no time limit"),
        (
            vec![("squeue", "echo slurm_load_jobs error; exit 1"), ("scontrol", "echo Invalid job id")],
            "Slurm does not say when job 7 ends, so there is no limit: squeue: exit status: 1; \
             scontrol: \"Invalid job id\" is no answer; hint: run.max_minutes",
        ),
        (vec![("squeue", "exec sleep 100"), ("scontrol", "exec sleep 100")], "squeue: no answer within 10 s"),
    ];
    std::thread::scope(|scope| {
        for (scripts, text) in cases {
            scope.spawn(move || {
                let (run, programs) = (endless(&[]), programs(&scripts));
                let log = said(&run, &mut in_slurm(&run, programs.path()), text);
                assert_eq!(log.matches("job 7").count(), 1, "{log}");
                assert!(!log.contains("time limit in"), "{log}");
            });
        }
    });
}

#[test]
fn a_slow_controller_delays_nothing() {
    let slow = programs(&[("squeue", "exec sleep 100"), ("scontrol", "exec sleep 100")]);
    let run = Run::new(&[]);
    let start = Instant::now();
    let output = in_slurm(&run, slow.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn slurm_is_not_asked_where_the_run_file_says() {
    let dir = tempfile::tempdir().unwrap();
    let asked = dir.path().join("asked");
    let script = format!("touch {}", asked.display());
    let programs = programs(&[("squeue", &script), ("scontrol", &script)]);
    let run = Run::new(&["run.max_minutes=1000"]);
    let output = in_slurm(&run, programs.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(!asked.exists());
    assert!(log(&run).contains("time limit in 16h"), "{}", log(&run));
}

#[test]
fn a_lead_of_the_run_file_counts() {
    let run = Run::new(&["run.max_minutes=1000", "run.stop_before_limit_s=1e6"]);
    run.exits(75);
    assert_eq!(run.status()["step"], 1);
    assert!(log(&run).contains("run.stop_before_limit_s = 1000000"), "{}", log(&run));
}

#[test]
fn leads_that_are_shorter_than_a_save_are_told_once() {
    let run = Run::new(&["run.max_minutes=1000", "run.stop_before_limit_s=1e-6", "checkpoint.every_steps=1"]);
    let none = programs(&[]);
    let output = in_slurm(&run, none.path()).env("TISSERAND_SIGNAL_LEAD_S", "1e-6").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let said = errors(&output);
    for text in ["run.stop_before_limit_s = 0.000001 is less than", "(TISSERAND_SIGNAL_LEAD_S), less than"] {
        assert_eq!(said.matches(text).count(), 1, "{said}");
    }
    assert_eq!(said.matches("hint: ").count(), 2, "{said}");

    let output = in_slurm(&run, none.path()).env("TISSERAND_SIGNAL_LEAD_S", "five").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with("error: TISSERAND_SIGNAL_LEAD_S = \"five\"") && said.lines().count() == 1,
        "{said}"
    );
}
