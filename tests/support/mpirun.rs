//! Programs under `mpirun`, and how they end. MPIRUN names another one than that on PATH; what is said of its
//! behaviour holds for Open MPI 4.1.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run::Run;

/// A program under mpirun, on a port of its own.
pub(crate) fn under_mpirun(ranks: usize, program: &Command) -> Command {
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

/// What `child` says in the end, which must come within `limit`: an mpirun, or a program that starts one.
///
/// mpirun was seen to wait for a lock of its own for ever (PMIx 4, in PMIx_server_finalize), when all ranks had ended
/// and all that they said had been passed on. It is killed then. For its code stands the one that the ranks of `run`
/// ended with, as they wrote it down; without a run the status is that of a process that was killed.
pub(crate) fn end_of(child: Child, limit: Duration, run: Option<&Run>) -> Output {
    let pid = child.id();
    let (done, is_done) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || match is_done.recv_timeout(limit) {
        Err(RecvTimeoutError::Timeout) => Some(kill_with_children(pid)),
        _ => None,
    });
    let mut output = child.wait_with_output().unwrap();
    drop(done);
    let Some(had_ranks) = watch.join().unwrap() else { return output };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!had_ranks, "a hang: after {limit:?} there are still ranks; {said}");
    println!("all ranks had ended, but mpirun did not within {limit:?}: killed; {said}");
    let noted = run.filter(|run| run.dir().join("status.json").exists()).map(Run::status);
    if let Some(code) = noted.and_then(|status| status["exit_code"].as_i64()) {
        output.status = ExitStatus::from_raw(i32::try_from(code).unwrap() << 8);
    }
    output
}

/// Ends a process and all below it. Whether one of them was a rank: no mpirun, nor a program that waits for one.
fn kill_with_children(pid: u32) -> bool {
    let children = children(pid);
    let is_launcher = is_mpirun(pid) || children.iter().any(|child| is_mpirun(*child));
    // One that has ended, and that nobody has asked for, has no program any more.
    let mut had_ranks = program(pid).is_some() && !is_launcher;
    for child in children {
        had_ranks |= kill_with_children(child);
    }
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    had_ranks
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

fn program(pid: u32) -> Option<String> {
    let file = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(file.file_name()?.to_string_lossy().into_owned())
}

fn is_mpirun(pid: u32) -> bool {
    program(pid).is_some_and(|name| ["mpirun", "orterun", "prterun"].contains(&name.as_str()))
}
