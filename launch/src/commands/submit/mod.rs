//! `tisserand submit`

mod checks;
mod json;
mod limits;
mod lines;
mod request;

use std::path::PathBuf;
use std::time::SystemTime;

use tisserand_runtime::config::{Config, DeviceKind};
use tisserand_runtime::log::clock;
use tisserand_runtime::plan::machine::Machine;
use tisserand_runtime::run::RunFolder;
use tisserand_runtime::{Error, Result};

use self::request::Request;
use super::plan::Report;
use super::{DONE, load};
use crate::slurm::profile::Profile;
use crate::slurm::sbatch;
use crate::{cli, output};

/// What was handed in.
struct Submitted {
    script: PathBuf,
    jobs: Vec<String>,
}

/// Checks that the run fits, writes its job script and submits it.
pub(super) fn run(arguments: &cli::Submit) -> Result<u8> {
    let profile = Profile::load(&arguments.profile)?;
    let ranks_per_node = request::ranks_per_node(arguments, &profile)?;
    let config = load(&arguments.run_file, Some(arguments.nodes * ranks_per_node))?;
    let request = Request::new(arguments, &profile, &config, ranks_per_node)?;
    let script = request.job()?.render()?;
    let report = report(&request, config)?;
    let storage = checks::run(&request, &report)?;
    let submitted = if arguments.dry_run { None } else { Some(submit(&request, &report.config, &script)?) };
    if arguments.json {
        output::piece(&json::text(&request, &report, &storage, &script, submitted.as_ref()))?;
        return Ok(DONE);
    }
    match submitted {
        None => output::piece(&script)?,
        Some(submitted) => say(&request, &submitted)?,
    }
    Ok(DONE)
}

/// The planner's word on the run; with times and memory where the profile names GPUs.
fn report(request: &Request, config: Config) -> Result<Report> {
    let planner = request.profile.planner.as_ref().filter(|_| config.run.device == DeviceKind::Cuda);
    let machine = match planner {
        Some(planner) => {
            let mut machine = Machine::load(&planner.value)?;
            machine.node.gpus = request.ranks_per_node;
            Some(machine)
        }
        None => None,
    };
    Report::new(config, machine)
}

/// Keeps the script beside what the jobs will leave behind, and submits it as often as the chain is long.
fn submit(request: &Request, config: &Config, script: &str) -> Result<Submitted> {
    request.refuse_other_builds(config)?;
    let folder = RunFolder::open(&config.run.dir, config.run.group.as_deref())?;
    let time = clock::rfc3339(SystemTime::now()).replace([':', '-'], "");
    let path = folder.jobs().join(format!("submit-{time}.sbatch"));
    folder.access().write_atomic(&path, script.as_bytes())?;
    let mut jobs = Vec::new();
    for _ in 0..request.arguments.chain.unwrap_or(1) {
        match sbatch::submit(&path) {
            Ok(job) => jobs.push(job),
            Err(error) if jobs.is_empty() => return Err(error),
            Err(error) => {
                let submitted = jobs.join(", ");
                return Err(Error::fault(format!("{error} (submitted before that: {submitted})")));
            }
        }
    }
    Ok(Submitted { script: path, jobs })
}

fn say(request: &Request, submitted: &Submitted) -> Result<()> {
    let plural = if submitted.jobs.len() == 1 { "job" } else { "jobs" };
    output::line(&format!("submitted {plural} {}: {}", submitted.jobs.join(", "), request.summary()))?;
    output::line(&format!("script: {}", submitted.script.display()))?;
    output::line(&format!("log: {}", request.log().replace("%j", &submitted.jobs[0])))
}
