//! Two jobs on one run folder: the second one says who is there, and changes nothing.

use std::time::Instant;

use nix::sys::signal::Signal;

use super::cluster::ask;
use super::run::Run;
use super::{FOUR_NODES, INVARIANT, ONE_NODE, TWO_NODES, lines, pids, send, step};

#[test]
fn the_second_job_names_the_first_which_goes_on() {
    let whole = Run::endless(&INVARIANT);
    let run = whole.and(&[]);
    let name = format!("first-{}", std::process::id());
    let mut first = step(&run, &FOUR_NODES, &[&format!("--job-name={name}")]);
    first.reach(&run, 1);
    let by_name = format!("--name={name}");
    let id = ask("squeue", &["--noheader", "--format=%i", &by_name]);
    let said = step(&run, &TWO_NODES, &[]).exits(2);
    assert_eq!(lines(&said, "error: "), 1, "{said}");
    assert!(said.contains(&format!("job {id}")) && said.contains("hint: "), "{said}");
    assert!(lines(&said, "rank  host") == 0, "{said}");
    let before = run.status_step().unwrap();
    first.reach(&run, before + 2);
    ask("scancel", &["--signal=USR1", &by_name]);
    first.exits(75);
    run.end_soon(&whole);
    step(&run, &ONE_NODE, &[]).exits(0);
    whole.exits(0);
    run.assert_equals(&whole);
}

/// The job after one that was killed, on another node: it cannot see that the first is dead, so it waits until the
/// lock has been silent for long enough, and goes on.
#[test]
fn the_job_after_one_that_was_killed_waits_and_goes_on() {
    let whole = Run::endless(&INVARIANT);
    let run = whole.and(&[]);
    let mut first = step(&run, &ONE_NODE, &["--nodelist=node1"]);
    first.reach(&run, 6);
    pids(&run).into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
    first.end();
    let died = Instant::now();
    run.end_soon(&whole);
    step(&run, &ONE_NODE, &["--nodelist=node2"]).exits(0);
    whole.exits(0);
    run.assert_equals(&whole);
    println!("went on {:.0} s after the death", died.elapsed().as_secs_f64());
}
