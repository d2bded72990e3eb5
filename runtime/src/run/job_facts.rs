//! What is known of the job from outside of the program. The caller reads the environment, so that this crate need
//! not.

use super::time_limit::JobEnd;

/// The job that this start is part of.
#[derive(Clone, Debug)]
pub struct JobFacts {
    /// Slurm's id, or "local".
    pub id: String,
    /// How often Slurm has started this job again (`SLURM_RESTART_COUNT`).
    pub restarts: u64,
    /// Slurm's name of this machine, where it has one: what `--exclude` takes.
    pub node: Option<String>,
    /// Seconds before the limit at which the job script has Slurm send a signal.
    pub signal_lead_s: Option<f64>,
    /// When the job ends: told from outside, now and then anew.
    pub end: JobEnd,
}

impl Default for JobFacts {
    /// Outside of Slurm.
    fn default() -> Self {
        JobFacts {
            id: "local".to_owned(),
            restarts: 0,
            node: None,
            signal_lead_s: None,
            end: JobEnd::default(),
        }
    }
}
