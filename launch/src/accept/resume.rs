//! A run that is killed twice, at steps that nobody chose, and continued: it must end with the bits of one that was left
//! alone. The runs are processes of this machine, on its CPUs, whatever the other stages ran on.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tisserand_runtime::files::io_error;
use tisserand_runtime::run::StatusFile;
use tisserand_runtime::{Error, Result, checkpoint};

use super::record::Stage;
use super::run_file;
use crate::env;

const STEPS: u64 = 400;

/// A run that has not ended by then hangs.
const PATIENCE: Duration = Duration::from_secs(240);

/// Thread-ranks at most: more only take longer.
const MOST_RANKS: usize = 4;

pub(super) fn run(folder: &Path, ranks: usize) -> Stage {
    let begun = Instant::now();
    let killed_at = random_steps();
    let compared = compare(folder, ranks.min(MOST_RANKS), killed_at);
    let (passed, message) = match &compared {
        Ok([whole, killed]) if whole == killed => (
            true,
            format!("killed after steps {} and {}, same bits after {STEPS}", killed_at[0], killed_at[1]),
        ),
        Ok([whole, killed]) => (
            false,
            format!(
                "killed after steps {} and {}: digest {killed}, but {whole} undisturbed",
                killed_at[0], killed_at[1]
            ),
        ),
        Err(error) => (false, error.to_string()),
    };
    let digests = compared.ok();
    Stage {
        name: "kill and resume",
        passed,
        seconds: begun.elapsed().as_secs_f64(),
        message,
        figures: json!({ "steps": STEPS, "killed_after": killed_at, "digests": digests }),
    }
}

/// One before the first checkpoint or soon behind it, one later.
fn random_steps() -> [u64; 2] {
    let noise =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::from(since.subsec_nanos()));
    [20 + noise / 1000 % 100, 150 + noise / 7919 % 100]
}

/// Digests of the run that was left alone and of the one that was killed.
fn compare(folder: &Path, ranks: usize, killed_at: [u64; 2]) -> Result<[String; 2]> {
    let file = folder.join("resume.toml");
    let text = run_file::text(folder, ranks, STEPS)?;
    fs::write(&file, text).map_err(|error| io_error("write", &file, &error))?;
    let run = |name: &str| ChildRun { file: file.clone(), dir: folder.join(name), ranks };
    let (whole, killed) = (run("whole"), run("killed"));
    whole.finish()?;
    for step in killed_at {
        killed.kill_after(step)?;
    }
    killed.finish()?;
    Ok([checkpoint::digest(&whole.dir)?, checkpoint::digest(&killed.dir)?])
}

/// `tisserand train` as a process.
struct ChildRun {
    file: PathBuf,
    dir: PathBuf,
    ranks: usize,
}

impl ChildRun {
    fn errors(&self) -> PathBuf {
        self.dir.with_extension("errors")
    }

    /// Without what a launcher has told this process: the child is nobody's rank.
    fn start(&self) -> Result<Kept> {
        let cannot =
            |error: &std::io::Error| Error::fault(format!("cannot start a run of this program: {error}"));
        let errors = self.errors();
        let errors = File::create(&errors).map_err(|error| io_error("write", &errors, &error))?;
        let mut command = Command::new(env::program()?);
        command.arg("train").arg(&self.file).arg("--quiet");
        command.args(["--ranks", &self.ranks.to_string(), "--set", "run.threads=1", "--set"]);
        command.arg(format!("run.dir={}", self.dir.display()));
        for name in env::of_launchers() {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        Ok(Kept(command.spawn().map_err(|error| cannot(&error))?))
    }

    fn finish(&self) -> Result<()> {
        let mut child = self.start()?;
        let begun = Instant::now();
        loop {
            match child.0.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    let errors = fs::read_to_string(self.errors()).unwrap_or_default();
                    let why = errors.lines().last().unwrap_or("it says nothing").to_owned();
                    return Err(Error::fault(format!("a run of this machine ended with {status}: {why}")));
                }
                Ok(None) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
                Ok(None) => return Err(self.late("to end")),
                Err(error) => return Err(Error::fault(format!("cannot wait for a run: {error}"))),
            }
        }
    }

    /// SIGKILL, once its status tells of this step.
    fn kill_after(&self, step: u64) -> Result<()> {
        let mut child = self.start()?;
        let (status, begun) = (self.dir.join("status.json"), Instant::now());
        while !StatusFile::read(&status).is_ok_and(|(status, _)| status.step >= step) {
            if !matches!(child.0.try_wait(), Ok(None)) {
                let what = format!(
                    "a run of this machine ended before step {step} of {STEPS}, where it was to be killed"
                );
                return Err(Error::fault(what));
            }
            if begun.elapsed() > PATIENCE {
                return Err(self.late(&format!("to come to step {step}")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // Dropping it kills it.
        drop(child);
        Ok(())
    }

    fn late(&self, what: &str) -> Error {
        let dir = self.dir.display();
        Error::fault(format!("{dir}: the run took more than {} s {what}", PATIENCE.as_secs()))
    }
}

/// A child that does not outlive this value.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
