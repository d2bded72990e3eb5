//! How the ranks of a point are started, and how their end is waited for.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tisserand_runtime::files::io_error;
use tisserand_runtime::{Error, Result};

use super::sweep::Sweep;

/// How often a point is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Between SIGTERM and SIGKILL for a point that hangs.
const GRACE: Duration = Duration::from_secs(20);

/// Lines of a log that a failure shows.
const SHOWN: usize = 8;

/// One command to be run on the ranks of a point.
pub struct Start<'a> {
    /// The sweep.
    pub sweep: &'a Sweep,
    /// Nodes or ranks.
    pub count: usize,
    /// This program.
    pub program: &'a Path,
    /// Its arguments, without those that its launcher adds.
    pub arguments: Vec<String>,
    /// `--cpus-per-task` of the job: a step does not inherit it (since Slurm 22.05).
    pub cpus_per_task: Option<String>,
    /// Variables that are set for the ranks, where they are not set already.
    pub variables: Vec<(&'static str, &'static str)>,
    /// Where they print.
    pub log: &'a Path,
}

/// Why a point has no result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed {
    /// What happened, in words.
    pub how: String,
    /// The last lines of its log.
    pub last_lines: Vec<String>,
}

impl Start<'_> {
    /// Whether ranks end with this process: its end is the end of what rank 0 reads. The steps of a Slurm job end
    /// with the job, and srun may be told to give them nothing to read.
    fn is_attached(&self) -> bool {
        self.sweep.launcher != "srun"
    }

    /// The command, whole.
    fn command(&self) -> Command {
        let ranks = self.sweep.ranks(self.count).to_string();
        let attached = self.is_attached().then_some("--attached");
        let launched = |launcher: &str, arguments: &[&str]| {
            let mut command = Command::new(launcher);
            command.args(arguments).args(&self.sweep.launcher_args).arg(self.program).args(&self.arguments);
            command.args(attached);
            command
        };
        match self.sweep.launcher.as_str() {
            "srun" => {
                let (nodes, each) = (self.count.to_string(), self.sweep.ranks_per_unit.to_string());
                let cpus = self.cpus_per_task.as_ref().map(|cpus| format!("--cpus-per-task={cpus}"));
                let mut arguments = vec!["--nodes", &nodes, "--ntasks", &ranks, "--ntasks-per-node", &each];
                // Ranks end each other, and one of them says why: srun would cut that off.
                arguments.push("--kill-on-bad-exit=0");
                arguments.extend(cpus.as_deref());
                launched("srun", &arguments)
            }
            "mpirun" => launched("mpirun", &["-n", &ranks]),
            _ => {
                let mut command = Command::new(self.program);
                command.args(&self.arguments).args(attached).args(["--ranks", &ranks]);
                command
            }
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// The outer: this machine's, which the next point would meet too. The inner: the point's.
    pub fn run(&self) -> Result<std::result::Result<(), Failed>> {
        let fail = |error: std::io::Error| io_error("write", self.log, &error);
        let log = File::create(self.log).map_err(fail)?;
        let mut command = self.command();
        let unset = self.variables.iter().filter(|(name, _)| crate::env::variable(name).is_none());
        command.envs(unset.copied()).stdin(if self.is_attached() { Stdio::piped() } else { Stdio::null() });
        command.stdout(log.try_clone().map_err(fail)?).stderr(log);
        let mut child = command.spawn().map_err(|error| {
            let program = command.get_program().to_string_lossy().into_owned();
            Error::input(format!("cannot start {program}: {error}; hint: --launcher names what starts ranks"))
        })?;
        let patience = Duration::from_secs(60 * self.sweep.point_minutes as u64);
        let how = match wait(&mut child, patience)? {
            Ended::Well => return Ok(Ok(())),
            Ended::Badly(how) => how,
            Ended::Late => {
                format!("not done after {} minutes and ended (--point-minutes)", self.sweep.point_minutes)
            }
        };
        Ok(Err(Failed { how, last_lines: last_lines(self.log) }))
    }
}

enum Ended {
    Well,
    Badly(String),
    Late,
}

fn wait(child: &mut Child, patience: Duration) -> Result<Ended> {
    let fail = |error: std::io::Error| Error::fault(format!("cannot wait for the ranks: {error}"));
    let begin = Instant::now();
    let mut told = None;
    loop {
        if let Some(status) = child.try_wait().map_err(fail)? {
            return Ok(match (told, status.code()) {
                (Some(_), _) => Ended::Late,
                (None, Some(0)) => Ended::Well,
                (None, Some(code)) => Ended::Badly(format!("exit code {code}")),
                (None, None) => Ended::Badly(status.to_string()),
            });
        }
        match told {
            None if begin.elapsed() > patience => {
                // srun and mpirun pass it on to every rank. If the process has just ended, so much the better.
                let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
                told = Some(Instant::now());
            }
            Some(since) if since.elapsed() > GRACE => child.kill().map_err(fail)?,
            _ => {}
        }
        std::thread::sleep(LOOK);
    }
}

/// The end of a log that says something.
pub fn last_lines(log: &Path) -> Vec<String> {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(SHOWN)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sweep::Kind;
    use super::super::sweep::tests::example;
    use super::*;

    fn words(sweep: &Sweep, count: usize) -> String {
        let start = Start {
            sweep,
            count,
            program: Path::new("tisserand"),
            arguments: vec!["bench".to_owned(), "worker".to_owned()],
            cpus_per_task: Some("8".to_owned()),
            variables: Vec::new(),
            log: Path::new("log"),
        };
        let command = start.command();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_launcher_is_told_of_its_ranks() {
        let sweep = example(Kind::Weak, &[1, 2]);
        assert_eq!(
            words(&sweep, 2),
            "srun --nodes 2 --ntasks 8 --ntasks-per-node 4 --kill-on-bad-exit=0 --cpus-per-task=8 --mpi=pmix tisserand \
             bench worker"
        );
        let ranks =
            Sweep { launcher: "mpirun".to_owned(), ranks_per_unit: 1, launcher_args: Vec::new(), ..sweep };
        assert_eq!(words(&ranks, 2), "mpirun -n 2 tisserand bench worker --attached");
        let threads = Sweep { launcher: "threads".to_owned(), ..ranks };
        assert_eq!(words(&threads, 2), "tisserand bench worker --attached --ranks 2");
    }

    #[test]
    fn a_point_that_fails_leaves_its_last_words() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("log");
        let sweep = Sweep { launcher: "threads".to_owned(), ..example(Kind::Weak, &[1]) };
        let script = |text: &str| vec!["-c".to_owned(), text.to_owned(), "sh".to_owned()];
        let run = |text: &str| {
            let (program, arguments) = (Path::new("/bin/sh"), script(text));
            let (cpus_per_task, variables) = (None, vec![("TISSERAND_TEST", "set")]);
            let start =
                Start { sweep: &sweep, count: 1, program, arguments, cpus_per_task, variables, log: &log };
            start.run().unwrap()
        };
        assert_eq!(run("test \"$TISSERAND_TEST\" = set"), Ok(()));
        let failed = run("seq 20; echo; echo error: no such thing >&2; exit 2").unwrap_err();
        assert_eq!(failed.how, "exit code 2");
        assert_eq!(failed.last_lines.len(), SHOWN);
        assert_eq!(
            (failed.last_lines[0].as_str(), failed.last_lines[7].as_str()),
            ("14", "error: no such thing")
        );
    }
}
