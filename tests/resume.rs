//! A run that is interrupted, in whatever way, computes the same bits as one that is not.

mod support {
    pub(crate) mod run;
}

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::run::{Random, Run, errors, tisserand};

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

/// Ends a run as a crash of the process would; false if it had ended by itself.
fn crash(mut child: Child) -> bool {
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(status.signal() == Some(9) || status.code() == Some(0), "{status}");
    status.signal().is_some()
}

/// Names in `checkpoints/`; empty before the folder is there.
fn checkpoint_entries(run: &Run) -> Vec<String> {
    let Ok(entries) = fs::read_dir(run.dir().join("checkpoints")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Of the folders with weights alone.
fn assert_equal_weights(a: &Run, b: &Run, step: u64) {
    let weights = |run: &Run| run.dir().join(format!("weights/step-{step:08}")).display().to_string();
    tisserand(["checkpoint", "diff", &weights(a), &weights(b)]);
}

fn is_saving(run: &Run) -> bool {
    checkpoint_entries(run).iter().any(|name| name.ends_with(".tmp") && name.starts_with("step-"))
}

#[test]
fn five_steps_a_crash_and_five_steps_are_ten() {
    let whole = Run::new(&["checkpoint.every_steps=5"]);
    whole.exits(0);
    let crashed = Run::new(&["checkpoint.every_steps=5"]);
    let mut child = crashed.spawn();
    crashed.wait_until(&mut child, "the checkpoint of step 5", |run| run.checkpoint(5).exists());
    assert!(crash(child), "the run ended before it could be killed");
    assert!(!crashed.checkpoint(10).exists());
    crashed.exits(0);
    assert_eq!(crashed.records("resume")[0]["step"], 5);
    crashed.assert_equals(&whole);
    for step in [5, 10] {
        let (a, b) = (whole.checkpoint(step), crashed.checkpoint(step));
        let said = tisserand(["checkpoint", "diff", a.to_str().unwrap(), b.to_str().unwrap()]);
        assert!(said.trim_end().ends_with("tensors are bit-equal"), "{said}");
    }
}

/// Half of the crashes hit at any time, half inside of a save.
#[test]
fn a_crash_at_any_moment_loses_nothing_that_was_saved() {
    const CRASHES: usize = 20;
    let mut sets = vec!["checkpoint.every_steps=1", "checkpoint.weights_every_steps=2", "run.threads=2"];
    // Many of the crashes hit before the first step, and some in a row.
    sets.push("run.max_idle_starts=0");
    let whole = Run::new(&sets);
    let start = Instant::now();
    whole.exits(0);
    let duration_us = start.elapsed().as_micros() as u64;

    let mut random = Random(2026);
    let (mut crashes, mut inside_a_save) = (0, 0);
    while crashes < CRASHES {
        let run = Run::new(&sets);
        loop {
            let mut child = run.spawn();
            if random.below(2) == 0 {
                std::thread::sleep(Duration::from_micros(random.below(duration_us)));
            } else {
                std::thread::sleep(Duration::from_micros(random.below(duration_us / 2)));
                while !is_saving(&run) && child.try_wait().unwrap().is_none() {}
                std::thread::sleep(Duration::from_micros(random.below(5000)));
            }
            if !crash(child) {
                break;
            }
            crashes += 1;
            inside_a_save += usize::from(is_saving(&run));
            if run.dir().join("checkpoints/latest").exists() {
                tisserand(["checkpoint", "verify", &run.dir_name()]);
            }
            if crashes == CRASHES {
                break;
            }
        }
        run.exits(0);
        run.assert_equals(&whole);
        assert!(!is_saving(&run), "the leavings of a crash were not cleared");
        for step in [2, 4, 6, 8, 10] {
            assert_equal_weights(&run, &whole, step);
        }
    }
    println!("{inside_a_save} of {crashes} crashes inside of a save");
    assert!(inside_a_save >= 3, "only {inside_a_save} of {crashes} crashes hit inside of a save");
}

#[test]
fn a_signal_stops_with_a_checkpoint_and_the_same_command_goes_on() {
    let whole = Run::endless(&["eval.every_steps=50"]);
    let stopped = whole.and(&[]);
    for (signal, after) in
        [(Signal::SIGTERM, 3), (Signal::SIGUSR1, 50), (Signal::SIGUSR2, 90), (Signal::SIGINT, 120)]
    {
        let mut child = stopped.spawn();
        stopped.wait_until(&mut child, "step to stop after", |run| {
            run.status_step().is_some_and(|step| step >= after)
        });
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(75), "{signal}: {}", errors(&output));
        let status = stopped.status();
        assert_eq!(status["state"], "stopped");
        assert_eq!(status["exit_code"], 75);
        let message = status["message"].as_str().unwrap();
        assert!(message.contains(signal.as_str()), "{message}");
        assert!(stopped.checkpoint(status["step"].as_u64().unwrap()).is_dir());
    }
    stopped.end_soon(&whole);
    stopped.exits(0);
    assert_eq!(stopped.records("resume").len(), 4);
    whole.exits(0);
    // More steps than z-scores need before the first one.
    assert!(whole.records("step").last().unwrap()["loss_z"].is_number());
    stopped.assert_equals(&whole);
}

#[test]
fn the_time_limit_stops_with_a_checkpoint_and_every_start_makes_progress() {
    let sets = ["training.steps=4", "checkpoint.weights_every_steps=2"];
    let whole = Run::new(&sets);
    whole.exits(0);
    let limited = whole.and(&["run.max_minutes=1e-6"]);
    for step in 1..4 {
        limited.exits(75);
        let status = limited.status();
        assert_eq!((&status["state"], &status["step"]), (&"stopped".into(), &step.into()));
        assert!(status["message"].as_str().unwrap().contains("run.max_minutes"), "{status}");
    }
    // All steps are done: nothing is left to be run again.
    limited.exits(0);
    assert_eq!(limited.status()["state"], "finished");
    limited.assert_equals(&whole);
    for step in [2, 4] {
        assert_equal_weights(&limited, &whole, step);
    }
    let trainer = fs::read_to_string(limited.checkpoint(4).join("trainer.json")).unwrap();
    let trainer: serde_json::Value = serde_json::from_str(&trainer).unwrap();
    assert!(trainer["trainer"]["elapsed_seconds"].as_f64().unwrap() > 0.0, "{trainer}");
}

#[test]
fn a_finished_run_started_again_does_nothing() {
    let run = Run::new(&["log.tensorboard=true"]);
    run.exits(0);
    let files = |run: &Run| {
        let names = ["metrics.jsonl", "status.json", "checkpoints/latest"];
        let texts = names.map(|name| fs::read(run.dir().join(name)).unwrap());
        (texts, fs::read_dir(run.dir().join("tb")).unwrap().count(), run.digest())
    };
    let before = files(&run);
    run.exits(0);
    assert!(files(&run) == before);

    // A job that died before its last word leaves another status behind.
    let path = run.dir().join("status.json");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("\"finished\"", "\"saving\"")).unwrap();
    run.exits(0);
    assert_eq!(run.status()["state"], "finished");
}

#[test]
fn a_second_job_is_refused_and_the_first_does_not_notice() {
    let whole = Run::endless(&["eval.every_steps=0"]);
    let run = whole.and(&[]);
    let mut first = run.spawn();
    run.wait_until(&mut first, "step 1", |run| run.status_step().is_some_and(|step| step >= 1));
    let refusal = run.exits(2);
    assert!(refusal.contains(&format!("pid {}", first.id())) && refusal.contains("job local"), "{refusal}");
    assert_eq!(refusal.lines().count(), 1, "{refusal}");
    assert!(first.try_wait().unwrap().is_none(), "the first run has ended");
    send(&first, Signal::SIGTERM);
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", errors(&output));
    run.end_soon(&whole);
    run.exits(0);
    whole.exits(0);
    run.assert_equals(&whole);
}

#[test]
fn a_folder_whose_checkpoints_are_all_damaged_is_refused() {
    let run = Run::new(&["training.steps=2"]);
    run.exits(0);
    let manifest = run.checkpoint(2).join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, &text[..text.len() / 2]).unwrap();
    let metrics = fs::read(run.dir().join("metrics.jsonl")).unwrap();
    let refusal = run.exits(2);
    assert!(refusal.contains("checkpoints: ") && refusal.contains("hint: "), "{refusal}");
    assert_eq!(refusal.lines().count(), 1, "{refusal}");
    assert!(fs::read(run.dir().join("metrics.jsonl")).unwrap() == metrics);
    fs::write(&manifest, &text).unwrap();
    run.exits(0);
}
