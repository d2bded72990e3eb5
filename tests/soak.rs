//! One fault after the other, at random: whatever happens, no checkpoint is lost, nothing hangs, and the run computes
//! the bits of one that nothing happened to.
//!
//! Each start is on ranks of threads or of processes, on a mesh by chance, and goes on from what the one before has
//! left. Knobs: TISSERAND_SOAK_FAULTS, how many (50); TISSERAND_SOAK_SEED, which (1); TISSERAND_SOAK_MINUTES, after
//! which no more begin (8). Needs root, for a disk that fills up.

#[path = "support/disk.rs"]
mod disk;
#[path = "support/mpirun.rs"]
mod mpirun;
#[path = "support/run.rs"]
mod run;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use disk::{clear, fill, tear_unfinished};
use mpirun::{end_of, under_mpirun};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use run::{Random, Run, errors, tisserand};

/// Nothing takes longer, on a loaded machine: what does hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ranks, and keys of the mesh.
const MESHES: [(usize, &[&str]); 7] = [
    (1, &[]),
    (2, &["mesh.dp_shard=2", "mesh.zero=3"]),
    (2, &["mesh.dp_shard=1", "mesh.dp_replicate=2", "mesh.zero=0"]),
    (4, &["mesh.dp_shard=4", "mesh.zero=3"]),
    (4, &["mesh.dp_shard=4", "mesh.zero=1"]),
    (4, &["mesh.dp_shard=2", "mesh.dp_replicate=2", "mesh.zero=2"]),
    (8, &["mesh.dp_shard=8", "mesh.zero=3"]),
];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fault {
    /// One rank, or all where ranks are threads.
    Kill,
    /// All at once, and what they were writing is torn.
    PowerCut,
    /// SIGUSR1 or SIGUSR2.
    Stop,
    /// `RUN/stop`.
    StopFile,
    /// `RUN/save`: the run goes on.
    SaveFile,
    /// SIGTERM, as at the end of a job.
    Terminate,
    /// SIGSTOP, and SIGCONT before the rank counts as dead: the run goes on.
    Freeze,
    /// For a while: the run goes on.
    FullDisk,
}

const FAULTS: [Fault; 8] = [
    Fault::Kill,
    Fault::PowerCut,
    Fault::Stop,
    Fault::StopFile,
    Fault::SaveFile,
    Fault::Terminate,
    Fault::Freeze,
    Fault::FullDisk,
];

/// After these the run goes on.
const PASSING: [Fault; 3] = [Fault::SaveFile, Fault::Freeze, Fault::FullDisk];

/// A number of the environment.
fn knob(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} = {text:?} is not a number")))
}

#[test]
fn random_faults_lose_nothing() {
    let (faults, seed) = (knob("TISSERAND_SOAK_FAULTS", 50), knob("TISSERAND_SOAK_SEED", 1));
    let began = Instant::now();
    let until = began + Duration::from_secs(60 * knob("TISSERAND_SOAK_MINUTES", 8));
    let whole = Run::new(&[
        "determinism.mesh_invariant=true",
        "training.global_batch=8",
        "training.micro_batch=1",
        "training.steps=150",
        "checkpoint.every_steps=4",
        "eval.every_steps=40",
        // Starts that end before their first step are what is wanted here.
        "run.max_idle_starts=0",
    ]);
    whole.exits(0);
    let mut soak =
        Soak { random: Random(seed), faults, until, happened: BTreeMap::new(), starts: 0, missing: 0 };
    let mut runs = 0;
    while soak.goes_on() {
        soak.one_run(&whole);
        runs += 1;
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "seed {seed}: {} faults in {} starts of {runs} runs, {took:.0} s: {:?}; {} records did not fit; no checkpoint \
         lost, no hang, no other bit",
        soak.count(),
        soak.starts,
        soak.happened,
        soak.missing
    );
}

struct Soak {
    random: Random,
    faults: u64,
    until: Instant,
    happened: BTreeMap<Fault, u64>,
    starts: u64,
    /// Records that did not fit on a full disk.
    missing: usize,
}

/// A start of the run.
struct Start {
    child: Child,
    /// Or ranks as threads of one process.
    is_mpirun: bool,
    /// Job folders before it.
    jobs_before: usize,
}

/// How a start ended.
enum Ended {
    /// The run is finished.
    Finished,
    Otherwise,
}

impl Soak {
    fn count(&self) -> u64 {
        self.happened.values().sum()
    }

    fn goes_on(&self) -> bool {
        self.count() < self.faults && Instant::now() < self.until
    }

    /// One run, with what happens to it.
    fn one_run(&mut self, whole: &Run) {
        let run = whole.and(&[]);
        let _disk = Disk::new(&run);
        let disks_before = self.happened.get(&Fault::FullDisk).copied();
        let mut newest = 0;
        loop {
            let starts = lineage(&run).len();
            let start = self.start(&run);
            let ended = self.trouble(&run, start);
            if let Some(from) = lineage(&run).get(starts) {
                assert_eq!(from["from_step"].as_u64().unwrap_or(0), newest, "a wrong resume");
            }
            let now = newest_step(&run);
            assert!(now >= newest, "checkpoint {newest} is lost, {now} is the newest");
            newest = now;
            if newest > 0 {
                tisserand(["checkpoint", "verify", &run.dir_name()]);
            }
            if matches!(ended, Ended::Finished) {
                break;
            }
        }
        assert_eq!(run.digest(), whole.digest());
        self.missing += compare(&run, whole, self.happened.get(&Fault::FullDisk) > disks_before.as_ref());
    }

    fn start(&mut self, run: &Run) -> Start {
        let (ranks, mesh) = MESHES[self.random.below(MESHES.len() as u64) as usize];
        let is_mpirun = ranks > 1 && self.random.below(2) == 0;
        let mut program = run.command();
        mesh.iter().for_each(|set| _ = program.args(["--set", set]));
        let mut command = if is_mpirun { under_mpirun(ranks, &program) } else { program };
        if !is_mpirun {
            command.args(["--ranks", &ranks.to_string()]);
        }
        self.starts += 1;
        Start { child: command.spawn().unwrap(), is_mpirun, jobs_before: jobs(run).len() }
    }

    /// Faults until the start ends, by one of them or by itself.
    fn trouble(&mut self, run: &Run, mut start: Start) -> Ended {
        loop {
            // The start, which is longer than the steps, is hit as well.
            let after = Duration::from_millis(self.random.below(2500));
            let due = Instant::now() + after;
            while Instant::now() < due && start.child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            if !self.goes_on() || start.child.try_wait().unwrap().is_some() {
                return by_itself(run, start.end(run));
            }
            let fault = FAULTS[self.random.below(FAULTS.len() as u64) as usize];
            if !self.strike(fault, run, &start) {
                continue;
            }
            *self.happened.entry(fault).or_default() += 1;
            if !PASSING.contains(&fault) {
                return after_fault(fault, run, start);
            }
        }
    }

    /// Whether it could be done.
    fn strike(&mut self, fault: Fault, run: &Run, start: &Start) -> bool {
        let pids = start.pids(run);
        let victim = pids.get(self.random.below(pids.len().max(1) as u64) as usize).copied();
        let parent = start.child.id().cast_signed();
        match fault {
            Fault::Kill => victim.is_some_and(|victim| send(victim, Signal::SIGKILL)),
            Fault::PowerCut => {
                // The ranks first: mpirun would tell them.
                pids.iter().for_each(|pid| _ = send(*pid, Signal::SIGKILL));
                send(parent, Signal::SIGKILL);
                true
            }
            // Before the ranks have met, nobody listens to signals yet.
            Fault::Stop => {
                let signal = [Signal::SIGUSR1, Signal::SIGUSR2][self.random.below(2) as usize];
                !pids.is_empty() && send(parent, signal)
            }
            // What lies there before a start looks for it is removed, and the run goes on.
            Fault::StopFile => !pids.is_empty() && fs::write(run.dir().join("stop"), "").is_ok(),
            Fault::SaveFile => !pids.is_empty() && fs::write(run.dir().join("save"), "").is_ok(),
            Fault::Terminate => !pids.is_empty() && send(parent, Signal::SIGTERM),
            Fault::Freeze => {
                let Some(victim) = victim.filter(|victim| send(*victim, Signal::SIGSTOP)) else {
                    return false;
                };
                std::thread::sleep(Duration::from_millis(100 + self.random.below(2000)));
                send(victim, Signal::SIGCONT)
            }
            Fault::FullDisk => {
                fill(&run.dir());
                std::thread::sleep(Duration::from_millis(self.random.below(2000)));
                clear(&run.dir());
                true
            }
        }
    }
}

impl Start {
    /// Of all ranks, once they have met; of threads, of their process.
    fn pids(&self, run: &Run) -> Vec<i32> {
        let jobs = jobs(run);
        let hosts = match jobs.last() {
            Some(job) if jobs.len() > self.jobs_before => {
                fs::read(job.join("hosts.json")).unwrap_or_default()
            }
            _ => return Vec::new(),
        };
        if !self.is_mpirun {
            return vec![self.child.id().cast_signed()];
        }
        let hosts: serde_json::Value = serde_json::from_slice(&hosts).unwrap_or_default();
        let pids = hosts.as_array().into_iter().flatten().filter_map(|host| host["pid"].as_i64());
        pids.filter_map(|pid| i32::try_from(pid).ok()).collect()
    }

    /// Waits for its end, which must come.
    fn end(self, run: &Run) -> Output {
        end_of(self.child, PATIENCE, Some(run))
    }
}

/// A tmpfs on a run folder, unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    fn new(run: &Run) -> Disk {
        fs::create_dir_all(run.dir()).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"]).arg(run.dir());
        assert!(mount.status().unwrap().success(), "tmpfs cannot be mounted; hint: this test needs root");
        Disk(run.dir())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: after a failed test ranks may still be writing there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A start, or the last save, that does not fit on a full disk is a failure, whatever mpirun makes of it.
fn was_full(output: &Output) -> bool {
    ![Some(0), Some(75)].contains(&output.status.code())
        && errors(output).to_lowercase().contains("no space left")
}

/// Nothing ended this start: the run is finished, or the disk was full.
fn by_itself(run: &Run, output: Output) -> Ended {
    if was_full(&output) {
        return Ended::Otherwise;
    }
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert_eq!(run.status()["state"], "finished");
    Ended::Finished
}

/// What was recorded is what the undisturbed run has recorded; how many records are missing, which only a full disk
/// may cause.
fn compare(run: &Run, whole: &Run, was_full: bool) -> usize {
    let (here, there) = (run.history(), whole.history());
    for (key, values) in &here {
        assert_eq!(there.get(key), Some(values), "{key:?}");
    }
    let missing = there.len() - here.len();
    assert!(missing == 0 || was_full, "{missing} records are missing");
    missing
}

/// What a start returns after this fault.
fn after_fault(fault: Fault, run: &Run, start: Start) -> Ended {
    let is_mpirun = start.is_mpirun;
    let output = start.end(run);
    if output.status.success() || was_full(&output) {
        return by_itself(run, output);
    }
    let is_allowed = |status: ExitStatus| match fault {
        Fault::Stop | Fault::StopFile => status.code() == Some(75),
        // mpirun ends the ranks and returns 1; while it does so already, it may also crash (4.1).
        Fault::Terminate if is_mpirun => status.code() != Some(75),
        Fault::Terminate => status.code() == Some(75),
        Fault::Kill | Fault::PowerCut => status.code() != Some(75),
        Fault::SaveFile | Fault::Freeze | Fault::FullDisk => false,
    };
    assert!(is_allowed(output.status), "{fault:?}, mpirun {is_mpirun}: {}", errors(&output));
    if fault == Fault::PowerCut {
        tear_unfinished(&run.dir());
    }
    Ended::Otherwise
}

/// The step that the next start goes on from; 0 before there is one.
fn newest_step(run: &Run) -> u64 {
    let latest = fs::read_to_string(run.dir().join("checkpoints/latest")).unwrap_or_default();
    latest.trim().strip_prefix("step-").and_then(|step| step.parse().ok()).unwrap_or(0)
}

/// One entry for each start that came to its first step.
fn lineage(run: &Run) -> Vec<serde_json::Value> {
    let text = fs::read(run.dir().join("lineage.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Job folders with the ranks of a start, oldest first.
fn jobs(run: &Run) -> Vec<PathBuf> {
    let jobs = fs::read_dir(run.dir().join("jobs")).into_iter().flatten().flatten();
    let mut jobs: Vec<_> = jobs.map(|job| job.path()).filter(|job| job.join("hosts.json").exists()).collect();
    jobs.sort();
    jobs
}

fn send(pid: i32, signal: Signal) -> bool {
    kill(Pid::from_raw(pid), signal).is_ok()
}
