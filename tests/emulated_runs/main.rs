//! `run.device = "cuda"` in a build whose GPU is the emulator: whole runs of the binary follow the CPU's, on every
//! mesh, with kernels that are late as long as nothing makes them hurry.
//!
//! - here: the device beside the CPU; `graphs`: runs with `run.cuda_graph` beside runs without; `recorded`: their steps,
//!   by the engine's face.

mod graphs;
mod recorded;
#[path = "../support/run.rs"]
mod run;

use run::{Run, tisserand};

/// 20 steps; `head_dim` is one that the tensor cores' kernels have.
const STEPS: [&str; 4] =
    ["training.steps=20", "model.head_dim=16", "training.global_batch=4", "training.micro_batch=1"];
const CUDA: [&str; 1] = ["run.device=cuda"];

/// A run on the CPU and the same on the device, with these keys on both.
fn both(sets: &[&str]) -> [Run; 2] {
    let cpu = Run::new(&STEPS).and(sets);
    let cuda = cpu.and(&CUDA);
    cpu.exits(0);
    cuda.exits(0);
    [cpu, cuda]
}

/// Largest relative difference of the losses of two runs.
fn distance(a: &Run, b: &Run) -> f64 {
    let (a, b) = (a.losses(), b.losses());
    assert_eq!(a.len(), b.len());
    let relative = a.iter().zip(&b).map(|(a, b)| (a - b).abs() / b.abs());
    relative.fold(0.0, |worst, next| if next > worst || next.is_nan() { next } else { worst })
}

/// Runs `sets` on the device with so many ranks and compares it with `one`, which ran on one.
fn assert_follows(one: &Run, sets: &[&str], ranks: usize, bound: f64) {
    let mut run = one.and(sets).and(&CUDA);
    run.set_ranks(ranks);
    run.exits(0);
    let distance = distance(&run, one);
    println!("{sets:?}: {distance:.1e}");
    assert!(distance <= bound, "{sets:?}: losses differ by {distance:.1e}");
}

#[test]
fn f32_runs_follow_the_cpu() {
    let [cpu, cuda] = both(&[]);
    let distance = distance(&cuda, &cpu);
    println!("f32: {distance:.1e}");
    assert!(distance <= 2e-5, "losses differ by {distance:.1e}");
}

#[test]
fn bf16_runs_follow_the_cpu_on_every_mesh() {
    let [cpu, cuda] = both(&["precision.compute=bf16"]);
    let distance = distance(&cuda, &cpu);
    println!("bf16: {distance:.1e}");
    assert!(distance <= 1e-2, "losses differ by {distance:.1e}");
    assert_follows(&cpu, &["mesh.tp=2"], 2, 1e-2);
    assert_follows(&cpu, &["mesh.dp_shard=2", "mesh.zero=3"], 2, 1e-2);
}

#[test]
fn mesh_invariant_runs_are_bit_equal() {
    let one = Run::new(&STEPS).and(&CUDA).and(&[
        "training.steps=6",
        "precision.compute=bf16",
        "determinism.mesh_invariant=true",
    ]);
    one.exits(0);
    for sets in [["mesh.dp_shard=2", "mesh.zero=3"], ["mesh.dp_replicate=2", "mesh.zero=0"]] {
        let mut two = one.and(&sets);
        two.set_ranks(2);
        two.exits(0);
        two.assert_equals(&one);
    }
}

#[test]
fn a_checkpoint_of_the_device_is_whole_and_evaluates_on_it() {
    let run = Run::new(&STEPS).and(&CUDA).and(&["training.steps=4", "precision.compute=bf16"]);
    run.exits(0);
    tisserand(["checkpoint", "verify", &run.dir_name()]);
    let folder = run.dir_name();
    let file = run.run_file();
    let arguments = ["eval", "--checkpoint", &folder].into_iter().chain(file.iter().map(String::as_str));
    let told = tisserand(arguments);
    assert!(told.contains("loss"), "{told}");
}
