//! Rank 0's watch over the time limits: when to stop, what the log says of it, and whether the times that the run file
//! and the job script leave for a save are long enough.

use super::agreement::StopCause;
use super::save_time::SaveTime;
use super::setup::Run;
use crate::log::{Logger, units};
use crate::run::TimeLimit;
use crate::run::time_limit::{JobEnd, Limit};

/// See the module.
pub(super) struct Limits {
    time: TimeLimit,
    job_end: JobEnd,
    /// `run.stop_before_limit_s`.
    lead_s: Option<f64>,
    /// How long before the limit the job script asks Slurm for a signal.
    signal_lead_s: Option<f64>,
    longest_step_s: f64,
    is_announced: bool,
    is_warned: [bool; 2],
}

impl Limits {
    pub(super) fn new(run: &Run) -> Self {
        let (section, job_end) = (&run.config.run, run.job.end.clone());
        let lead_s = section.stop_before_limit_s;
        Limits {
            time: TimeLimit::new(section.max_minutes, run.started, job_end.clone(), lead_s),
            job_end,
            lead_s,
            signal_lead_s: run.job.signal_lead_s,
            longest_step_s: 0.0,
            is_announced: false,
            is_warned: [false; 2],
        }
    }

    /// A step took so long, with everything between it and the next.
    pub(super) fn stepped(&mut self, seconds: f64) {
        self.longest_step_s = self.longest_step_s.max(seconds);
    }

    /// The limit before which the run must stop now.
    pub(super) fn near(&self, save: &SaveTime) -> Option<StopCause> {
        let limit = self.time.must_stop(self.longest_step_s, save.seconds())?;
        Some(match limit {
            Limit::MaxMinutes => StopCause::MaxMinutes,
            Limit::Job => StopCause::JobLimit,
        })
    }

    /// What is new about the limits, for the log. Mostly nothing.
    pub(super) fn tell(&mut self, save: &SaveTime, logger: &Logger) {
        self.job_end.take_notices().iter().for_each(|notice| logger.line(notice));
        if let Some(left_s) = self.time.remaining_s().filter(|_| !self.is_announced) {
            self.is_announced = true;
            logger.line(&self.announcement(left_s, save));
        }
        for (warning, is_warned) in self.warnings(save).into_iter().zip(&mut self.is_warned) {
            if let Some(warning) = warning {
                *is_warned = true;
                logger.warn(&warning);
            }
        }
    }

    fn announcement(&self, left_s: f64, save: &SaveTime) -> String {
        let needed_s = self.time.needed_s(self.longest_step_s, save.seconds());
        let leaves = match self.lead_s {
            Some(lead_s) => format!("run.stop_before_limit_s = {lead_s}"),
            None => format!("two saves of {}", save.describe()),
        };
        format!(
            "time limit in {}: stops with a checkpoint {} before it, for the longest step and {leaves}",
            units::duration(left_s),
            units::duration(needed_s),
        )
    }

    /// Of the run file's lead, and of the signal's, if a save has taken longer; once each.
    fn warnings(&self, save: &SaveTime) -> [Option<String>; 2] {
        let Some(save_s) = save.longest_s() else { return [None, None] };
        let shown = units::duration;
        let lead = self.lead_s.filter(|lead_s| !self.is_warned[0] && *lead_s < save_s).map(|lead_s| {
            format!(
                "run.stop_before_limit_s = {lead_s} is less than the slowest save, {}; hint: {:.0} or more, or 0 for \
                 twice what is measured",
                shown(save_s),
                (2.0 * save_s).ceil()
            )
        });
        let needed_s = self.longest_step_s + save_s;
        let signal = self.signal_lead_s.filter(|lead_s| !self.is_warned[1] && *lead_s < needed_s).map(|lead_s| {
            format!(
                "Slurm's signal comes {} before the limit (TISSERAND_SIGNAL_LEAD_S), less than the longest step and \
                 the slowest save, {} and {}; hint: --signal=...@{:.0} or more",
                shown(lead_s),
                shown(self.longest_step_s),
                shown(save_s),
                (self.longest_step_s + 2.0 * save_s).ceil()
            )
        });
        [lead, signal]
    }
}
