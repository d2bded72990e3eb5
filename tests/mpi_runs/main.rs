//! Ranks that are processes, started by `mpirun`: the same bits as threads and as one rank, and a common end.
//!
//! MPIRUN names another mpirun than the one on PATH. What is said of its behaviour holds for Open MPI 4.1.
//! - `bits`: what ranks compute. `death`: ranks that are killed or stopped. `panics`: ranks that fail by themselves.
//!   `refusals`: what does not start. `launched`: mpirun below `tisserand launch`. `metadata`: what a start looks at.
//!   `doctor`: what is said of the machines.

mod bits;
mod death;
mod doctor;
mod launched;
mod metadata;
#[path = "../support/mpirun.rs"]
mod mpirun;
mod panics;
mod refusals;
#[path = "../support/run.rs"]
mod run;

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mpirun::{end_of, under_mpirun};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use run::{Run, errors};

/// After the death of a rank the others are gone by then.
const END: Duration = Duration::from_secs(10);

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Eight leaves, so that up to eight ranks share them; every step is saved.
const INVARIANT: [&str; 4] = [
    "determinism.mesh_invariant=true",
    "training.global_batch=8",
    "training.micro_batch=1",
    "checkpoint.every_steps=1",
];

/// A way to start the same run: ranks, and keys of the mesh.
type Mesh = (usize, &'static [&'static str]);

const MESHES: [Mesh; 6] = [
    (2, &["mesh.dp_shard=2", "mesh.zero=3"]),
    (2, &["mesh.dp_shard=1", "mesh.dp_replicate=2", "mesh.zero=0"]),
    (4, &["mesh.dp_shard=4", "mesh.zero=3"]),
    (4, &["mesh.dp_shard=4", "mesh.zero=1"]),
    (4, &["mesh.dp_shard=2", "mesh.dp_replicate=2", "mesh.zero=2"]),
    (3, &["mesh.dp_shard=3"]),
];

/// The run on this mesh, under mpirun.
fn processes(run: &Run, (ranks, mesh): Mesh) -> Command {
    under_mpirun(ranks, &on_mesh(run, mesh))
}

/// The run on this mesh, as threads.
fn threads(run: &Run, (ranks, mesh): Mesh) -> Command {
    let mut program = on_mesh(run, mesh);
    program.args(["--ranks", &ranks.to_string()]);
    program
}

fn on_mesh(run: &Run, mesh: &[&str]) -> Command {
    let mut program = run.command();
    for set in mesh {
        program.args(["--set", set]);
    }
    program
}

/// Starts `run` by this command, which must exit with `code`; what it wrote to standard error.
fn exits(run: &Run, mut command: Command, code: i32) -> String {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = end_of(command.spawn().unwrap(), PATIENCE, Some(run));
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", errors(&output));
    String::from_utf8(output.stderr).unwrap()
}

fn one_rank(sets: &[&str]) -> Run {
    let run = Run::new(sets);
    run.exits(0);
    run
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// How many tables the ranks have printed together.
fn tables(output: &Output) -> usize {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).lines().filter(|line| line.starts_with("rank  host")).count()
}

/// So that these tests can be believed: of what hangs, only an mpirun without ranks counts as ended.
#[test]
fn an_mpirun_that_outlasts_its_ranks_has_their_code() {
    let run = one_rank(&[]);
    let limit = Duration::from_millis(300);
    // A copy, since a process is known by its file.
    let mpirun = run.dir().with_file_name("mpirun");
    std::fs::copy("/bin/sleep", &mpirun).unwrap();
    let hanging = |script: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(&mpirun).stdout(Stdio::piped()).stderr(Stdio::piped());
        shell.spawn().unwrap()
    };
    for launcher in [r#"exec "$0" 100"#, r#""$0" 100; :"#] {
        assert_eq!(end_of(hanging(launcher), limit, Some(&run)).status.code(), Some(0), "{launcher}");
        assert_eq!(end_of(hanging(launcher), limit, None).status.code(), None, "{launcher}");
    }
    for rank in ["exec sleep 100", "sleep 100; :", r#"sleep 100 & exec "$0" 100"#] {
        let rank = hanging(rank);
        assert!(std::panic::catch_unwind(|| end_of(rank, limit, Some(&run))).is_err());
    }
}
