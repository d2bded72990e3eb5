//! The cluster of this test program: started once, stopped by a process of its own when this one has ended, however
//! it ends. Steps are what `srun` starts, jobs what `sbatch` does.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{PATIENCE, Run, errors, wait_until};

struct Cluster {
    /// What srun and the others need to find it.
    environment: Vec<(String, String)>,
    /// `cluster.sh hold`: stops the cluster when its standard input ends, which is with this process.
    _holder: Child,
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("slurm-test-{}", std::process::id()));
        let script = |action: &str| {
            let mut script =
                Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/cluster.sh"));
            script.arg(action).env("TISSERAND_CLUSTER_DIR", &dir).env_remove("SLURM_CONF");
            script
        };
        // Before there is anything to stop: this process may be killed at any time.
        let holder = script("hold").stdin(Stdio::piped()).spawn().unwrap();
        let started = script("start").output().unwrap();
        assert!(started.status.success(), "{}", errors(&started));
        let lines = String::from_utf8(started.stdout).unwrap();
        let words = lines.split_whitespace().filter_map(|word| word.split_once('='));
        let environment = words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Cluster { environment, _holder: holder }
    })
}

/// A command of Slurm. What hangs is killed, and fails the test that waits for it.
fn command(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", &PATIENCE.as_secs().to_string(), program]);
    for (name, _) in std::env::vars() {
        if ["SLURM_", "OMPI_", "PMIX_"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    for name in ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"] {
        command.env_remove(name);
    }
    command.envs(cluster().environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A file system of 32 MiB that all nodes share.
pub(crate) fn small_disk() -> PathBuf {
    let dir = cluster().environment.iter().find(|(name, _)| name == "TISSERAND_CLUSTER_DIR");
    Path::new(&dir.unwrap().1).join("disk")
}

/// What a command of Slurm prints; it must succeed.
pub(crate) fn ask(program: &str, arguments: &[&str]) -> String {
    let output = command(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", errors(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What srun has started.
pub(crate) struct Step {
    child: Child,
    /// Standard error so far, which a thread reads to its end.
    said: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

/// Starts a program on so many nodes, with tasks spread over them, as a job of its own.
pub(crate) fn srun(nodes: usize, tasks: usize, options: &[&str], program: &[String]) -> Step {
    let mut command = command("srun");
    command.args([format!("--nodes={nodes}"), format!("--ntasks={tasks}")]);
    // As many on each, where Slurm would fill one after the other.
    command.arg(format!("--ntasks-per-node={}", tasks / nodes)).args(options).args(program);
    let mut child = command.spawn().unwrap();
    let (said, lines) = (Arc::new(Mutex::new(String::new())), BufReader::new(child.stderr.take().unwrap()));
    let all = Arc::clone(&said);
    let reader = std::thread::spawn(move || {
        for line in lines.split(b'\n') {
            let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
            all.lock().unwrap().extend([&line, "\n"]);
        }
    });
    Step { child, said, reader }
}

impl Step {
    /// Its standard error so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until the run has come to this step.
    pub(crate) fn reach(&mut self, run: &Run, step: u64) {
        wait_until(&format!("step {step}"), || {
            if self.child.try_wait().unwrap().is_some() {
                panic!("ended before step {step}: {}", self.said());
            }
            run.status_step().is_some_and(|now| now >= step)
        });
    }

    /// Waits for its end, which srun must reach by itself; the code that it returns, and standard error.
    pub(crate) fn end(self) -> (i32, String) {
        let output = self.child.wait_with_output().unwrap();
        self.reader.join().unwrap();
        let said = self.said.lock().unwrap().clone();
        (output.status.code().unwrap_or_else(|| panic!("srun hung: {said}")), said)
    }

    /// Waits for its end, which must be with this code.
    pub(crate) fn exits(self, code: i32) -> String {
        let (returned, said) = self.end();
        assert_eq!(returned, code, "{said}");
        said
    }
}

/// A job of sbatch.
pub(crate) struct Job {
    pub(crate) id: String,
    /// What it prints.
    pub(crate) log: PathBuf,
}

impl Job {
    /// Submits a script.
    pub(crate) fn submit(run: &Run, options: &[&str], script: &str) -> Job {
        let path = run.dir().with_file_name("job.sh");
        let log = run.dir().with_file_name("job.log");
        fs::write(&path, format!("#!/bin/bash\n{script}")).unwrap();
        let (log_name, path_name) = (format!("--output={}", log.display()), path.display().to_string());
        let fixed = ["--parsable", "--open-mode=append", &log_name];
        let id = ask("sbatch", &[&fixed, options, &[path_name.as_str()]].concat());
        Job { id, log }
    }

    /// What it has printed.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A field of `scontrol show job`.
    pub(crate) fn field(&self, name: &str) -> String {
        let shown = ask("scontrol", &["show", "job", "--oneliner", &self.id]);
        let field = shown.split_whitespace().find_map(|word| word.strip_prefix(&format!("{name}=")));
        field.unwrap_or_else(|| panic!("no {name}: {shown}")).to_owned()
    }

    /// Waits until the run has come to this step.
    pub(crate) fn reach(&self, run: &Run, step: u64) {
        let start = Instant::now();
        while run.status_step().is_none_or(|now| now < step) {
            let state =
                || format!("{}: {}", ask("scontrol", &["show", "job", "--oneliner", &self.id]), self.log());
            assert!(start.elapsed() < PATIENCE, "step {step} did not come: {}", state());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it is in this state of Slurm.
    pub(crate) fn wait_for(&self, state: &str) {
        let over = ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"];
        let mut over_since = None;
        wait_until(&format!("job {} {state}", self.id), || {
            let now = self.field("JobState");
            if now == state {
                return true;
            }
            // A job that has itself requeued is over for a moment first.
            over_since = over.contains(&now.as_str()).then(|| over_since.unwrap_or_else(Instant::now));
            let for_good = over_since.is_some_and(|since| since.elapsed() > Duration::from_secs(10));
            assert!(!for_good, "{now}: {}", self.log());
            false
        });
    }
}

/// Words as a shell takes them.
pub(crate) fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
}
