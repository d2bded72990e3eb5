//! How rank 0 opens a run folder: its lock, what may not have changed, this start's place in `jobs/`. Here also ends a
//! run that is started again and again and comes nowhere.

use tisserand_collectives::ControlPlane;

use super::setup::{self, DeviceChoice, TrainOptions};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::log::Logger;
use crate::run::{self, JobFolder, RunFolder, RunLock};

/// What rank 0 has of a folder, and others have not.
pub(super) struct Opening {
    pub(super) lock: RunLock,
    pub(super) logger: Logger,
    pub(super) differences: Vec<run::Difference>,
    pub(super) job: JobFolder,
}

impl Opening {
    pub(super) fn new(config: &Config, folder: &RunFolder, options: &TrainOptions) -> Result<Self> {
        let mut notices = Vec::new();
        let lock = folder.lock(&options.job.id, |notice| notices.push(notice.to_owned()))?;
        refuse_idle(config, folder, options)?;
        let differences = check_changes(config, folder, options)?;
        let job = folder.next_job(&options.job.id, &options.process)?;
        let logger = Logger::new(Some(&job.log_file()), options.quiet)?;
        job.write_hosts(&options.hosts)?;
        options.notices.iter().for_each(|notice| logger.line(notice));
        options.warnings.iter().for_each(|warning| logger.warn(warning));
        notices.iter().for_each(|notice| logger.warn(notice));
        Ok(Opening { lock, logger, differences, job })
    }
}

/// Refuses a start after too many that completed no step, `run.max_idle_starts`: whatever ends them will end this one,
/// and a job that Slurm requeues for ever takes nodes from others.
fn refuse_idle(config: &Config, folder: &RunFolder, options: &TrainOptions) -> Result<()> {
    let idle = run::lineage::idle_starts(&folder.lineage()?, &options.job);
    match config.run.max_idle_starts {
        Some(most) if idle >= most => Err(no_progress(folder, idle)),
        _ => Ok(()),
    }
}

/// Why a run that comes nowhere is not started again.
pub(super) fn no_progress(folder: &RunFolder, idle: u64) -> Error {
    Error::Refused(format!(
        "no step was completed in the last {idle} starts of the run in {}; hint: see there in jobs/ how they ended; \
         once the cause is gone, --set run.max_idle_starts=0 starts it all the same",
        folder.dir().display()
    ))
}

/// Refuses a run file that changes what the run in this folder trains; returns all differences.
fn check_changes(
    config: &Config,
    folder: &RunFolder,
    options: &TrainOptions,
) -> Result<Vec<run::Difference>> {
    let Some(text) = folder.read_resolved_toml()? else { return Ok(Vec::new()) };
    let path = folder.resolved_toml().display().to_string();
    let before = Config::parse(&text, &path, &[], None, &|_| None)?;
    let differences = crate::config::diff(&before, config);
    crate::config::refuse_changes(&differences, &options.allow_change)?;
    let entry = |d: crate::config::Difference| run::Difference {
        key: d.key,
        old: serde_json::Value::String(d.old),
        new: serde_json::Value::String(d.new),
    };
    Ok(differences.into_iter().map(entry).collect())
}

/// Notes where this rank is, for the table after a failure.
pub(super) fn note_place(control: &dyn ControlPlane, device: &DeviceChoice, node: Option<&str>) {
    control.progress().note(|activity| {
        activity.device = Some(device.description.as_str().into());
        activity.node = node.map(Into::into);
    });
}

/// This start's place in `jobs/`, which rank 0 has made, at every rank.
pub(super) fn agreed_job(
    control: &dyn ControlPlane,
    folder: &RunFolder,
    own: Option<JobFolder>,
) -> Result<JobFolder> {
    let dir = setup::broadcast_path(control, own.map(|job| job.dir().to_owned()))?;
    let dir = dir.ok_or_else(|| Error::fault("rank 0 named no folder for this start"))?;
    Ok(JobFolder::of_lead(dir, folder.access()))
}
