//! Runs in a real Slurm of four virtual nodes, started by `srun` and `sbatch` as a user would. Needs root, and fails
//! with one line that says what to install where Slurm is missing.
//!
//! - `cluster`: the cluster, jobs and steps. `cluster.sh` starts it, also by hand.
//! - `start`: what ranks compute, and what does not start. `requeue`: signals, exit code 75 and the next start.
//!   `submitted`: jobs of `tisserand submit`. `death`: ranks that are killed or stopped. `disk`: full disks and torn
//!   files. `folder`: two jobs on one run. `scaling`: a sweep over nodes. `doctor`: nodes against each other.
//!
//! All nodes are this machine: they share its host name, its cores and its file systems. What two machines do
//! differently, delay, loss and cut links, is in `tests/network`.

mod cluster;
mod death;
mod disk;
#[path = "../support/disk.rs"]
mod disk_support;
mod doctor;
mod folder;
mod requeue;
#[path = "../support/run.rs"]
mod run;
mod scaling;
mod start;
mod submitted;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use cluster::{Step, srun};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use run::{Run, errors};
use serde_json::Value;

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Eight leaves, so that up to eight ranks share them.
const INVARIANT: [&str; 5] = [
    "determinism.mesh_invariant=true",
    "training.global_batch=8",
    "training.micro_batch=1",
    "checkpoint.every_steps=5",
    "eval.every_steps=50",
];

/// Nodes, tasks, and keys of the mesh.
struct Start {
    nodes: usize,
    tasks: usize,
    mesh: &'static [&'static str],
}

const FOUR_NODES: Start = Start { nodes: 4, tasks: 4, mesh: &["mesh.dp_shard=4", "mesh.zero=3"] };
const TWO_NODES: Start =
    Start { nodes: 2, tasks: 4, mesh: &["mesh.dp_shard=2", "mesh.zero=2", "mesh.dp_replicate=2"] };
const ONE_NODE: Start = Start { nodes: 1, tasks: 2, mesh: &["mesh.dp_shard=2", "mesh.zero=1"] };
const EIGHT_RANKS: Start = Start { nodes: 4, tasks: 8, mesh: &["mesh.dp_shard=8", "mesh.zero=3"] };

/// Words of the command that trains on this mesh, without srun.
fn train(run: &Run, start: &Start) -> Vec<String> {
    let mut program = run.command();
    for set in start.mesh {
        program.args(["--set", set]);
    }
    words(&program)
}

fn words(program: &Command) -> Vec<String> {
    let words = std::iter::once(program.get_program()).chain(program.get_args());
    words.map(|word| word.to_str().unwrap().to_owned()).collect()
}

/// The run as one step of its own, over PMIx.
fn step(run: &Run, start: &Start, options: &[&str]) -> Step {
    srun(start.nodes, start.tasks, &[&["--mpi=pmix"], options].concat(), &train(run, start))
}

/// The run by itself on one rank, to its end.
fn one_rank(sets: &[&str]) -> Run {
    let run = Run::new(sets);
    run.exits(0);
    run
}

/// Waits until a condition holds.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Process ids by rank, of the newest start.
fn pids(run: &Run) -> Vec<i32> {
    let jobs = fs::read_dir(run.dir().join("jobs")).unwrap().map(|job| job.unwrap().path());
    let hosts = fs::read(jobs.max().unwrap().join("hosts.json")).unwrap();
    let hosts: Value = serde_json::from_slice(&hosts).unwrap();
    let pids = hosts.as_array().unwrap().iter().map(|host| host["pid"].as_u64().unwrap());
    pids.map(|pid| i32::try_from(pid).unwrap()).collect()
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Lines that begin so.
fn lines(text: &str, start: &str) -> usize {
    text.lines().filter(|line| line.starts_with(start)).count()
}
