//! Whole runs over four machines, under mpirun.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::lab::{Lab, Line};
use super::run::{Run, errors};
use super::{END, end};

const PATIENCE: Duration = Duration::from_secs(120);

const LINE: Line = Line { delay_ms: 1, loss_percent: 1 };

/// The run over all machines.
fn train(lab: &Lab, run: &Run) -> Command {
    let mut command = lab.mpirun();
    let program = run.command();
    command.arg(program.get_program()).args(program.get_args());
    command
}

/// Process ids by rank, of the newest start.
fn pids(run: &Run) -> Vec<u64> {
    let jobs = fs::read_dir(run.dir().join("jobs")).unwrap().map(|job| job.unwrap().path());
    let hosts = fs::read(jobs.max().unwrap().join("hosts.json")).unwrap();
    let hosts: serde_json::Value = serde_json::from_slice(&hosts).unwrap();
    hosts.as_array().unwrap().iter().map(|host| host["pid"].as_u64().unwrap()).collect()
}

/// On a line that is slow and loses frames; then the cable of one machine is pulled within a step, and the run goes on
/// somewhere else.
#[test]
fn a_bad_line_and_a_cut_one_change_no_bit() {
    let whole = Run::endless(&[
        "determinism.mesh_invariant=true",
        "training.global_batch=4",
        "training.micro_batch=1",
        "checkpoint.every_steps=2",
        "mesh.zero=3",
    ]);
    let run = whole.and(&[]);
    let lab = Lab::new(LINE);
    let mut mpirun = train(&lab, &run).spawn().unwrap();
    run.wait_until(&mut mpirun, "step 5", |run| run.status_step().is_some_and(|step| step >= 5));
    lab.cut(2);
    let (cut, pids) = (Instant::now(), pids(&run));
    // mpirun itself may wait for the machine that is gone.
    while pids.iter().any(|pid| Path::new("/proc").join(pid.to_string()).join("exe").exists()) {
        assert!(cut.elapsed() < END, "ranks {pids:?} are still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("all ranks ended {:.1} s after the cut", cut.elapsed().as_secs_f64());
    // With all that mpirun has started on the other machines.
    drop(lab);
    let said = errors(&mpirun.wait_with_output().unwrap());
    assert_eq!(said.matches("error: rank 2: no sign of life for 8 s").count(), 1, "{said}");
    assert_eq!(said.matches("rank  host").count(), 1, "{said}");
    let lab = Lab::new(LINE);
    run.end_soon(&whole);
    let began = Instant::now();
    let output = end(train(&lab, &run).spawn().unwrap(), PATIENCE);
    assert!(output.status.success(), "{}", errors(&output));
    println!("the rest took {:.1} s", began.elapsed().as_secs_f64());
    whole.exits(0);
    run.assert_equals(&whole);
}
