//! `tisserand accept`: proves on a machine that training works there, and writes down what it was seen to do.
//!
//! - here: the stages in their order. Those of all ranks come first, on the communicators of a real run; then rank 0
//!   alone starts runs of its own and kills them.
//! - `training`: 200 steps; their loss, their traffic (`audited`) and how much of it computation hides;
//! - `resume`: a run that is killed and continued; `run_file`: the tiny model and its text;
//! - [`record`]: the JSON, written anew with every stage, so that a machine on which one hangs tells which.

mod audited;
pub mod record;
mod resume;
mod run_file;
mod training;

use std::path::PathBuf;
use std::sync::Arc;

use tisserand_collectives::{ControlPlane, Mesh};
use tisserand_kernels::Device;
use tisserand_runtime::config::Config;
use tisserand_runtime::{Error, Result};

use crate::device::{self, OnDevice, Place, Reached};
use crate::doctor::{self, Examination, Report, Verdict};
use record::{Record, Stage};
pub use run_file::{config, write_texts};

/// What the stages of all ranks need.
pub struct Options {
    /// The folder for everything.
    pub folder: PathBuf,
    /// Of the training.
    pub config: Config,
    /// Of the doctor.
    pub doctor: doctor::Options,
}

/// The stages that all ranks make together. `record` is rank 0's.
///
/// # Errors
/// A failure of any rank: what a stage proves to be wrong is no error, but a stage that failed.
pub fn on_ranks(
    place: Place,
    control: &Arc<dyn ControlPlane>,
    options: &Options,
    record: Option<&Record>,
) -> Result<()> {
    record.iter().try_for_each(|record| record.begin("doctor"))?;
    let mut examination = Examination::begin(&place, control.as_ref(), &options.doctor)?;
    let gpu = examination.open_gpu(&place)?;
    if let Some(why) = device::unreachable(&place.link, gpu.is_some()) {
        return Err(Error::input(why));
    }
    let mesh = Mesh::new(1, control.world_size(), 1);
    device::reach(place, gpu, mesh, Stages { control, options, record, examination })
}

struct Stages<'a> {
    control: &'a Arc<dyn ControlPlane>,
    options: &'a Options,
    record: Option<&'a Record>,
    examination: Examination<'a>,
}

impl OnDevice for Stages<'_> {
    type Output = ();

    fn run<D: Device>(mut self, mut reached: Reached<D>) -> Result<()> {
        // Calls are compared until the first step of the training.
        self.examination.on_device(&reached.device, reached.axes.reduce.as_mut(), || {})?;
        let report = self.examination.end()?;
        if let (Some(record), Some(report)) = (self.record, report) {
            record.doctor(&report)?;
            record.end(examined(&report))?;
        }
        self.record.iter().try_for_each(|record| record.begin("training"))?;
        for stage in training::run(reached, self.control, &self.options.config)? {
            self.record.iter().try_for_each(|record| record.end(stage.clone()))?;
        }
        Ok(())
    }
}

fn examined(report: &Report) -> Stage {
    let all = report.ranks.iter().flat_map(|rank| &rank.findings);
    let count = |verdict| all.clone().filter(|finding| finding.verdict == verdict).count();
    let (failures, warnings) = (count(Verdict::Fail), count(Verdict::Warn));
    let slow: Vec<&str> = report.slow.iter().map(|slow| slow.host.as_str()).collect();
    let slow = if slow.is_empty() { String::new() } else { format!(", slow: {}", slow.join(", ")) };
    let hosts = report.hosts.len();
    Stage {
        name: "doctor",
        passed: report.verdict < Verdict::Fail,
        seconds: report.seconds,
        message: format!("{hosts} host(s), {failures} failures, {warnings} warnings{slow}"),
        figures: serde_json::json!({ "failures": failures, "warnings": warnings }),
    }
}

/// The stage that rank 0 makes alone, when the others are done.
pub fn alone(options: &Options, ranks: usize, record: &Record) -> Result<()> {
    record.begin("kill and resume")?;
    record.end(resume::run(&options.folder, ranks))
}
