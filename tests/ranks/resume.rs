//! A run goes on on any mesh, whichever mesh wrote its checkpoint and however the job before ended.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run::{Random, Run, errors};
use crate::support::{Mesh, difference, full, mesh};

const MESHES: [Mesh; 7] =
    [mesh(1, 1, 3), mesh(1, 2, 0), mesh(2, 1, 0), mesh(1, 4, 3), mesh(2, 2, 1), mesh(1, 8, 2), mesh(4, 2, 3)];

/// A run of two jobs: two steps on `first`, the rest on each of `MESHES`; what comes of each goes to `check`.
fn from_each_to_each(base: &Run, check: &mut dyn FnMut(&str, &Run)) {
    for (i, first) in MESHES.into_iter().enumerate() {
        let mut begun = base.on(first);
        begun.set(&["run.max_minutes=1e-6"]);
        begun.exits(75);
        begun.exits(75);
        begun.verify();
        begun.set(&["run.max_minutes=0"]);
        for (j, then) in MESHES.into_iter().enumerate() {
            if !full() && (i + j) % 2 > 0 && i != 0 && j != 0 {
                continue;
            }
            let mut run = begun.copy();
            run.set_mesh(then);
            run.exits(0);
            assert_eq!(run.records("resume").len(), 2, "{first:?} {then:?}");
            assert_eq!(run.records("resume")[1]["world_size"], then.ranks());
            check(&format!("{first:?}, then {then:?}"), &run);
        }
    }
}

fn base() -> Run {
    Run::new(&["training.global_batch=8", "training.micro_batch=1", "training.steps=6"])
}

#[test]
fn a_mesh_invariant_run_goes_on_on_any_mesh_bit_for_bit() {
    let base = base().and(&["determinism.mesh_invariant=true"]);
    base.exits(0);
    from_each_to_each(&base, &mut |_, run| {
        run.assert_equals(&base);
        run.verify();
    });
}

#[test]
fn a_run_goes_on_on_any_mesh_within_rounding() {
    let base = base();
    base.exits(0);
    let mut worst = 0.0_f64;
    from_each_to_each(&base, &mut |what, run| {
        let distance = difference(&run.losses(), &base.losses());
        worst = worst.max(distance);
        assert!(distance <= 1e-5, "{what}: {distance:.1e}");
    });
    println!("worst loss: {worst:.1e}");
}

/// On one mesh all the time, and on another mesh after each crash.
#[test]
fn a_crash_at_any_moment_loses_nothing_that_was_saved() {
    const CRASHES: usize = 20;
    let sets = [
        "determinism.mesh_invariant=true",
        "checkpoint.every_steps=1",
        "training.steps=10",
        "run.max_idle_starts=0",
    ];
    let whole = base().and(&sets);
    let start = Instant::now();
    whole.exits(0);
    let duration_us = start.elapsed().as_micros() as u64;
    let mut random = Random(2027);
    let (mut crashes, mut starts) = (0, 0);
    while crashes < CRASHES {
        let mut run = whole.on(Mesh::any(&mut random));
        let changes_mesh = starts % 2 == 0;
        starts += 1;
        while crashes < CRASHES {
            let mut child = run.spawn();
            std::thread::sleep(Duration::from_micros(random.below(duration_us)));
            child.kill().unwrap();
            let status = child.wait().unwrap();
            assert!(status.signal() == Some(9) || status.code() == Some(0), "{:?}: {status}", run.run_file());
            if status.signal().is_none() {
                break;
            }
            crashes += 1;
            if run.dir().join("checkpoints/latest").exists() {
                run.verify();
            }
            if changes_mesh {
                run.set_mesh(Mesh::any(&mut random));
            }
        }
        run.exits(0);
        run.assert_equals(&whole);
        let entries = fs::read_dir(run.dir().join("checkpoints")).unwrap();
        let left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "{left:?}");
    }
    println!("{crashes} crashes of {starts} runs");
}

#[test]
fn a_signal_stops_all_ranks_with_one_checkpoint() {
    let whole = Run::endless(&[
        "determinism.mesh_invariant=true",
        "training.global_batch=8",
        "training.micro_batch=1",
        "eval.every_steps=30",
    ]);
    let mut run = whole.and(&[]);
    let stops = [
        (Signal::SIGTERM, 2, mesh(2, 2, 3)),
        (Signal::SIGUSR1, 20, mesh(1, 8, 2)),
        (Signal::SIGINT, 40, mesh(2, 1, 0)),
    ];
    for (signal, after, mesh) in stops {
        run.set_mesh(mesh);
        let mut child = run.loud_command().spawn().unwrap();
        run.wait_until(&mut child, "the step to stop after", |run| {
            run.status_step().is_some_and(|step| step >= after)
        });
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let asked = Instant::now();
        let output = child.wait_with_output().unwrap();
        println!("{signal}: stopped after {:.2} s", asked.elapsed().as_secs_f64());
        assert_eq!(output.status.code(), Some(75), "{mesh:?} {signal}: {}", errors(&output));
        let status = run.status();
        assert_eq!((&status["state"], &status["exit_code"]), (&"stopped".into(), &75.into()));
        let step = status["step"].as_u64().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let stopped: Vec<&str> = said.lines().filter(|line| line.starts_with("stopped")).collect();
        let want = format!(
            "stopped after step {step} ({}) with a checkpoint; run the same command again",
            signal.as_str()
        );
        assert_eq!(stopped, [&want], "{said}");
        assert_eq!(said.lines().last(), Some(want.as_str()));
        let on_terminal = if signal == Signal::SIGINT { 1 } else { 0 };
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(errors.lines().count(), on_terminal, "{errors}");
        assert!(run.checkpoint(step).is_dir());
        run.verify();
    }
    run.end_soon(&whole);
    run.exits(0);
    assert_eq!(run.records("resume").len(), 3);
    whole.exits(0);
    run.assert_equals(&whole);
}

#[test]
fn the_time_limit_stops_all_ranks_with_one_checkpoint() {
    let whole = base().and(&["determinism.mesh_invariant=true", "training.steps=4"]);
    whole.exits(0);
    let mut run = whole.and(&["run.max_minutes=1e-6"]);
    for (step, mesh) in [(1_u64, mesh(1, 8, 3)), (2, mesh(2, 2, 0)), (3, mesh(1, 2, 1))] {
        run.set_mesh(mesh);
        assert_eq!(run.exits(75), "");
        let status = run.status();
        assert_eq!((&status["state"], &status["step"]), (&"stopped".into(), &step.into()), "{mesh:?}");
        assert!(status["message"].as_str().unwrap().contains("run.max_minutes"), "{status}");
    }
    run.exits(0);
    run.assert_equals(&whole);
}
