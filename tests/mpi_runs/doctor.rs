//! `tisserand doctor` on ranks that are processes, on one host and on two.

use std::process::Command;

use serde_json::Value;

use super::run::errors;
use super::under_mpirun;

/// Runs it and reads its report.
fn examined(mut command: Command) -> Value {
    let output = command.output().unwrap();
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

/// Each rank in a host name of its own.
#[test]
fn processes_of_two_hosts_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let renamed = "hostname doctor-$OMPI_COMM_WORLD_RANK && exec \"$0\" \"$@\"";
    let may = Command::new("unshare").args(["--uts", "hostname", "doctor-0"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        println!(
            "this process may not have a host name of its own: the unit tests of launch/src/doctor stand for this"
        );
        return;
    }
    let program = doctor(&dir);
    let mut renaming = Command::new("unshare");
    renaming.args(["--uts", "sh", "-c", renamed]).arg(program.get_program()).args(program.get_args());
    let mut command = under_mpirun(2, &renaming);
    command.env("MASTER_ADDR", "localhost");
    let output = command.output().unwrap();
    // Two ranks that share two cores may be far from equal: that is then what it says.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", errors(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
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

/// Also that the runs which it kills are nobody's rank, though mpirun has told their parent that it is one.
#[test]
fn accept_trains_over_mpi_and_kills_runs_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("accept.json");
    let mut program = Command::new(env!("CARGO_BIN_EXE_tisserand"));
    program.args(["accept", "--dir"]).arg(dir.path()).arg("--out").arg(&out);
    let output = under_mpirun(2, &program).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let result: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let passed = result["stages"].as_array().unwrap().iter().filter(|stage| stage["passed"] == true).count();
    assert_eq!((passed, &result["verdict"]), (5, &"passed".into()), "{result}");
    let step = &result["stages"][2]["figures"]["step"]["dp_shard"];
    assert!(step["reduce_scatter"]["payload_bytes"].as_u64().unwrap() > 0, "{step}");
}
