//! `tisserand launch` as a user meets it, in any build: what it refuses, and one rank that is a process. Several ranks
//! need MPI or NCCL: tests/mpi_runs.

#[path = "../support/run.rs"]
mod run;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use run::{Run, errors};

const BINARY: &str = env!("CARGO_BIN_EXE_tisserand");

fn launch(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("launch").args(arguments);
    for variable in ["SLURM_JOB_ID", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The run, as one rank.
fn one_rank(run: &Run) -> Command {
    let mut command = launch(&["-n", "1", "--", "train"]);
    command.args(run.run_file());
    command
}

fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{command:?}: {}", errors(&output));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn what_cannot_be_launched_is_refused_once_with_the_way_out() {
    let run = Run::new(&[]);
    let file = run.run_file();
    let missing = ["-n", "2", "--", "train", "missing.toml"];
    let cases: [(&[&str], &str, &str); 5] = [
        (
            &["-n", "2", "--", "python", "train.py"],
            "\"python\" is no command of it",
            "mpirun and srun start other",
        ),
        (&["-n", "2", "tisserand", "train", &file[0]], "\"tisserand\" is no command", "leave that word out"),
        (&["-n", "2", "--", "plan", &file[0]], "plan works in one process", "without launch"),
        (
            &["-n", "2", "--", "train", &file[0], "--ranks", "4"],
            "--ranks 4 of threads",
            "leave one of them out",
        ),
        (&missing, "missing.toml: no such file", "check the path"),
    ];
    for (arguments, what, hint) in cases {
        let said = refused(launch(arguments));
        assert!(said.starts_with("error: ") && said.contains(what) && said.contains(hint), "{said}");
    }
    // A usage error of the command is one of the launch.
    let output = launch(&["-n", "2", "--", "train", &file[0], "--no-such"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(errors(&output).matches("unexpected argument").count(), 1, "{}", errors(&output));
    assert!(!run.dir().exists());
}

#[test]
fn a_launcher_is_not_started_by_another() {
    let run = Run::new(&[]);
    let mut command = one_rank(&run);
    command.env("RANK", "1").env("WORLD_SIZE", "4").env("LOCAL_RANK", "1").env("LOCAL_WORLD_SIZE", "4");
    let said = refused(command);
    assert!(said.contains("this process is rank 1 of 4") && said.contains("without launch"), "{said}");
}

#[cfg(not(feature = "mpi"))]
#[test]
fn a_build_that_cannot_join_processes_says_what_can() {
    let run = Run::new(&[]);
    let mut command = launch(&["-n", "2", "--", "train"]);
    command.args(run.run_file());
    let said = refused(command);
    assert!(said.contains("needs MPI") && said.contains("--ranks 2 (threads of one process)"), "{said}");
}

#[cfg(not(feature = "nccl"))]
#[test]
fn gpus_of_several_processes_need_nccl() {
    let run = Run::new(&["run.device=cuda"]);
    let mut command = launch(&["-n", "2", "--", "train"]);
    command.args(run.run_file());
    let said = refused(command);
    assert!(said.contains("needs NCCL") && said.contains("--features nccl"), "{said}");
}

fn lines(text: &[u8]) -> Vec<String> {
    String::from_utf8(text.to_vec()).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_launched_rank_computes_what_one_alone_does_and_its_lines_have_its_number() {
    let alone = Run::new(&[]);
    alone.exits(0);
    let run = alone.and(&[]);
    let output = one_rank(&run).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", errors(&output));
    let lines = lines(&output.stdout);
    assert!(lines.len() > 10 && lines.iter().all(|line| line.starts_with("[0] ")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("[0] finished: all 10 steps")), "{lines:?}");
    run.assert_equals(&alone);
}

#[test]
fn the_code_and_the_last_words_of_a_rank_are_those_of_the_launch() {
    let run = Run::new(&[]);
    run.exits(0);
    let mut command = one_rank(&run);
    command.arg("--fresh");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
    let said = lines(&output.stderr);
    assert!(said.len() == 1 && said[0].starts_with("[0] error: --fresh: "), "{said:?}");
}

/// Starts a run that does not end by itself, and waits for its first steps; the process id of its rank.
fn running(run: &Run) -> (Child, Pid) {
    let mut child = one_rank(run).spawn().unwrap();
    run.wait_until(&mut child, "step 3", |run| run.status_step().is_some_and(|step| step >= 3));
    let hosts = std::fs::read(run.dir().join("jobs/0001-local/hosts.json")).unwrap();
    let hosts: serde_json::Value = serde_json::from_slice(&hosts).unwrap();
    (child, Pid::from_raw(hosts[0]["pid"].as_i64().unwrap() as i32))
}

fn endless() -> Run {
    Run::endless(&["eval.every_steps=0"])
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

fn ended(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

#[test]
fn signals_are_passed_on_once_and_a_stopped_run_returns_75() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
        let run = endless();
        let (child, _) = running(&run);
        send(&child, signal);
        // A second control-C would end the rank at once, with 130.
        let output = ended(child);
        assert_eq!(output.status.code(), Some(75), "{signal}: {}", errors(&output));
        assert_eq!(run.status()["state"], "stopped", "{}", run.status());
        assert!(run.dir().join("checkpoints/latest").exists());
    }
}

#[test]
fn a_rank_that_is_killed_is_named() {
    let run = endless();
    let (child, rank) = running(&run);
    kill(rank, Signal::SIGKILL).unwrap();
    let output = ended(child);
    assert_eq!(output.status.code(), Some(137), "{}", errors(&output));
    assert!(errors(&output).contains("error: rank 0 was ended by signal 9"), "{}", errors(&output));
}

#[test]
fn a_rank_whose_launcher_is_killed_stops_with_a_checkpoint() {
    let run = endless();
    let (mut child, _) = running(&run);
    child.kill().unwrap();
    child.wait().unwrap();
    let began = Instant::now();
    while run.status()["state"] != "stopped" {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", run.status());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(run.dir().join("checkpoints/latest").exists());
}

/// Output goes on while the run does: a line is there before the end.
#[test]
fn lines_come_when_they_are_written() {
    let run = endless();
    let mut child = one_rank(&run).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("[0] step")));
    send(&child, Signal::SIGTERM);
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(75));
}
