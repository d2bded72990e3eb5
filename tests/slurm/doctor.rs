//! `tisserand doctor` on nodes that are equal, since all of them are this machine, and that disturb each other.

use std::process::Command;

use serde_json::Value;

use super::cluster::srun;
use super::words;

#[test]
fn nodes_that_share_their_cores_are_compared_and_none_fails() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("doctor.json");
    let mut program = Command::new(env!("CARGO_BIN_EXE_tisserand"));
    program.args(["doctor", "--seconds", "2", "--json", "--dir"]).arg(dir.path());
    let output = format!("--output={}", out.display());
    srun(4, 4, &["--mpi=pmix", &output], &words(&program)).exits(0);
    let report: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(report["hosts"], serde_json::json!(["node1", "node2", "node3", "node4"]));
    println!("{:.1} s, slow: {}", report["seconds"].as_f64().unwrap(), report["slow"]);
    let comparisons = report["comparisons"].as_array().unwrap();
    let compared: Vec<&str> = comparisons.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(compared, ["copy", "f32", "write and fsync", "create", "stat", "unlink"]);
    for comparison in comparisons {
        println!("{comparison}");
        assert_ne!(comparison["verdict"], "fail");
    }
    assert!(report["seconds"].as_f64().unwrap() < 60.0);
}
