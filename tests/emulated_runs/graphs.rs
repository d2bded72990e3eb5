//! `run.cuda_graph`: a switch of speed alone. Runs with it have the bits of runs without, and go on from each other's
//! checkpoints. Every run ends with an error if its arena was used otherwise than planned (`run.plan_check`).

use std::fs;

use serde_json::Value;

use super::CUDA;
use super::run::{Run, tisserand};

/// Documents are masked, as by default; validation falls between steps, and on the step of a checkpoint.
const STEPS: [&str; 5] = [
    "training.steps=12",
    "model.head_dim=16",
    "eval.every_steps=3",
    "checkpoint.every_steps=6",
    "checkpoint.keep_last=2",
];

/// Runs with and without graphs, with these keys on both, and compares them; then lets both forget their last
/// checkpoint, and go on from the one before with the switch turned over.
fn assert_same_bits(sets: &[&str]) {
    let mut walked = Run::new(&STEPS).and(&CUDA).and(sets);
    let mut replayed = walked.and(&["run.cuda_graph=true"]);
    walked.exits(0);
    replayed.exits(0);
    replayed.assert_equals(&walked);
    assert_eq!(walked.losses().len(), 12);
    let (history, digest) = (walked.history(), walked.digest());

    for (run, switch) in [(&mut walked, "run.cuda_graph=true"), (&mut replayed, "run.cuda_graph=false")] {
        fs::remove_dir_all(run.checkpoint(12)).unwrap();
        run.set(&[switch]);
        run.exits(0);
        assert_eq!(run.records("resume")[0]["step"], 6);
        assert_eq!(run.history(), history, "{sets:?}, {switch} from step 7 on");
        assert_eq!(run.digest(), digest, "{sets:?}, {switch} from step 7 on");
    }
}

#[test]
fn a_run_of_one_micro_batch_in_bf16_has_the_same_bits_by_graphs() {
    assert_same_bits(&["training.micro_batch=4", "precision.compute=bf16", "precision.master=bf16"]);
}

#[test]
fn a_run_of_three_micro_batches_has_the_same_bits_by_graphs() {
    assert_same_bits(&["training.global_batch=3", "training.micro_batch=1", "recompute.mode=full"]);
}

#[test]
fn a_mesh_invariant_run_has_the_same_bits_by_graphs() {
    assert_same_bits(&[
        "training.micro_batch=1",
        "determinism.mesh_invariant=true",
        "recompute.mode=selective",
    ]);
}

#[test]
fn a_traced_step_shows_every_action_and_changes_no_bit() {
    let walked = Run::new(&STEPS).and(&CUDA);
    let traced = walked.and(&["run.cuda_graph=true", "log.trace_steps=5..6"]);
    walked.exits(0);
    traced.exits(0);
    traced.assert_equals(&walked);
    let file = traced.dir().join("traces/step-5..6/rank-0.json");
    let events: Vec<Value> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let count = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    // Two micro-batches in each of two steps.
    assert_eq!([count("forward block 0"), count("update block 1"), count("norm")], [4, 2, 2]);
}

#[test]
fn graphs_are_refused_on_a_cpu_by_one_line_and_shown_by_the_configuration() {
    let run = Run::new(&["run.cuda_graph=true"]);
    let error = run.exits(2);
    assert!(error.contains("run.cuda_graph = true: run.device = \"cpu\" has no graphs"), "{error}");
    assert_eq!(error.trim().lines().count(), 1, "{error}");
    let cuda = run.and(&CUDA);
    let file = cuda.run_file();
    let arguments = ["config", "show"].into_iter().chain(file.iter().map(String::as_str));
    assert!(tisserand(arguments).contains("cuda_graph = true"));
}
