//! The same bits, however a run is started, stopped and continued.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use super::run::{Run, errors};
use super::{INVARIANT, MESHES, Mesh, PATIENCE, end_of, exits, one_rank, processes, send, tables, threads};

/// As processes or as threads.
type Start = fn(&Run, Mesh) -> Command;

#[test]
fn every_mesh_of_processes_computes_the_bits_of_one_rank() {
    let whole = one_rank(&INVARIANT);
    for mesh in &MESHES[..5] {
        for start in [processes, threads] {
            let run = whole.and(&[]);
            exits(&run, start(&run, *mesh), 0);
            run.assert_equals(&whole);
        }
    }
}

/// Without the mode that makes meshes equal, threads and processes of one mesh are.
#[test]
fn processes_and_threads_of_one_mesh_are_bit_equal() {
    for (mesh, set) in [
        (MESHES[2], "precision.reduce=f32"),
        (MESHES[4], "precision.reduce=bf16"),
        (MESHES[5], "training.z_loss=1e-4"),
        ((2, &["mesh.tp=2"]), "training.z_loss=1e-4"),
        ((4, &["mesh.tp=2", "mesh.zero=3"]), "precision.reduce=bf16"),
    ] {
        let sets = ["training.global_batch=12", "training.micro_batch=1", set];
        let [by_threads, by_processes] = [threads, processes].map(|start| {
            let run = Run::new(&sets);
            exits(&run, start(&run, mesh), 0);
            run
        });
        by_processes.assert_equals(&by_threads);
    }
}

#[test]
fn a_run_goes_on_with_other_ranks_as_processes_or_as_threads() {
    let mut sets = INVARIANT.to_vec();
    sets.push("training.steps=5");
    let whole = one_rank(&sets);
    let run = whole.and(&["run.max_minutes=1e-6"]);
    let starts: [(Start, Mesh); 5] = [
        (processes, MESHES[0]),
        (threads, MESHES[4]),
        (processes, MESHES[2]),
        (threads, (1, &[])),
        (processes, MESHES[4]),
    ];
    for (step, (start, mesh)) in (1..).zip(starts) {
        exits(&run, start(&run, mesh), if step < 5 { 75 } else { 0 });
        assert_eq!(run.status()["step"], step);
    }
    run.assert_equals(&whole);
    // Finished: every rank does nothing.
    exits(&run, processes(&run, MESHES[2]), 0);
    run.assert_equals(&whole);
    let hosts = fs::read_to_string(run.dir().join("jobs/0003-local/hosts.json")).unwrap();
    let log = fs::read_to_string(run.dir().join("jobs/0003-local/rank0.log")).unwrap();
    assert_eq!(hosts.matches("\"pid\"").count(), 4, "{hosts}");
    assert_eq!(
        log.matches("rank 0 of 4 (local 0 of 4) by OMPI_*, first host localhost:").count(),
        1,
        "{log}"
    );
}

/// mpirun passes SIGUSR1 on and returns what the ranks return. For SIGTERM it ends the job: SIGCONT at once, SIGTERM
/// after a second, SIGKILL after another one, and returns 1 whatever the ranks return.
#[test]
fn a_signal_to_mpirun_stops_all_ranks_with_a_checkpoint() {
    let whole = Run::endless(&INVARIANT).and(&["checkpoint.every_steps=0", "eval.every_steps=100"]);
    let run = whole.and(&[]);
    for (signal, after, returned) in [(Signal::SIGUSR1, 3, 75), (Signal::SIGTERM, 20, 1)] {
        let mut child = processes(&run, MESHES[0]).spawn().unwrap();
        run.wait_until(&mut child, "step to stop after", |run| {
            run.status_step().is_some_and(|step| step >= after)
        });
        send(child.id(), signal);
        let output = end_of(child, PATIENCE, Some(&run));
        assert_eq!(output.status.code(), Some(returned), "{signal}: {}", errors(&output));
        let status = run.status();
        assert_eq!((&status["state"], &status["exit_code"]), (&"stopped".into(), &75.into()), "{status}");
        assert!(status["message"].as_str().unwrap().contains(signal.as_str()), "{status}");
        assert!(run.checkpoint(status["step"].as_u64().unwrap()).is_dir());
        assert_eq!(tables(&output), 0, "{}", errors(&output));
    }
    run.end_soon(&whole);
    exits(&run, processes(&run, MESHES[4]), 0);
    whole.exits(0);
    run.assert_equals(&whole);
}
