//! Jobs that `tisserand submit` writes and hands in, to the end of their run.

use serde_json::Value;

use super::cluster::{Job, ask};
use super::run::Run;
use super::{INVARIANT, one_rank, words};

/// Hands the run in, on two nodes of one rank each.
fn submit(run: &Run, options: &[&str]) -> Vec<Job> {
    let mut words = words(&run.command());
    let program = words.remove(0);
    words[0] = "submit".to_owned();
    words.retain(|word| word != "--quiet");
    let fixed = ["--profile", "generic", "--nodes", "2", "--ranks-per-node", "1", "--cpus-per-task", "1"];
    let limits = ["--time", "00:05:00", "--signal-lead", "30", "--json"];
    words.extend([&fixed, limits.as_slice(), options].concat().into_iter().map(str::to_owned));
    let arguments: Vec<&str> = words.iter().map(String::as_str).collect();
    let submitted: Value = serde_json::from_str(&ask(&program, &arguments)).unwrap();
    let ids = submitted["jobs"].as_array().unwrap().iter();
    ids.map(|id| {
        let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        let log = run.dir().join(format!("jobs/slurm-{id}.log"));
        Job { id, log }
    })
    .collect()
}

#[test]
fn a_chain_goes_on_after_an_early_stop_and_ends_with_its_run() {
    let whole = Run::endless(&INVARIANT).and(&["checkpoint.every_steps=0"]);
    let run = whole.and(&["mesh.zero=3"]);
    let jobs = submit(&run, &["--chain", "3"]);
    let [first, second, third] = &jobs[..] else { panic!("{} jobs", jobs.len()) };
    first.reach(&run, 3);
    // Until it has an end to come to.
    ask("scontrol", &["hold", &second.id]);
    ask("scancel", &["--signal=USR1", &first.id]);
    // To Slurm a job that returns 75 has failed.
    first.wait_for("FAILED");
    assert!(first.log().contains("the next job of the chain goes on"), "{}", first.log());
    run.end_soon(&whole);
    ask("scontrol", &["release", &second.id]);
    second.wait_for("COMPLETED");
    assert!(second.log().contains("the run is finished"), "{}", second.log());
    third.wait_for("CANCELLED");
    whole.exits(0);
    run.assert_equals(&whole);
    // A start that finds nothing to do is a start.
    let jobs = submit(&run, &[]);
    jobs[0].wait_for("COMPLETED");
    let said = jobs[0].log();
    assert!(said.contains("the run is finished") && !said.contains("once more"), "{said}");
}

#[test]
fn a_chain_of_a_run_that_fails_ends() {
    let mut run = one_rank(&INVARIANT);
    // Not what it began with: the ranks refuse to go on, and nobody tries again.
    run.set(&["data.document_mask=false"]);
    let jobs = submit(&run, &["--chain", "2"]);
    let [first, second] = &jobs[..] else { panic!("{} jobs", jobs.len()) };
    first.wait_for("FAILED");
    assert!(first.log().contains("the chain ends here"), "{}", first.log());
    second.wait_for("CANCELLED");
}
