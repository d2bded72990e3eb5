//! Ranks that are processes, started by `mpirun`: the same bits as threads and as one rank, and a common end.
//!
//! MPIRUN names another mpirun than the one on PATH. What is said of its behaviour holds for Open MPI 4.1.

mod support {
    pub(crate) mod run;
}

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::run::{Random, Run, errors, tisserand};
use tisserand_collectives::{Channel, ControlPlane};
use tisserand_launch::processes;
use tisserand_launch::ranks::Ranks;
use tisserand_runtime::config::Config;

/// After the death of a rank the others are gone by then.
const END: Duration = Duration::from_secs(10);

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Eight leaves, so that up to eight ranks share them; every step is saved.
const INVARIANT: [&str; 4] = [
    "determinism.mesh_invariant=true",
    "training.global_batch=8",
    "training.micro_batch=1",
    "checkpoint.every_steps=1",
];

/// A way to start the same run: ranks, and keys of the mesh.
type Mesh = (usize, &'static [&'static str]);

/// As processes or as threads.
type Start = fn(&Run, Mesh) -> Command;

const MESHES: [Mesh; 6] = [
    (2, &["mesh.dp_shard=2", "mesh.zero=3"]),
    (2, &["mesh.dp_shard=1", "mesh.dp_replicate=2", "mesh.zero=0"]),
    (4, &["mesh.dp_shard=4", "mesh.zero=3"]),
    (4, &["mesh.dp_shard=4", "mesh.zero=1"]),
    (4, &["mesh.dp_shard=2", "mesh.dp_replicate=2", "mesh.zero=2"]),
    (3, &["mesh.dp_shard=3"]),
];

/// A program under mpirun, on a port of its own.
fn under_mpirun(ranks: usize, program: &Command) -> Command {
    let mut command = Command::new(std::env::var_os("MPIRUN").unwrap_or_else(|| "mpirun".into()));
    command.args(["--oversubscribe", "--bind-to", "none"]);
    if nix::unistd::geteuid().is_root() {
        command.arg("--allow-run-as-root");
    }
    command.args(["-n", &ranks.to_string()]).arg(program.get_program()).args(program.get_args());
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    command.env("MASTER_PORT", port.to_string());
    for variable in ["SLURM_JOB_ID", "RANK", "WORLD_SIZE", "MASTER_ADDR"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The run on this mesh, under mpirun.
fn processes(run: &Run, (ranks, mesh): Mesh) -> Command {
    under_mpirun(ranks, &on_mesh(run, mesh))
}

/// The run on this mesh, as threads.
fn threads(run: &Run, (ranks, mesh): Mesh) -> Command {
    let mut program = on_mesh(run, mesh);
    program.args(["--ranks", &ranks.to_string()]);
    program
}

fn on_mesh(run: &Run, mesh: &[&str]) -> Command {
    let mut program = run.command();
    for set in mesh {
        program.args(["--set", set]);
    }
    program
}

fn exits(mut command: Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", errors(&output));
    String::from_utf8(output.stderr).unwrap()
}

fn one_rank(sets: &[&str]) -> Run {
    let run = Run::new(sets);
    run.exits(0);
    run
}

#[test]
fn every_mesh_of_processes_computes_the_bits_of_one_rank() {
    let whole = one_rank(&INVARIANT);
    for mesh in &MESHES[..5] {
        for start in [processes, threads] {
            let run = whole.and(&[]);
            exits(start(&run, *mesh), 0);
            run.assert_equals(&whole);
        }
    }
}

/// Without the mode that makes meshes equal, threads and processes of one mesh are.
#[test]
fn processes_and_threads_of_one_mesh_are_bit_equal() {
    for (mesh, set) in [
        (MESHES[2], "precision.reduce=f32"),
        (MESHES[4], "precision.reduce=bf16"),
        (MESHES[5], "training.z_loss=1e-4"),
    ] {
        let sets = ["training.global_batch=12", "training.micro_batch=1", set];
        let [by_threads, by_processes] = [threads, processes].map(|start| {
            let run = Run::new(&sets);
            exits(start(&run, mesh), 0);
            run
        });
        by_processes.assert_equals(&by_threads);
    }
}

#[test]
fn a_run_goes_on_with_other_ranks_as_processes_or_as_threads() {
    let mut sets = INVARIANT.to_vec();
    sets.push("training.steps=5");
    let whole = one_rank(&sets);
    let run = whole.and(&["run.max_minutes=1e-6"]);
    let starts: [(Start, Mesh); 5] = [
        (processes, MESHES[0]),
        (threads, MESHES[4]),
        (processes, MESHES[2]),
        (threads, (1, &[])),
        (processes, MESHES[4]),
    ];
    for (step, (start, mesh)) in (1..).zip(starts) {
        exits(start(&run, mesh), if step < 5 { 75 } else { 0 });
        assert_eq!(run.status()["step"], step);
    }
    run.assert_equals(&whole);
    // Finished: every rank does nothing.
    exits(processes(&run, MESHES[2]), 0);
    run.assert_equals(&whole);
    let hosts = fs::read_to_string(run.dir().join("jobs/0003-local/hosts.json")).unwrap();
    let log = fs::read_to_string(run.dir().join("jobs/0003-local/rank0.log")).unwrap();
    assert_eq!(hosts.matches("\"pid\"").count(), 4, "{hosts}");
    assert_eq!(
        log.matches("rank 0 of 4 (local 0 of 4) by OMPI_*, first host localhost:").count(),
        1,
        "{log}"
    );
}

/// mpirun passes SIGUSR1 on and returns what the ranks return. For SIGTERM it ends the job: SIGCONT at once, SIGTERM
/// after a second, SIGKILL after another one, and returns 1 whatever the ranks return.
#[test]
fn a_signal_to_mpirun_stops_all_ranks_with_a_checkpoint() {
    let mut sets = INVARIANT.to_vec();
    sets.extend(["training.steps=400", "checkpoint.every_steps=0", "eval.every_steps=100"]);
    let whole = one_rank(&sets);
    let run = whole.and(&[]);
    for (signal, after, returned) in [(Signal::SIGUSR1, 3, 75), (Signal::SIGTERM, 20, 1)] {
        let mut child = processes(&run, MESHES[0]).spawn().unwrap();
        run.wait_until(&mut child, "step to stop after", |run| {
            run.status_step().is_some_and(|step| step >= after)
        });
        send(child.id(), signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(returned), "{signal}: {}", errors(&output));
        let status = run.status();
        assert_eq!((&status["state"], &status["exit_code"]), (&"stopped".into(), &75.into()), "{status}");
        assert!(status["message"].as_str().unwrap().contains(signal.as_str()), "{status}");
        assert!(run.checkpoint(status["step"].as_u64().unwrap()).is_dir());
        assert_eq!(tables(&output), 0, "{}", errors(&output));
    }
    exits(processes(&run, MESHES[4]), 0);
    run.assert_equals(&whole);
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// How many tables the ranks have printed together.
fn tables(output: &Output) -> usize {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).lines().filter(|line| line.starts_with("rank  host")).count()
}

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
            let output = child.wait_with_output().unwrap();
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
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", errors(&output));
        return None;
    }
    let had_met = job_folders(run) > jobs;
    send(pid, signal);
    let death = Instant::now();
    let seconds = wait_for_end(&ranks, victim, death);
    let output = child.wait_with_output().unwrap();
    let said = errors(&output);
    if finished() {
        return None;
    }
    assert!(!output.status.success(), "{said}");
    if had_met {
        assert_eq!(tables(&output), 1, "{victim} {signal}: {said}");
        let row = said.lines().find(|line| line.starts_with(&format!("{victim}     ")));
        let row = row.unwrap_or_else(|| panic!("no row of rank {victim}: {said}"));
        assert!(
            ["died", "no sign of life", "did not join"].iter().any(|cause| row.contains(cause)),
            "{said}"
        );
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
    sets.push("training.steps=60");
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
                exits(processes(&run, MESHES[random.below(5) as usize]), 0);
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
    let run = Run::new(&["training.global_batch=8", "training.micro_batch=1", "training.steps=4000"]);
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
    let output = child.wait_with_output().unwrap();
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
}

/// A stopped process closes no connection: it is missed after eight seconds without a sign of life, or when a
/// collective has waited too long for it.
#[test]
fn when_a_rank_is_stopped_it_counts_as_dead() {
    let mut sets = INVARIANT.to_vec();
    sets.extend(["training.steps=4000", "checkpoint.every_steps=0", "eval.every_steps=0"]);
    let cases = [(0, None), (1, None), (2, None), (0, Some(2.0)), (1, Some(2.0)), (3, Some(2.0))];
    let seconds = std::thread::scope(|scope| {
        let start = |(victim, timeout_s): (usize, Option<f64>)| {
            let run = Run::new(&sets);
            scope.spawn(move || {
                let delay = Duration::from_millis(2500);
                let took = strike(&run, MESHES[4], victim, Signal::SIGSTOP, delay, timeout_s);
                took.expect("4000 steps take longer")
            })
        };
        let runs: Vec<_> = cases.into_iter().map(start).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    spread("SIGSTOP", seconds);
}

#[test]
fn ranks_of_a_launcher_and_ranks_that_are_threads_exclude_each_other() {
    let run = Run::new(&[]);
    let mut command = processes(&run, MESHES[0]);
    command.args(["--ranks", "2"]);
    let said = exits(command, 2);
    let lines = |start: &str| said.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(
        lines("error: --ranks 2 makes ranks of threads, but this process is rank 0 of 2"),
        1,
        "{said}"
    );
    assert_eq!(lines("error: "), 1, "{said}");
    assert!(!run.dir().exists());
    // One process may.
    let mut command = processes(&run, (1, &[]));
    command.args(["--ranks", "2"]);
    exits(command, 0);
}

/// What every rank refuses is said by rank 0.
#[test]
fn bad_input_is_told_once() {
    let run = Run::new(&["mesh.dp_shard=3"]);
    let said = exits(processes(&run, (2, &[])), 2);
    assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said}");
    assert!(said.contains("multiply to 3, but the run has 2 ranks"), "{said}");
    // Found by rank 0 alone, when all have met.
    let run = Run::new(&[]);
    run.exits(0);
    let mut command = processes(&run, MESHES[0]);
    command.arg("--fresh");
    let said = exits(command, 2);
    assert_eq!(said.lines().filter(|line| line.contains("error: ")).count(), 1, "{said}");
    assert!(said.contains("--fresh: ") && said.contains("is not empty"), "{said}");
    assert!(!said.contains("rank  host"), "{said}");
    // A new folder holds nothing, also not the secret.
    let run = Run::new(&["training.steps=2"]);
    let mut command = processes(&run, MESHES[0]);
    command.arg("--fresh");
    exits(command, 0);
    let left = fs::read_dir(run.dir()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().contains(".control")));
}

/// A rank by RANK and WORLD_SIZE, without a launcher.
fn by_variables(run: &Run, rank: usize, port: &str) -> Command {
    let mut command = run.command();
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", "2").env("MASTER_ADDR", "localhost");
    command.env("MASTER_PORT", port);
    command
}

#[test]
fn a_secret_that_does_not_come_and_one_that_is_none_are_named() {
    let run = Run::new(&["run.collective_timeout_s=1.0"]);
    let said = exits(by_variables(&run, 1, "29517"), 1);
    let expected = format!("error: rank 1: {}/.control-local did not come within 1 s", run.dir_name());
    assert!(said.starts_with(&expected) && said.contains("share run.dir"), "{said}");
    fs::create_dir_all(run.dir()).unwrap();
    let path = run.dir().join(".control-local");
    fs::write(&path, [7; 32]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let said = exits(by_variables(&run, 1, "29517"), 1);
    assert!(said.contains(".control-local") && said.contains("others may read it"), "{said}");
}

/// What a launch that died left behind is not taken for the secret of this one.
#[test]
fn an_old_secret_is_given_up_for_the_new_one_and_mpi_must_count_as_the_launcher_does() {
    let run = Run::new(&["run.collective_timeout_s=20.0"]);
    fs::create_dir_all(run.dir()).unwrap();
    let path = run.dir().join(".control-local");
    fs::write(&path, [7; 32]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let second = by_variables(&run, 1, "29518").spawn().unwrap();
    // It has read the old one, and calls.
    std::thread::sleep(Duration::from_millis(500));
    let first = by_variables(&run, 0, "29518").output().unwrap();
    let second = second.wait_with_output().unwrap();
    // Both have met; without mpirun, each is alone for MPI.
    let said = errors(&first) + &errors(&second);
    assert_eq!((first.status.code(), second.status.code()), (Some(2), Some(2)), "{said}");
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    assert!(said.contains("MPI counts this process as rank 0 of 1, but it is rank "), "{said}");
    assert!(!path.exists());
}

/// The body of a rank that is this program, started below.
#[test]
fn a_rank_of_this_program() {
    let Ok(scenario) = std::env::var("MPI_RUNS_SCENARIO") else { return };
    let ranks = Ranks::discover(&|name| std::env::var(name).ok()).unwrap();
    let file = std::env::var("MPI_RUNS_FILE").unwrap();
    let sets = ["training.global_batch=6".to_owned()];
    let config = Config::load(Path::new(&file), &sets, Some(ranks.world_size), &|_| None).unwrap();
    let outcome = processes::join(&ranks, &config, |place, control: Arc<dyn ControlPlane>| {
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
        program.args(["--exact", "a_rank_of_this_program", "--nocapture"]);
        let mut command = under_mpirun(3, &program);
        command.env("MPI_RUNS_SCENARIO", scenario).env("MPI_RUNS_FILE", &run.run_file()[0]);
        let began = Instant::now();
        let output = command.output().unwrap();
        let said = errors(&output);
        assert!(began.elapsed() < END, "{scenario}: {said}");
        assert_eq!(output.status.code(), Some(code), "{scenario}: {said}");
        assert_eq!(tables(&output), 1, "{scenario}: {said}");
        assert_eq!(said.matches(&format!("error: rank 2: {cause}")).count(), 1, "{scenario}: {said}");
        println!("{scenario}: {:.2} s", began.elapsed().as_secs_f64());
    }
}
