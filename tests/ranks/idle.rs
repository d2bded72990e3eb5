//! Runs that come nowhere: they are not started for ever.

use tisserand_launch::{device, threads, world};
use tisserand_runtime::Result;
use tisserand_runtime::config::Config;
use tisserand_runtime::run::{StopFlag, StopReason};
use tisserand_runtime::train::{self, Outcome, TrainOptions};

use crate::faulty::{self, Fault, How};
use crate::run::{Run, errors};
use crate::support::mesh;

const REFUSAL: &str = "no step was completed in the last";

#[test]
fn after_three_starts_that_die_before_their_first_step_the_fourth_is_refused() {
    let mut run = Run::new(&["training.global_batch=8", "training.micro_batch=1"]);
    run.set_mesh(mesh(1, 4, 3));
    let fault = Fault { rank: 2, communicator: "gather", step: 0, calls: 0, how: How::Panic };
    for _ in 0..3 {
        let output = faulty::command(fault, 4, &run.run_file()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
        assert!(!errors(&output).contains(REFUSAL), "{}", errors(&output));
    }
    for _ in 0..2 {
        let said = run.exits(1);
        assert!(said.starts_with(&format!("error: {REFUSAL} 3 starts of the run in ")), "{said}");
        assert!(said.contains("hint: ") && said.lines().count() == 1, "{said}");
        assert_eq!(run.status()["state"], "failed");
    }
    // A start that the user insists on, and its steps, make good for them.
    let mut once = run.command();
    once.args(["--set", "run.max_idle_starts=0", "--set", "run.max_minutes=1e-6"]);
    let output = once.output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", errors(&output));
    run.exits(0);
}

/// A start that was told to stop while it read its data.
fn stopped_early(run: &Run, ranks: usize) -> Result<Outcome> {
    let words = run.run_file();
    let sets: Vec<String> = words[1..].chunks(2).map(|pair| pair[1].clone()).collect();
    let config = Config::load(words[0].as_ref(), &sets, Some(ranks), &|_| None).unwrap();
    let options = TrainOptions { quiet: true, ..TrainOptions::default() };
    let stop = StopFlag::new();
    stop.request(StopReason::Terminate);
    threads::join(ranks, &world::Terms::of(&config), |place, control| {
        let device = device::choose(&config, place)?;
        train::train(config.clone(), options.clone(), device, control, stop.clone())
    })
}

#[test]
fn a_run_that_is_told_to_stop_before_its_first_step_a_second_time_has_failed() {
    for mesh in [mesh(1, 1, 3), mesh(2, 2, 3)] {
        let mut run = Run::new(&["training.global_batch=8", "training.micro_batch=1"]);
        run.set_mesh(mesh);
        let first = stopped_early(&run, mesh.ranks()).unwrap();
        assert_eq!(first, Outcome::Stopped("SIGTERM".to_owned()));
        let status = run.status();
        assert_eq!((&status["state"], &status["step"]), (&"stopped".into(), &0.into()), "{status}");
        assert!(status["message"].as_str().unwrap().contains("before the first step (SIGTERM)"), "{status}");
        let second = stopped_early(&run, mesh.ranks()).unwrap_err();
        assert_eq!(second.exit_code(), 1);
        assert!(second.to_string().starts_with(&format!("{REFUSAL} 2 starts")), "{second}");
        run.set(&["run.max_idle_starts=0"]);
        assert!(stopped_early(&run, mesh.ranks()).is_ok());
        run.exits(0);
    }
}
