//! Ranks that panic or are stuck: here they are this program, which has a rank's part do so.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tisserand_collectives::{Channel, ControlPlane};
use tisserand_launch::node::Node;
use tisserand_launch::processes;
use tisserand_launch::ranks::Ranks;
use tisserand_runtime::config::Config;

use super::run::{Run, errors};
use super::{END, PATIENCE, end_of, tables, under_mpirun};

/// The body of a rank that is this program, started below.
#[test]
fn a_rank_of_this_program() {
    let Ok(scenario) = std::env::var("MPI_RUNS_SCENARIO") else { return };
    let ranks = Ranks::discover(&|name| std::env::var(name).ok()).unwrap();
    let file = std::env::var("MPI_RUNS_FILE").unwrap();
    let sets = ["training.global_batch=6".to_owned()];
    let config = Config::load(Path::new(&file), &sets, Some(ranks.world_size), &|_| None).unwrap();
    let outcome =
        processes::join(&ranks, &mut Node::of(&ranks), &config, |place, control: Arc<dyn ControlPlane>| {
            place.progress.note(|activity| activity.action = Some("waits".into()));
            control.barrier(Channel::Step)?;
            std::thread::sleep(Duration::from_millis(700));
            let last = control.rank() + 1 == control.world_size();
            match scenario.as_str() {
                "panic" if last => panic!("a broken invariant"),
                "panic" => control.barrier(Channel::Save)?,
                "panic elsewhere" if last => {
                    std::thread::spawn(|| panic!("a broken invariant")).join().unwrap_err();
                    std::thread::sleep(PATIENCE);
                }
                "panic elsewhere" => control.barrier(Channel::Save)?,
                // Nobody looks at the control plane, as if they were inside of a call that never returns.
                "stuck" if last => std::process::exit(7),
                "stuck" => std::thread::sleep(PATIENCE),
                other => panic!("no scenario {other}"),
            }
            Ok(())
        });
    panic!("returned {outcome:?}");
}

#[test]
fn a_panic_and_ranks_that_are_stuck_end_all_with_one_table() {
    for (scenario, cause, code) in [
        ("panic", "panicked: a broken invariant", 1),
        ("panic elsewhere", "panicked: a broken invariant", 1),
        ("stuck", "died: connection closed", 7),
    ] {
        let run = Run::new(&[]);
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", "panics::a_rank_of_this_program", "--nocapture"]);
        let mut command = under_mpirun(3, &program);
        command.env("MPI_RUNS_SCENARIO", scenario).env("MPI_RUNS_FILE", &run.run_file()[0]);
        let began = Instant::now();
        let output = end_of(command.spawn().unwrap(), PATIENCE, None);
        let said = errors(&output);
        assert!(began.elapsed() < END, "{scenario}: {said}");
        assert_eq!(output.status.code(), Some(code), "{scenario}: {said}");
        assert_eq!(tables(&output), 1, "{scenario}: {said}");
        assert_eq!(said.matches(&format!("error: rank 2: {cause}")).count(), 1, "{scenario}: {said}");
        println!("{scenario}: {:.2} s", began.elapsed().as_secs_f64());
    }
}
