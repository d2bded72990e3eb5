//! A rank of srun that is killed or stopped: all end soon, it is named, and nothing is lost.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::run::Run;
use super::{EIGHT_RANKS, FOUR_NODES, INVARIANT, ONE_NODE, lines, pids, send, step, wait_until};

/// After the death of a rank the others are gone by then.
const END: Duration = Duration::from_secs(10);

fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

#[test]
fn a_rank_that_is_killed_or_stopped_is_named_and_all_end() {
    let whole = Run::endless(&INVARIANT);
    let run = whole.and(&["run.collective_timeout_s=100"]);
    let cases = [
        (Signal::SIGKILL, 2, "died: connection closed"),
        (Signal::SIGKILL, 0, "died: connection closed"),
        (Signal::SIGSTOP, 3, "no sign of life for 8 s"),
        (Signal::SIGSTOP, 0, "no sign of life for 8 s"),
    ];
    for (start, (signal, victim, cause)) in
        [FOUR_NODES, EIGHT_RANKS, FOUR_NODES, EIGHT_RANKS].iter().zip(cases)
    {
        let before = run.status_step().unwrap_or(0);
        let mut step = step(&run, start, &["--kill-on-bad-exit=1"]);
        step.reach(&run, before + 3);
        let pids = pids(&run);
        assert_eq!(pids.len(), start.tasks);
        send(pids[victim], signal);
        let struck = Instant::now();
        // srun ends the one that is stopped as well.
        wait_until("the end of all ranks", || !pids.iter().any(|pid| is_alive(*pid)));
        let took = struck.elapsed();
        let (code, said) = step.end();
        assert!(took < END, "{signal} {victim}: {took:?}: {said}");
        // Which code it is depends on whom srun ended first; see docs/slurm-exit-codes.md.
        assert!(![0, 2, 75].contains(&code), "{code}: {said}");
        assert_eq!(lines(&said, "rank  host"), 1, "{said}");
        assert_eq!(lines(&said, &format!("error: rank {victim}: {cause}")), 1, "{said}");
        println!(
            "{signal} to rank {victim} of {}: {:.1} s, srun returned {code}",
            start.tasks,
            took.as_secs_f64()
        );
    }
    run.end_soon(&whole);
    step(&run, &ONE_NODE, &[]).exits(0);
    whole.exits(0);
    run.assert_equals(&whole);
}
