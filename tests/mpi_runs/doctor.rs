//! `tisserand doctor` on ranks that are processes, on one host and on two.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::run::errors;
use super::{PATIENCE, end_of, under_mpirun};

/// Runs it and reads its report.
fn examined(mut command: Command) -> Value {
    let output = end_of(command.spawn().unwrap(), PATIENCE, None);
    assert_eq!(output.status.code(), Some(0), "{command:?}: {}", errors(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn doctor(dir: &tempfile::TempDir) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tisserand"));
    program.args(["doctor", "--seconds", "2", "--json", "--dir"]).arg(dir.path());
    program
}

/// The names of a rank's rows of one check.
fn names(rank: &Value, check: &str) -> Vec<String> {
    let findings = rank["findings"].as_array().unwrap().iter().filter(|finding| finding["check"] == check);
    findings.map(|finding| finding["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn processes_of_one_host_are_examined_over_mpi() {
    let dir = tempfile::tempdir().unwrap();
    let report = examined(under_mpirun(2, &doctor(&dir)));
    let ranks = report["ranks"].as_array().unwrap();
    assert_eq!((ranks.len(), report["hosts"].as_array().unwrap().len()), (2, 1));
    for rank in ranks {
        assert_eq!(names(rank, "mpi"), ["version", "transport"], "{rank}");
        assert!(names(rank, "all_reduce").contains(&"inside a node, 4 KiB".to_owned()), "{rank}");
    }
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

/// The doctor on two ranks, each in a host name of its own; rank i writes its process id to `pid-i` of the folder.
/// Nothing if this process may not do that.
fn on_two_hosts(dir: &tempfile::TempDir) -> Option<Command> {
    let renamed = "hostname doctor-$OMPI_COMM_WORLD_RANK && cd \"$0\" &&
        echo $$ > pid-$OMPI_COMM_WORLD_RANK.new && mv pid-$OMPI_COMM_WORLD_RANK.new pid-$OMPI_COMM_WORLD_RANK &&
        exec \"$@\"";
    let may = Command::new("unshare").args(["--uts", "hostname", "doctor-0"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        println!(
            "this process may not have a host name of its own: the unit tests of launch/src/doctor stand for this"
        );
        return None;
    }
    let program = doctor(dir);
    let mut renaming = Command::new("unshare");
    renaming.args(["--uts", "sh", "-c", renamed]).arg(dir.path());
    renaming.arg(program.get_program()).args(program.get_args());
    let mut command = under_mpirun(2, &renaming);
    command.env("MASTER_ADDR", "localhost");
    Some(command)
}

/// Two ranks on the same cores have equal machines, however unequally they get the cores while it lasts.
#[test]
fn processes_of_two_hosts_are_compared_and_equal_ones_pass() {
    let dir = tempfile::tempdir().unwrap();
    let Some(command) = on_two_hosts(&dir) else { return };
    let report = examined(command);
    assert_eq!(report["hosts"], serde_json::json!(["doctor-0", "doctor-1"]));
    let compared: Vec<&str> =
        report["comparisons"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    for name in ["copy", "f32", "write and fsync", "create"] {
        assert!(compared.contains(&name), "{name} is not compared: {compared:?}");
    }
    let [_, second] = &report["ranks"].as_array().unwrap()[..] else { panic!("{report}") };
    assert!(names(second, "clock").contains(&"ahead of rank 0".to_owned()), "{second}");
    assert!(names(second, "all_reduce").contains(&"across nodes, 64 MiB, bus".to_owned()), "{second}");
}

/// Lets a process run for a small part of the time, until it is gone.
fn throttle(pid: Pid) {
    let (rests, runs) = (Duration::from_millis(60), Duration::from_millis(2));
    let signal = |signal, wait| kill(pid, signal).map(|()| std::thread::sleep(wait));
    while signal(Signal::SIGSTOP, rests).and_then(|()| signal(Signal::SIGCONT, runs)).is_ok() {}
}

#[test]
fn a_host_that_is_really_slow_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut command) = on_two_hosts(&dir) else { return };
    let started = command.spawn().unwrap();
    let pid = wait_for_pid(&dir.path().join("pid-1"));
    let throttling = std::thread::spawn(move || throttle(pid));
    let output = end_of(started, PATIENCE, None);
    throttling.join().unwrap();
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", errors(&output)));
    for comparison in report["comparisons"].as_array().unwrap() {
        println!("{comparison}");
    }
    let slow: Vec<&Value> = report["slow"].as_array().unwrap().iter().map(|slow| &slow["host"]).collect();
    assert_eq!(slow, ["doctor-1"]);
    // It fails, unless the machine is so loaded that there is no time for enough rounds.
    let code = if report["verdict"] == "fail" { 1 } else { 0 };
    assert_eq!(output.status.code(), Some(code));
}

fn wait_for_pid(file: &Path) -> Pid {
    let began = Instant::now();
    loop {
        if let Ok(text) = std::fs::read_to_string(file) {
            return Pid::from_raw(text.trim().parse().unwrap());
        }
        assert!(began.elapsed() < PATIENCE, "{} did not come", file.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Also that the runs which it kills are nobody's rank, though mpirun has told their parent that it is one.
#[test]
fn accept_trains_over_mpi_and_kills_runs_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("accept.json");
    let mut program = Command::new(env!("CARGO_BIN_EXE_tisserand"));
    program.args(["accept", "--dir"]).arg(dir.path()).arg("--out").arg(&out);
    let output = end_of(under_mpirun(2, &program).spawn().unwrap(), PATIENCE, None);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let result: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let passed = result["stages"].as_array().unwrap().iter().filter(|stage| stage["passed"] == true).count();
    assert_eq!((passed, &result["verdict"]), (5, &"passed".into()), "{result}");
    let step = &result["stages"][2]["figures"]["step"]["dp_shard"];
    assert!(step["reduce_scatter"]["payload_bytes"].as_u64().unwrap() > 0, "{step}");
}
