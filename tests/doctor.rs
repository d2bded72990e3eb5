//! `tisserand doctor` and `tisserand accept` as their users start them: alone, on several ranks, in folders that will
//! not do.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Every check that a rank on a CPU makes.
const CHECKS: [&str; 8] = ["host", "limits", "variables", "fabric", "clock", "memory", "gemm", "file_system"];

/// The program in a folder, without what a launcher or a user of this machine has set.
fn tisserand(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tisserand"));
    command.current_dir(dir).args(args).stdin(Stdio::null());
    for name in ["SLURM_JOB_ID", "RANK", "WORLD_SIZE", "NCCL_IB_DISABLE", "LD_PRELOAD"] {
        command.env_remove(name);
    }
    command
}

fn exits(mut command: Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn told(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn is_empty(dir: &TempDir) -> bool {
    fs::read_dir(dir.path()).unwrap().next().is_none()
}

/// The rows of a rank: check, name, finding.
fn findings(rank: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let findings = rank["findings"].as_array().unwrap().iter();
    findings.map(|f| (f["check"].as_str().unwrap(), f["name"].as_str().unwrap(), f))
}

#[test]
fn alone_it_prints_a_row_for_every_check_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let text = exits(tisserand(dir.path(), &["doctor", "--seconds", "1"]), 0);
    println!("{text}");
    let mut lines = text.lines();
    assert!(lines.next().unwrap().contains(" doctor: 1 rank on "), "{text}");
    let seen: BTreeSet<&str> = lines.filter_map(|line| line.split_whitespace().nth(1)).collect();
    for check in CHECKS {
        assert!(seen.contains(check), "{check} is missing: {text}");
    }
    assert!(text.contains("GFLOP/s") && text.contains("GB/s") && text.contains("files/s"), "{text}");
    assert!(is_empty(&dir));
}

#[test]
fn json_has_every_figure_of_every_rank() {
    let dir = tempfile::tempdir().unwrap();
    let text = exits(tisserand(dir.path(), &["doctor", "--seconds", "2", "--ranks", "2", "--json"]), 0);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert_eq!((&report["format"], report["hosts"].as_array().unwrap().len()), (&1.into(), 1));
    let ranks = report["ranks"].as_array().unwrap();
    assert_eq!(ranks.len(), 2);
    for (number, rank) in ranks.iter().enumerate() {
        assert_eq!(rank["rank"], number);
        let checks: BTreeSet<&str> = findings(rank).map(|(check, ..)| check).collect();
        for check in CHECKS.into_iter().chain(["all_reduce"]) {
            assert!(checks.contains(check), "rank {number} has no {check}: {text}");
        }
        let rate = findings(rank).find(|(_, name, _)| *name == "inside a node, 64 MiB, bus").unwrap().2;
        assert!(rate["value"].as_f64().unwrap() > 0.0 && rate["unit"] == "GB/s", "{rate}");
        for (check, name, finding) in findings(rank) {
            assert!(finding["verdict"] == "ok" || finding["advice"] != "", "{check} {name}: {finding}");
        }
    }
    assert!(report["comparisons"].as_array().unwrap().is_empty(), "one host is compared with nobody");
    assert!(is_empty(&dir));
}

#[test]
fn warnings_fail_only_if_they_are_to() {
    let dir = tempfile::tempdir().unwrap();
    let doctor = |args: &[&str]| {
        let mut command = tisserand(dir.path(), &[&["doctor", "--seconds", "1"], args].concat());
        command.env("NCCL_IB_DISABLE", "1");
        command
    };
    let text = exits(doctor(&[]), 0);
    assert!(text.contains("NCCL_IB_DISABLE=1: NCCL leaves InfiniBand alone"), "{text}");
    exits(doctor(&["--strict"]), 1);
}

#[test]
fn folders_and_arguments_that_will_not_do_are_one_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    for (args, expected) in [
        (&["--dir", "nowhere"][..], "cannot examine nowhere: no such file or folder"),
        (&["--dir", "file"], "cannot examine file: a file stands where a folder is needed"),
        (&["--dir", "/proc"], "cannot create folder /proc/.tisserand-doctor-local-"),
        (&["--profile", "nobody"], "no profile \"nobody\""),
    ] {
        let output = tisserand(dir.path(), &[&["doctor"], args].concat()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.starts_with(&format!("error: {expected}")), "{args:?}: {stderr}");
        assert_eq!((stderr.lines().count(), output.stdout.len()), (1, 0), "{args:?}: {stderr}");
    }
}

/// A file system of its own, unmounted at the end.
struct Mount<'a>(&'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_file_system_without_room_is_a_failure_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(dir.path()).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!(
            "this process may not mount: folders_and_arguments_that_will_not_do_are_one_line stands for this"
        );
        return;
    }
    let _mount = Mount(dir.path());
    let text = exits(
        tisserand(Path::new("/"), &["doctor", "--seconds", "1", "--dir", dir.path().to_str().unwrap()]),
        1,
    );
    let lines: Vec<&str> = text.lines().collect();
    let row =
        lines.iter().position(|line| line.starts_with("FAIL  file_system  write and fsync")).expect(&text);
    assert!(
        lines[row + 1].trim().starts_with("cannot write ") && lines[row + 1].contains("no space left"),
        "{text}"
    );
    // The others are made all the same.
    assert!(text.contains("is atomic"), "{text}");
}

#[test]
fn accept_proves_that_training_works_here() {
    let dir = tempfile::tempdir().unwrap();
    let text = exits(tisserand(dir.path(), &["accept", "--ranks", "2"]), 0);
    println!("{text}");
    let result: Value = serde_json::from_slice(&fs::read(dir.path().join("accept.json")).unwrap()).unwrap();
    assert_eq!((&result["verdict"], &result["running"]), (&"passed".into(), &Value::Null));
    let stages: Vec<&str> =
        result["stages"].as_array().unwrap().iter().map(|stage| stage["name"].as_str().unwrap()).collect();
    assert_eq!(stages, ["doctor", "training", "byte audit", "overlap", "kill and resume"]);
    let step = &result["stages"][2]["figures"]["step"]["dp_shard"];
    assert!(step["all_gather"]["payload_bytes"].as_u64().unwrap() > 0, "{step}");
    assert_eq!(result["doctor"]["ranks"].as_array().unwrap().len(), 2);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["accept.json"]);
}
