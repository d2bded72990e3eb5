//! A rank that dies, is late or meets bad input ends the run on all ranks, soon, with one report; and the run goes
//! on from its newest checkpoint, on any mesh.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tisserand_collectives::Channel;
use tisserand_launch::{threads, world};
use tisserand_runtime::config::Config;

use crate::faulty::{self, Fault, How};
use crate::run::{Random, Run, errors};
use crate::support::{Mesh, mesh};

/// What a run with a fault said.
struct Ended {
    stderr: String,
    /// From the fault to the end of the process.
    after: Duration,
}

/// Starts the run with a fault; it must end with `code`. The rank that fails says "fault:" when it does.
fn ends(run: &Run, mesh: Mesh, fault: Fault, code: i32) -> Ended {
    use std::io::{BufRead, BufReader, Read};
    use std::process::Stdio;
    let mut command = faulty::command(fault, mesh.ranks(), &run.run_file());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    let mut stderr = String::new();
    while !stderr.contains("fault:") && reader.read_line(&mut stderr).unwrap() > 0 {}
    let start = Instant::now();
    reader.read_to_string(&mut stderr).unwrap();
    let status = child.wait().unwrap();
    let after = start.elapsed();
    assert_eq!(status.code(), Some(code), "{mesh:?} {fault:?}: {stderr}");
    Ended { stderr, after }
}

/// A fault somewhere in the run.
fn somewhere(random: &mut Random, mesh: Mesh, steps: u64, how: How) -> Fault {
    let mut communicators = Vec::new();
    if mesh.shard > 1 {
        communicators.push("reduce");
    }
    if mesh.shard > 1 && mesh.zero == 3 {
        communicators.push("gather");
    }
    if mesh.replicate > 1 {
        communicators.push("replicate");
    }
    Fault {
        rank: random.below(mesh.ranks() as u64) as usize,
        communicator: communicators[random.below(communicators.len() as u64) as usize],
        step: 1 + random.below(steps),
        calls: random.below(3),
        how,
    }
}

/// The table on standard error, which must be there once: a row for each rank with where it was last.
fn table(stderr: &str, mesh: Mesh, what: &str) -> Vec<String> {
    let headers: Vec<usize> = stderr
        .lines()
        .enumerate()
        .filter(|(_, line)| line.starts_with("rank ") && line.contains("collective"))
        .map(|(at, _)| at)
        .collect();
    assert_eq!(headers.len(), 1, "{what}: {stderr}");
    let rows: Vec<String> =
        stderr.lines().skip(headers[0] + 1).take(mesh.ranks()).map(str::to_owned).collect();
    for (rank, row) in rows.iter().enumerate() {
        assert_eq!(row.split_whitespace().next(), Some(rank.to_string().as_str()), "{what}: {stderr}");
    }
    rows
}

fn error_lines(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| line.starts_with("error: ")).collect()
}

/// Everything that must be so after a rank failed with exit code 1.
fn assert_reported(run: &Run, mesh: Mesh, fault: Fault, ended: &Ended, cause: &str) {
    let what = format!("{mesh:?} {fault:?}");
    let stderr = &ended.stderr;
    let rows = table(stderr, mesh, &what);
    let [error] = error_lines(stderr)[..] else { panic!("{what}: not one error: {stderr}") };
    assert!(error.starts_with(&format!("error: rank {}: ", fault.rank)), "{what}: {stderr}");
    assert!(error.contains(cause), "{what}: {stderr}");
    assert!(rows[fault.rank].contains("failed: ") && rows[fault.rank].contains(cause), "{what}: {stderr}");
    // In a step an action with its unit; between steps what is done there.
    let doing = [
        "embedding",
        "block",
        "head",
        "load",
        "loss",
        "norm",
        "start",
        "wait for data",
        "count tokens",
        "validate",
        "save",
        "agree",
    ];
    for (rank, row) in rows.iter().enumerate() {
        assert!(rank == fault.rank || row.contains("running"), "{what}: {stderr}");
        // The device of the rank that fails is another one.
        assert!(row.contains("1 CPU thread") || row.contains("faulty"), "{what}: {stderr}");
        let [axis, state] = [["dp_shard ", "dp_replicate "], ["(waiting)", "(done)"]];
        assert!(axis.iter().any(|axis| row.contains(axis)) && row.contains(" #"), "{what}: {stderr}");
        let has_begun = !row.contains(" start ");
        assert!(has_begun || rank != fault.rank, "{what}: {stderr}");
        assert!(state.iter().any(|state| row.contains(state)), "{what}: {stderr}");
        assert!(doing.iter().any(|doing| row.contains(doing)), "{what}: {stderr}");
    }
    let status = run.status();
    assert_eq!((&status["state"], &status["exit_code"]), (&"failed".into(), &1.into()), "{what}: {status}");
    assert!(error.contains(status["message"].as_str().unwrap()), "{what}: {status}");
    let newest = fs::read_dir(run.dir().join("jobs")).unwrap().map(|job| job.unwrap().path()).max().unwrap();
    let report = fs::read_to_string(newest.join("failure.txt")).unwrap();
    assert!(report.contains(error.strip_prefix("error: ").unwrap()), "{what}: {report}");
    assert!(rows.iter().all(|row| report.contains(row.as_str())), "{what}: {report}");
    let log = fs::read_to_string(newest.join("rank0.log")).unwrap();
    assert!(log.contains(cause), "{what}: {log}");
    assert!(!stderr.contains("--exclude"), "{what}: {stderr}");
    assert_recorded(&newest.join("flight"), mesh, fault, &what);
    if run.dir().join("checkpoints/latest").exists() {
        run.verify();
    }
}

/// Every rank has written its newest collectives, and one waits in an open one for the rank that fails. (Not always
/// all: some end before they come to one.)
fn assert_recorded(flight: &Path, mesh: Mesh, fault: Fault, what: &str) {
    let mut open = 0;
    for rank in 0..mesh.ranks() {
        let text = fs::read_to_string(flight.join(format!("rank-{rank}.json"))).unwrap();
        let record: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{what}: {error}: {text}"));
        assert_eq!(record["rank"], rank, "{what}: {text}");
        assert!(
            record["failure"].as_str().unwrap().starts_with(&format!("rank {}: ", fault.rank)),
            "{what}: {text}"
        );
        for communicator in record["communicators"].as_array().unwrap() {
            let calls = communicator["calls"].as_array().unwrap();
            let num_calls = communicator["num_calls"].as_u64().unwrap();
            assert_eq!(calls.len() as u64, num_calls.min(64), "{what}: {text}");
            let of = |calls: &[Value], field: &str| -> Vec<u64> {
                calls.iter().map(|call| call[field].as_u64().unwrap()).collect()
            };
            assert!(of(calls, "sequence").is_sorted() && of(calls, "step").is_sorted(), "{what}: {text}");
            for call in calls {
                let (begin, end) = (call["begin_s"].as_f64().unwrap(), call["end_s"].as_f64());
                assert!(begin <= 0.0 && end.is_none_or(|end| begin <= end && end <= 0.0), "{what}: {call}");
                assert!(end.is_some() || call["end_s"] == "open", "{what}: {call}");
                open += usize::from(end.is_none() && rank != fault.rank);
            }
        }
    }
    assert!(open > 0, "{what}: nobody waits");
}

fn base() -> Run {
    Run::new(&[
        "training.global_batch=8",
        "training.micro_batch=1",
        "training.steps=8",
        "checkpoint.every_steps=1",
        "determinism.mesh_invariant=true",
        "run.collective_timeout_s=120",
    ])
}

#[test]
fn a_rank_that_dies_at_any_moment_ends_the_run_with_one_report() {
    let whole = base();
    whole.exits(0);
    let mut random = Random(7);
    let (mut deaths, mut worst) = (0, Duration::ZERO);
    while deaths < 20 {
        let mut run = whole.and(&[]);
        // Two deaths of each run, on two meshes, and it goes on on a third.
        for how in [How::Panic, if deaths % 3 == 0 { How::Error } else { How::Panic }] {
            let mesh = Mesh::any(&mut random);
            run.set_mesh(mesh);
            let left = 8 - run.status_step().unwrap_or(0).min(7);
            let mut fault = somewhere(&mut random, mesh, left, how);
            fault.step += 8 - left;
            let ended = ends(&run, mesh, fault, 1);
            let cause = if how == How::Panic { "panicked: the test says so" } else { "device is broken" };
            assert_reported(&run, mesh, fault, &ended, cause);
            assert!(ended.after < Duration::from_secs(10), "{mesh:?} {fault:?}: {:?}", ended.after);
            worst = worst.max(ended.after);
            deaths += 1;
        }
        run.set_mesh(Mesh::any(&mut random));
        run.exits(0);
        run.assert_equals(&whole);
    }
    println!("{deaths} deaths; all ranks ended within {:.2} s", worst.as_secs_f64());
}

#[test]
fn a_rank_that_dies_before_the_first_step_is_reported_too() {
    let mesh = mesh(2, 2, 1);
    let mut run = base();
    run.set_mesh(mesh);
    let fault = Fault { rank: 3, communicator: "gather", step: 0, calls: 0, how: How::Panic };
    let ended = ends(&run, mesh, fault, 1);
    table(&ended.stderr, mesh, "step 0");
    assert_eq!(run.status()["state"], "failed");
    run.exits(0);
}

#[test]
fn a_rank_that_is_late_is_named_with_where_it_was() {
    for (mesh, rank, communicator) in
        [(mesh(1, 4, 3), 2, "gather"), (mesh(2, 2, 2), 0, "replicate"), (mesh(1, 2, 0), 1, "reduce")]
    {
        let mut run = base().and(&["run.collective_timeout_s=1"]);
        run.set_mesh(mesh);
        let fault = Fault { rank, communicator, step: 3, calls: 1, how: How::Sleep(4000) };
        let ended = ends(&run, mesh, fault, 1);
        assert_reported(&run, mesh, fault, &ended, "late: rank ");
        let error = error_lines(&ended.stderr)[0];
        assert!(error.contains("run.collective_timeout_s"), "{error}");
        assert!(ended.after < Duration::from_secs(10), "{:?}", ended.after);
        println!("{mesh:?}: {:.1} s, {error}", ended.after.as_secs_f64());
        run.exits(0);
    }
}

/// Slurm can leave its machine out.
#[test]
fn in_a_slurm_job_the_machine_of_a_late_rank_is_named_for_the_next() {
    let mesh = mesh(1, 2, 1);
    let mut run = base().and(&["run.collective_timeout_s=1"]);
    run.set_mesh(mesh);
    let fault = Fault { rank: 1, communicator: "reduce", step: 2, calls: 0, how: How::Sleep(3000) };
    let mut command = faulty::command(fault, mesh.ranks(), &run.run_file());
    let output = command.env("SLURM_JOB_ID", "7").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    let said = errors(&output);
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("hint: ")).collect();
    let host = tisserand_collectives::control::host_name();
    let want = format!("hint: to leave out {host}: sbatch --exclude={host} ");
    assert!(lines.len() == 1 && lines[0].starts_with(&want), "{said}");
    let report = fs::read_to_string(run.dir().join("jobs/0001-local/failure.txt")).unwrap();
    assert!(report.contains(lines[0]), "{report}");
}

/// A thread that never comes back cannot be ended or joined.
#[test]
fn a_rank_that_hangs_for_ever_does_not_keep_the_others() {
    for rank in [0, 3] {
        let mesh = mesh(2, 2, 1);
        let mut run = base().and(&["run.collective_timeout_s=1"]);
        run.set_mesh(mesh);
        let fault = Fault { rank, communicator: "reduce", step: 3, calls: 0, how: How::Sleep(600_000) };
        let ended = ends(&run, mesh, fault, 1);
        table(&ended.stderr, mesh, "hung");
        let error = error_lines(&ended.stderr)[0];
        assert!(error.starts_with(&format!("error: rank {rank}: late: rank ")), "{}", ended.stderr);
        assert!(ended.stderr.contains("not all ranks ended within 5 s"), "{}", ended.stderr);
        assert!(ended.after < Duration::from_secs(10), "{:?}", ended.after);
        assert_eq!(run.status()["state"], "failed");
        run.exits(0);
    }
}

/// Not in a collective, but where the ranks agree about the next step.
#[test]
fn a_rank_that_is_late_between_collectives_is_named_too() {
    let run = base().and(&["run.collective_timeout_s=1"]);
    let words = run.run_file();
    let sets: Vec<String> = words[1..].chunks(2).map(|pair| pair[1].clone()).collect();
    let config = Config::load(words[0].as_ref(), &sets, Some(4), &|_| None).unwrap();
    let start = Instant::now();
    let ended = threads::join(4, &world::Terms::of(&config), |_, control| {
        // Before the first step rank 0 may take its time.
        if control.rank() == 0 {
            std::thread::sleep(Duration::from_secs(2));
        }
        control.barrier(Channel::Step)?;
        control.progress().note(|activity| activity.step = 1);
        control.barrier(Channel::Step)?;
        if control.rank() == 1 {
            std::thread::sleep(Duration::from_secs(3));
        }
        Ok(control.sum(Channel::Step, 1)?)
    });
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let said = ended.unwrap_err().to_string();
    assert!(said.starts_with("rank 1: late: rank ") && said.contains("run.collective_timeout_s"), "{said}");
    assert!(said.ends_with("for rank 1"), "{said}");
}

#[test]
fn bad_input_that_one_rank_finds_is_one_line() {
    for rank in [0, 2] {
        let mesh = mesh(1, 4, 3);
        let mut run = base();
        run.set_mesh(mesh);
        let fault = Fault { rank, communicator: "gather", step: 0, calls: 0, how: How::Input };
        let ended = ends(&run, mesh, fault, 2);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.starts_with("error: ") && ended.stderr.contains("hint: "), "{}", ended.stderr);
        assert!(ended.stderr.contains("tokens.bin"), "{}", ended.stderr);
        run.exits(0);
    }
}

/// Nobody died where all ranks come to the same end.
#[test]
fn what_all_ranks_agree_on_has_no_table() {
    let mesh = mesh(2, 2, 3);
    let sets =
        ["optimizer.lr=1e30", "optimizer.grad_clip=0", "schedule.name=constant", "schedule.warmup_steps=0"];
    let mut diverges = base().and(&sets);
    diverges.set(&["training.max_skipped_steps=3", "eval.every_steps=0"]);
    diverges.set_mesh(mesh);
    let said = diverges.exits(1);
    assert!(said.contains("3 steps in a row from step 2 on were not finite"), "{said}");
    assert!(said.lines().count() == 1 && said.starts_with("error: "), "{said}");
    assert_eq!(diverges.status()["state"], "failed");

    // A file stands where the folder of checkpoints is to be made.
    let mut unwritable = base().and(&["checkpoint.every_steps=0"]);
    unwritable.set_mesh(mesh);
    fs::create_dir_all(unwritable.dir()).unwrap();
    fs::write(unwritable.dir().join("checkpoints"), "").unwrap();
    let output = unwritable.start();
    let said = errors(&output);
    assert!(said.contains("checkpoints") && said.lines().count() == 1, "{said}");
    assert!(!said.contains("collective"), "{said}");
}
