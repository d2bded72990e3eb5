//! Ranks that are killed or stopped at any moment: all others end soon, with one table, and nothing is lost.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::run::{Random, Run, errors, tisserand};
use super::{
    END, INVARIANT, MESHES, Mesh, PATIENCE, end_of, exits, on_mesh, one_rank, processes, send, tables,
    under_mpirun,
};

/// Ranks below mpirun, with their process ids.
fn ranks_of(mpirun: &Child) -> Vec<(usize, u32)> {
    let mut found = Vec::new();
    let threads = fs::read_dir(format!("/proc/{}/task", mpirun.id()));
    for thread in threads.into_iter().flatten().flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let environment = fs::read(format!("/proc/{child}/environ")).unwrap_or_default();
            let rank = environment.split(|byte| *byte == 0).find_map(|variable| {
                std::str::from_utf8(variable).ok()?.strip_prefix("OMPI_COMM_WORLD_RANK=")?.parse().ok()
            });
            let program = fs::read_link(format!("/proc/{child}/exe")).unwrap_or_default();
            if let Some(rank) = rank.filter(|_| program.ends_with("tisserand")) {
                found.push((rank, child.parse().unwrap()));
            }
        }
    }
    found
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Waits for all ranks, until `END` has passed since `death`; the seconds until the last was gone.
fn wait_for_end(ranks: &[(usize, u32)], victim: usize, death: Instant) -> f64 {
    while ranks.iter().any(|&(rank, pid)| rank != victim && is_alive(pid)) {
        assert!(death.elapsed() < END, "{ranks:?}: still there");
        std::thread::sleep(Duration::from_millis(5));
    }
    death.elapsed().as_secs_f64()
}

fn job_folders(run: &Run) -> usize {
    let jobs = fs::read_dir(run.dir().join("jobs"));
    jobs.into_iter().flatten().flatten().filter(|job| job.path().join("hosts.json").exists()).count()
}

/// Ends a run by a signal to one rank after `delay`; the seconds until the others were gone, none if the run was over
/// first. What it printed is checked: one table, which names the victim.
fn strike(
    run: &Run,
    mesh: Mesh,
    victim: usize,
    signal: Signal,
    delay: Duration,
    timeout_s: Option<f64>,
) -> Option<f64> {
    let jobs = job_folders(run);
    let mut command = processes(run, mesh);
    if let Some(seconds) = timeout_s {
        command.args(["--set", &format!("run.collective_timeout_s={seconds:.1}")]);
    }
    let mut child = command.spawn().unwrap();
    let began = Instant::now();
    let mut ranks = Vec::new();
    while ranks.len() < mesh.0 {
        ranks = ranks_of(&child);
        if child.try_wait().unwrap().is_some() {
            let output = end_of(child, PATIENCE, Some(run));
            assert!(output.status.success(), "{}", errors(&output));
            return None;
        }
        assert!(began.elapsed() < PATIENCE, "the ranks do not start");
    }
    std::thread::sleep(delay);
    let &(_, pid) = ranks.iter().find(|(rank, _)| *rank == victim).unwrap();
    // After the last step nothing fails any more: ranks that are done are not missed.
    let finished = || run.dir().join("status.json").exists() && run.status()["state"] == "finished";
    if finished() || !is_alive(pid) {
        let output = end_of(child, PATIENCE, Some(run));
        assert!(output.status.success(), "{}", errors(&output));
        return None;
    }
    let had_met = job_folders(run) > jobs;
    send(pid, signal);
    let death = Instant::now();
    let seconds = wait_for_end(&ranks, victim, death);
    let output = end_of(child, END, Some(run));
    let said = errors(&output);
    if finished() {
        return None;
    }
    assert!(!output.status.success(), "{said}");
    if had_met {
        assert_eq!(tables(&output), 1, "{victim} {signal}: {said}");
        let row = said.lines().find(|line| line.starts_with(&format!("{victim}     ")));
        let row = row.unwrap_or_else(|| panic!("no row of rank {victim}: {said}"));
        // Who waits for it in a round, and not in a collective, may be the first to see that it is missing.
        let late = timeout_s.map(|_| "late: ");
        let mut causes = ["died", "no sign of life", "did not join"].into_iter().chain(late);
        assert!(causes.any(|cause| row.contains(cause)), "{said}");
        let report = said.lines().filter(|line| line.starts_with(&format!("error: rank {victim}: "))).count();
        assert_eq!(report, 1, "{said}");
    } else {
        assert!(tables(&output) <= 1, "{said}");
    }
    Some(seconds)
}

fn spread(name: &str, mut seconds: Vec<f64>) {
    seconds.sort_by(f64::total_cmp);
    let (first, middle, last) = (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    println!("{name}: {} times, all ended after {first:.2} / {middle:.2} / {last:.2} s", seconds.len());
}

/// The start, which takes longer than the steps, is hit as well.
#[test]
fn when_a_rank_is_killed_all_end_and_the_run_goes_on_with_the_same_bits() {
    const KILLS: usize = 20;
    let mut sets = INVARIANT.to_vec();
    // Many are killed before their first step, and some in a row.
    sets.extend(["training.steps=60", "run.max_idle_starts=0"]);
    let whole = one_rank(&sets);
    let mut random = Random(42);
    let mut seconds = Vec::new();
    while seconds.len() < KILLS {
        let run = whole.and(&[]);
        loop {
            let mesh = MESHES[random.below(5) as usize];
            let victim = random.below(mesh.0 as u64) as usize;
            let delay = Duration::from_millis(random.below(3000));
            let Some(took) = strike(&run, mesh, victim, Signal::SIGKILL, delay, None) else { break };
            seconds.push(took);
            if run.dir().join("checkpoints/latest").exists() {
                tisserand(["checkpoint", "verify", &run.dir_name()]);
            }
            if seconds.len() == KILLS {
                exits(&run, processes(&run, MESHES[random.below(5) as usize]), 0);
                break;
            }
        }
        run.assert_equals(&whole);
    }
    spread("kill -9", seconds);
}

/// Every process ends by itself, with 1, before mpirun ends it. A shell between mpirun and each rank notes how.
#[test]
fn when_a_rank_is_killed_the_others_return_one() {
    let run = Run::endless(&["training.global_batch=8", "training.micro_batch=1"]);
    let program = on_mesh(&run, MESHES[4].1);
    let note = run.dir().with_file_name("code-");
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(r#"trap "" TERM; note=$0; "$@"; code=$?; echo $code >$note$OMPI_COMM_WORLD_RANK; exit $code"#);
    shell.arg(&note).arg(program.get_program()).args(program.get_args());
    let mut child = under_mpirun(4, &shell).spawn().unwrap();
    run.wait_until(&mut child, "step 3", |run| run.status_step().is_some_and(|step| step >= 3));
    let hosts = fs::read_to_string(run.dir().join("jobs/0001-local/hosts.json")).unwrap();
    let hosts: serde_json::Value = serde_json::from_str(&hosts).unwrap();
    send(u32::try_from(hosts[2]["pid"].as_u64().unwrap()).unwrap(), Signal::SIGKILL);
    let output = end_of(child, PATIENCE, Some(&run));
    assert_eq!(tables(&output), 1, "{}", errors(&output));
    // mpirun ends the last process as soon as it is the only one, which may be before its shell has noted anything.
    let code = |rank: usize| fs::read_to_string(format!("{}{rank}", note.display())).unwrap_or_default();
    let codes: Vec<String> = [0, 1, 3].map(code).into_iter().filter(|code| !code.is_empty()).collect();
    assert!(codes.len() >= 2 && codes.iter().all(|code| code == "1\n"), "{codes:?} {}", errors(&output));
    let status = run.status();
    assert_eq!((&status["state"], &status["exit_code"]), (&"failed".into(), &1.into()), "{status}");
    assert_eq!(status["message"], "rank 2: died: connection closed");
    let kept = fs::read_to_string(run.dir().join("jobs/0001-local/failure.txt")).unwrap();
    assert!(kept.starts_with("rank 2: died: connection closed\n\nrank  host"), "{kept}");
    // The dead rank cannot; the others have written down in what they waited for it.
    for rank in [0, 1, 3] {
        let text =
            fs::read_to_string(run.dir().join(format!("jobs/0001-local/flight/rank-{rank}.json"))).unwrap();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&record["rank"], &record["failure"]),
            (&rank.into(), &"rank 2: died: connection closed".into())
        );
        assert!(!record["communicators"].as_array().unwrap().is_empty(), "{text}");
    }
    assert!(!run.dir().join("jobs/0001-local/flight/rank-2.json").exists());
}

/// A stopped process closes no connection: it is missed after eight seconds without a sign of life, or when a
/// collective has waited too long for it.
#[test]
fn when_a_rank_is_stopped_it_counts_as_dead() {
    let sets = [&INVARIANT[..], &["checkpoint.every_steps=0", "eval.every_steps=0"]].concat();
    let cases = [(0, None), (1, None), (2, None), (0, Some(2.0)), (1, Some(2.0)), (3, Some(2.0))];
    let seconds = std::thread::scope(|scope| {
        let start = |(victim, timeout_s): (usize, Option<f64>)| {
            let run = Run::endless(&sets);
            scope.spawn(move || {
                let delay = Duration::from_millis(2500);
                let took = strike(&run, MESHES[4], victim, Signal::SIGSTOP, delay, timeout_s);
                took.expect("it has no end")
            })
        };
        let runs: Vec<_> = cases.into_iter().map(start).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    spread("SIGSTOP", seconds);
}
