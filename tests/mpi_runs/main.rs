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
mod panics;
mod refusals;
#[path = "../support/run.rs"]
mod run;

use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

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

/// A program under mpirun, on a port of its own.
fn under_mpirun(ranks: usize, program: &Command) -> Command {
    let mut command = Command::new(std::env::var_os("MPIRUN").unwrap_or_else(|| "mpirun".into()));
    command.args(["--oversubscribe", "--bind-to", "none"]);
    if nix::unistd::geteuid().is_root() {
        command.arg("--allow-run-as-root");
    }
    command.args(["-n", &ranks.to_string()]).arg(program.get_program()).args(program.get_args());
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    command.env("MASTER_PORT", port.to_string());
    for variable in ["SLURM_JOB_ID", "RANK", "WORLD_SIZE", "MASTER_ADDR"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

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

fn exits(mut command: Command, code: i32) -> String {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = end_of(command.spawn().unwrap(), PATIENCE);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", errors(&output));
    String::from_utf8(output.stderr).unwrap()
}

fn one_rank(sets: &[&str]) -> Run {
    let run = Run::new(sets);
    run.exits(0);
    run
}

/// What mpirun says in the end, which must come within `limit`. Open MPI 4.1 with PMIx 4 was seen to wait for a lock of its
/// own for ever (in PMIx_server_finalize), when all ranks had ended and all that they said had been passed on: so it is
/// ended here, which is a failure of the job as any other.
fn end_of(mpirun: Child, limit: Duration) -> Output {
    let (pid, (done, is_done)) = (mpirun.id(), mpsc::channel::<()>());
    let wait = move || {
        if is_done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            println!("mpirun, process {pid}, does not end; it is killed");
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    };
    let waiting = std::thread::spawn(wait);
    let output = mpirun.wait_with_output().unwrap();
    drop(done);
    waiting.join().unwrap();
    output
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// How many tables the ranks have printed together.
fn tables(output: &Output) -> usize {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).lines().filter(|line| line.starts_with("rank  host")).count()
}
