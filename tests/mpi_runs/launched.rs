//! `tisserand launch` with several ranks on CPUs: below an mpirun that the user does not see.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::run::{Run, errors};
use super::{END, INVARIANT, MESHES, Mesh, PATIENCE, end_of, on_mesh, one_rank, send, tables};

/// The run on this mesh, with its lines on standard output.
fn launched(run: &Run, (ranks, mesh): Mesh) -> Command {
    let program = on_mesh(run, mesh);
    let mut command = Command::new(program.get_program());
    command.args(["launch", "-n", &ranks.to_string(), "--"]);
    command.args(program.get_args().filter(|argument| *argument != "--quiet"));
    for variable in ["SLURM_JOB_ID", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn hosts(run: &Run) -> Vec<Value> {
    let text = fs::read_to_string(run.dir().join("jobs/0001-local/hosts.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn launched_ranks_have_the_bits_of_one_and_a_table_of_where_they_are() {
    let whole = one_rank(&INVARIANT);
    let run = whole.and(&[]);
    let output = end_of(launched(&run, MESHES[4]).spawn().unwrap(), PATIENCE, Some(&run));
    assert!(output.status.success(), "{}", errors(&output));
    run.assert_equals(&whole);
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(said.lines().all(|line| line.starts_with("[0] ")), "{said}");
    // mpirun has nothing to say.
    let wrong: Vec<_> =
        errors(&output).lines().filter(|line| line.contains("mpirun")).map(str::to_owned).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let head = said.lines().position(|line| line.starts_with("[0] hosts  ")).expect(&said);
    let row = said.lines().nth(head + 1).unwrap();
    let hosts = hosts(&run);
    let (host, cpus) = (hosts[0]["host"].as_str().unwrap(), hosts[0]["cpus"].as_str().unwrap());
    for word in [host, "0-3", "1 CPU thread", cpus] {
        assert!(row.contains(word), "no {word} in {row}");
    }
    assert_eq!(hosts.len(), 4);
    assert!(hosts.iter().all(|row| row["gpu"].is_null() && row["numa"].is_string()), "{hosts:?}");
}

/// Starts a run that does not end by itself, and waits for its first steps; the process ids of its ranks.
fn running(run: &Run) -> (Child, Vec<u32>) {
    let mut child = launched(run, MESHES[4]).spawn().unwrap();
    run.wait_until(&mut child, "step 3", |run| run.status_step().is_some_and(|step| step >= 3));
    let pid = |row: &Value| row["pid"].as_u64().unwrap() as u32;
    (child, hosts(run).iter().map(pid).collect())
}

fn endless() -> Run {
    Run::endless(&["training.global_batch=8", "training.micro_batch=1", "eval.every_steps=0"])
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

#[test]
fn a_signal_to_the_launcher_stops_all_ranks_with_a_checkpoint() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
        let run = endless();
        let (child, _) = running(&run);
        send(child.id(), signal);
        let output = end_of(child, PATIENCE, Some(&run));
        assert_eq!(output.status.code(), Some(75), "{signal}: {}", errors(&output));
        assert_eq!(run.status()["state"], "stopped");
        assert!(!errors(&output).contains("[mpirun]"), "{}", errors(&output));
    }
}

#[test]
fn when_a_launched_rank_is_killed_the_launch_fails_with_one_table() {
    let run = endless();
    let (child, pids) = running(&run);
    send(pids[2], Signal::SIGKILL);
    let output = end_of(child, PATIENCE, Some(&run));
    let said = errors(&output);
    // mpirun's code: that of the rank that it saw first.
    assert!(matches!(output.status.code(), Some(1 | 137)), "{said}");
    assert!(tables(&output) == 0 && said.contains("] rank  host"), "{said}");
    assert!(said.contains("error: rank 2: died: connection closed"), "{said}");
    assert!(!pids.iter().any(|pid| is_alive(*pid)), "{said}");
}

#[test]
fn when_the_launcher_is_killed_all_ranks_end() {
    let run = endless();
    let (mut child, pids) = running(&run);
    child.kill().unwrap();
    child.wait().unwrap();
    let death = Instant::now();
    while pids.iter().any(|pid| is_alive(*pid)) {
        assert!(death.elapsed() < PATIENCE.max(END), "{pids:?}: still there");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(run.status()["state"], "stopped");
}

#[test]
fn without_mpirun_its_absence_is_named() {
    let run = Run::new(&[]);
    let mut command = launched(&run, MESHES[0]);
    command.env("MPIRUN", "/nowhere/mpirun");
    let output = command.output().unwrap();
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("/nowhere/mpirun: no such program") && said.contains("MPIRUN"), "{said}");
}

/// Ranks that were bound to one CPU together.
#[test]
fn ranks_that_are_bound_to_one_cpu_are_refused_unless_that_is_meant() {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    assert!(online.trim() != "0", "this test needs a machine with more than one CPU");
    let run = Run::new(&["training.steps=2"]);
    let command = launched(&run, MESHES[0]);
    let bound = |more: &[&str]| {
        let mut taskset = Command::new("taskset");
        taskset.args(["-c", "0"]).arg(command.get_program()).args(command.get_args()).args(more);
        taskset.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        end_of(taskset.spawn().expect("taskset, of util-linux"), PATIENCE, Some(&run))
    };
    let output = bound(&[]);
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.matches("ranks 0-1 share CPU 0 of ").count(), 1, "{said}");
    assert!(said.contains("are bound to it") && said.contains("run.oversubscribe = true"), "{said}");
    let output = bound(&["--set", "run.oversubscribe=true"]);
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("warning: ranks 0-1 share CPU 0 of "), "{said}");
}
