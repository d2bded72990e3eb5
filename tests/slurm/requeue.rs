//! Stopped with 75 and a checkpoint, requeued, and gone on with: as the job scripts of docs/ do it.

use std::fs;
use std::time::Instant;

use super::cluster::{Job, ask, quoted};
use super::run::Run;
use super::{FOUR_NODES, INVARIANT, ONE_NODE, step, words};

/// Runs a rank on each node that the job has got, and has itself requeued on 75.
fn script(run: &Run) -> String {
    let train = quoted(&words(&run.command()));
    format!(
        "srun --mpi=pmix --kill-on-bad-exit=1 --ntasks=$SLURM_JOB_NUM_NODES {train}\n\
         code=$?\n\
         echo \"srun returned $code\"\n\
         [ $code = 75 ] && scontrol requeue $SLURM_JOB_ID\n\
         exit $code\n"
    )
}

/// Ranks of each start, as their job folders say.
fn ranks(run: &Run) -> Vec<usize> {
    let mut jobs: Vec<_> =
        fs::read_dir(run.dir().join("jobs")).unwrap().map(|job| job.unwrap().path()).collect();
    jobs.sort();
    let hosts = jobs.iter().map(|job| fs::read_to_string(job.join("hosts.json")).unwrap());
    hosts.map(|hosts| hosts.matches("\"pid\"").count()).collect()
}

#[test]
fn a_signal_a_checkpoint_75_a_requeue_and_the_same_bits_on_other_nodes() {
    let whole = Run::endless(&INVARIANT).and(&["checkpoint.every_steps=0"]);
    let run = whole.and(&["mesh.zero=3"]);
    let job = Job::submit(&run, &["--requeue", "--nodes=4", "--ntasks=4"], &script(&run));
    for (stop, (signal, nodes)) in [("USR1", 2), ("TERM", 1)].into_iter().enumerate() {
        let before = run.status_step().unwrap_or(0);
        job.wait_for("RUNNING");
        job.reach(&run, before + 3);
        ask("scancel", &[&format!("--signal={signal}"), &job.id]);
        job.wait_for("PENDING");
        let status = run.status();
        assert_eq!((&status["state"], &status["exit_code"]), (&"stopped".into(), &75.into()), "{status}");
        assert!(run.checkpoint(status["step"].as_u64().unwrap()).is_dir());
        assert_eq!(job.field("Restarts"), (stop + 1).to_string());
        assert_eq!(job.log().matches("srun returned 75").count(), stop + 1, "{}", job.log());
        // Slurm waits for two minutes before it starts a requeued job: by then its nodes have forgotten the old one.
        // At once, the start of the new step may fail, and srun return 0 all the same.
        let (id, size) = (format!("JobId={}", job.id), format!("NumNodes={nodes}-{nodes}"));
        ask("scontrol", &["update", &id, "StartTime=now+10seconds", &size, &format!("NumTasks={nodes}")]);
    }
    run.end_soon(&whole);
    job.wait_for("COMPLETED");
    whole.exits(0);
    run.assert_equals(&whole);
    assert_eq!(ranks(&run), [4, 2, 1]);
}

/// `--kill-on-bad-exit` ends the other tasks as soon as one returns something else than 0, which 75 is. All ranks
/// are done by then.
#[test]
fn srun_returns_75_whenever_all_ranks_stop() {
    let run = Run::endless(&INVARIANT).and(&["checkpoint.every_steps=0", "eval.every_steps=0"]);
    for (stop, options) in [["--kill-on-bad-exit=1"], ["--kill-on-bad-exit=0"]].repeat(3).iter().enumerate() {
        let start = if stop % 2 == 0 { FOUR_NODES } else { ONE_NODE };
        let before = run.status_step().unwrap_or(0);
        let name = format!("--job-name=stop{stop}-{}", std::process::id());
        let mut step = step(&run, &start, &[options.as_slice(), &[name.as_str()]].concat());
        step.reach(&run, before + 2);
        ask("scancel", &["--signal=USR1", &name.replace("--job-name", "--name")]);
        let said = step.exits(75);
        assert!(!said.contains("error: rank"), "{said}");
    }
}

/// At the limit Slurm sends SIGTERM, and SIGKILL after KillWait, which here is five seconds.
#[test]
fn the_time_limit_of_a_job_leaves_a_checkpoint() {
    let run = Run::endless(&INVARIANT).and(&["checkpoint.every_steps=0", "eval.every_steps=0"]);
    let began = Instant::now();
    let (code, said) = step(&run, &ONE_NODE, &["--kill-on-bad-exit=1", "--time=1"]).end();
    let status = run.status();
    assert_eq!((&status["state"], &status["exit_code"]), (&"stopped".into(), &75.into()), "{status} {said}");
    assert!(run.checkpoint(status["step"].as_u64().unwrap()).is_dir());
    assert_ne!(code, 0, "{said}");
    println!("{} after {:.0} s, srun returned {code}", status["message"], began.elapsed().as_secs_f64());
}
