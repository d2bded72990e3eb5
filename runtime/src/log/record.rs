//! The records of `metrics.jsonl`. `docs/metrics.md` says the same for those who read the file.

use serde::{Deserialize, Serialize};

use super::number;

/// One line of `metrics.jsonl`; the field `type` says which.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Record {
    /// A logged training step.
    Step(Box<StepRecord>),
    /// An evaluation on one validation set.
    Eval(EvalRecord),
    /// A complete checkpoint.
    Checkpoint(CheckpointRecord),
    /// A start from a checkpoint.
    Resume(ResumeRecord),
}

impl Record {
    /// The step to which the record belongs.
    pub fn step(&self) -> u64 {
        match self {
            Record::Step(record) => record.step,
            Record::Eval(record) => record.step,
            Record::Checkpoint(record) => record.step,
            Record::Resume(record) => record.step,
        }
    }
}

/// A logged training step. Times and speeds are means since the log line before.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StepRecord {
    /// Steps done, this one included; the first is 1.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Tokens trained on since the start of the run.
    pub tokens: u64,
    /// Mean cross-entropy per valid token of the step's global batch, in nats.
    #[serde(with = "number")]
    pub loss: f32,
    /// The z-loss term that was added to the loss, if `training.z_loss` is not 0.
    #[serde(with = "number::option")]
    pub z_loss: Option<f32>,
    /// z-score of the loss; `None` before there are enough values.
    #[serde(with = "number::option")]
    pub loss_z: Option<f64>,
    /// L2 norm of the whole gradient before clipping.
    #[serde(with = "number")]
    pub grad_norm: f32,
    /// z-score of the gradient norm.
    #[serde(with = "number::option")]
    pub grad_norm_z: Option<f64>,
    /// Learning rate of the step, before a group's `lr_scale`.
    #[serde(with = "number")]
    pub lr: f64,
    /// Seconds per step, without evaluation and checkpoints.
    #[serde(with = "number")]
    pub step_s: f64,
    /// Seconds of the median step, evaluation and checkpoints left out.
    #[serde(with = "number::option", default)]
    pub step_p50_s: Option<f64>,
    /// Seconds that 99 of 100 steps do not exceed.
    #[serde(with = "number::option", default)]
    pub step_p99_s: Option<f64>,
    /// The rank that takes longest for its own work; `None` for one rank, and before it is known.
    #[serde(default)]
    pub slowest: Option<SlowestRank>,
    /// Of `step_s`, seconds in which the step waited for data.
    #[serde(with = "number")]
    pub data_wait_s: f64,
    /// Share of `step_s` in which the compute thread of rank 0 waited for collectives; `None` for one rank.
    #[serde(with = "number::option")]
    pub exposed_communication: Option<f64>,
    /// Tokens per second of all ranks together, without evaluation and checkpoints.
    #[serde(with = "number")]
    pub tokens_per_s: f64,
    /// Model FLOPs per token by `flops_convention`.
    #[serde(with = "number")]
    pub flops_per_token: f64,
    /// The formula of `flops_per_token`, for instance `6N+12Lhs`.
    pub flops_convention: String,
    /// `tokens_per_s · flops_per_token / 10⁹`, all ranks together.
    #[serde(with = "number")]
    pub gflop_per_s: f64,
    /// Model FLOPs utilisation; `None` where the peak is unknown (CPU).
    pub mfu: Option<Mfu>,
    /// Device memory in use at its highest, of the fullest rank.
    pub memory_used_bytes: u64,
    /// Device memory that the plan foresaw for that rank.
    pub memory_planned_bytes: u64,
    /// Steps skipped since the start of the run because a gradient was not finite.
    pub skipped: u64,
    /// Seconds until the last step; `None` before there is a speed.
    #[serde(with = "number::option")]
    pub eta_s: Option<f64>,
}

/// The rank that the others wait for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SlowestRank {
    /// The rank.
    pub rank: usize,
    /// Its machine.
    pub host: String,
    /// Share of its steps' time in which it did not wait for other ranks.
    #[serde(with = "number")]
    pub busy_share: f64,
}

/// Model FLOPs utilisation.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Mfu {
    /// `gflop_per_s / peak_gflop_per_s`.
    #[serde(with = "number")]
    pub value: f64,
    /// The peak of all ranks' devices together, dense, for the compute dtype, as the vendor states it.
    #[serde(with = "number")]
    pub peak_gflop_per_s: f64,
}

/// An evaluation on one validation set.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Steps done before it.
    pub step: u64,
    /// Name of the validation set.
    pub name: String,
    /// Mean cross-entropy per valid token, in nats.
    #[serde(with = "number")]
    pub loss: f64,
    /// `exp(loss)`.
    #[serde(with = "number")]
    pub perplexity: f64,
    /// Valid tokens.
    pub tokens: u64,
}

/// A complete checkpoint.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// Its step.
    pub step: u64,
    /// Its folder, relative to the run folder.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Seconds for which training stood still.
    #[serde(with = "number")]
    pub stall_s: f64,
    /// Seconds from the snapshot until the checkpoint was complete.
    #[serde(with = "number")]
    pub write_s: f64,
}

/// A start from a checkpoint.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ResumeRecord {
    /// The step of the checkpoint.
    pub step: u64,
    /// Tokens trained on until then.
    pub tokens: u64,
    /// Slurm's job id, or what stands for it.
    pub job_id: String,
    /// Ranks from here on.
    pub world_size: usize,
}
