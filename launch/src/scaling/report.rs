//! The result of a sweep: one struct, from which table, JSON, CSV, LaTeX and HTML are made. `definitions` says in words
//! what every figure is; `assemble` computes them.

use serde::{Deserialize, Serialize};

use super::environment::Environment;
use super::record::{BandwidthRecord, MeshSizes, TrafficRow};
use super::statistics::Summary;
use super::sweep::Sweep;

/// The version of this struct as it stands in scaling.json.
pub const FORMAT: u32 = 1;

/// Everything.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// `run.name`.
    pub name: String,
    /// What was asked for.
    pub sweep: Sweep,
    /// The model, and what its FLOPs are held against.
    pub model: Model,
    /// In ascending order of ranks. Points without any finished repeat are absent.
    pub points: Vec<Point>,
    /// All-reduces at the largest point.
    pub bandwidth: Vec<BandwidthRecord>,
    /// Turns without a result.
    pub failures: Vec<Failure>,
    /// What a reader should know before using a figure.
    pub notes: Vec<String>,
    /// Program, machine, network, job.
    pub environment: Environment,
}

/// What all points have in common.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Model {
    /// Parameters.
    pub parameters: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Type of weights and activations.
    pub compute_dtype: String,
    /// Model FLOPs per token, attention counted whole (6N + 12Lhs).
    pub flops_per_token_full: f64,
    /// Model FLOPs per token, attention counted causal (6N + 6Lhs).
    pub flops_per_token_causal: f64,
    /// The profile that peak and prediction are from.
    pub profile: Option<String>,
    /// Peak of one device in the compute type, by the profile.
    pub peak_flop_per_s: Option<f64>,
}

/// All repeats of one point.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Nodes or ranks, as the sweep counts.
    pub count: usize,
    /// Ranks.
    pub ranks: usize,
    /// How they share the work.
    pub mesh: MeshSizes,
    /// Sequences per step.
    pub global_batch: usize,
    /// Sequences per data-parallel rank and forward pass.
    pub micro_batch: usize,
    /// Micro-steps of a step.
    pub grad_accum: usize,
    /// Tokens per step.
    pub tokens_per_step: u64,
    /// Seconds of a step: all measured steps of all repeats, at rank 0.
    pub step_s: Summary,
    /// Median of each repeat, in the order of repeats.
    pub repeat_medians_s: Vec<f64>,
    /// Which repeats these are.
    pub repeats: Vec<usize>,
    /// Tokens per step over the median of `step_s`.
    pub tokens_per_s: f64,
    /// That by the number of ranks.
    pub tokens_per_s_per_rank: f64,
    /// Model FLOP/s of all ranks, attention counted whole.
    pub model_flop_per_s: f64,
    /// Shares of the peak; `None` without a profile.
    pub utilization: Option<Utilization>,
    /// Where a step's time goes, means over ranks and steps.
    pub breakdown: Breakdown,
    /// Share of a step in which a rank waits for collectives, mean over ranks and steps.
    pub exposed_share: f64,
    /// Mean time of the fastest and of the slowest rank's own actions.
    pub compute_of_ranks_s: [f64; 2],
    /// Against the smallest point; `None` if that has no result.
    pub efficiency: Option<Efficiency>,
    /// What the planner says of this point; `None` without a profile.
    pub predicted: Option<Predicted>,
    /// Joules per token of all nodes; `None` where it cannot be read.
    pub energy: Option<PointEnergy>,
    /// Arena of each rank.
    pub arena_bytes: usize,
    /// What each rank called and sent in a step.
    pub traffic: Vec<TrafficRow>,
    /// Machines on which it ran, each once.
    pub hosts: Vec<String>,
    /// Kinds of devices, each once.
    pub devices: Vec<String>,
    /// Loss of the last step of the first repeat.
    pub loss: f32,
}

/// Shares of the peak of all devices.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Utilization {
    /// MFU with attention counted whole.
    pub mfu_full: f64,
    /// MFU with attention counted causal.
    pub mfu_causal: f64,
    /// FLOPs as executed, recomputation included.
    pub hfu: f64,
}

/// Mean seconds of a step, by part; their sum is the mean step.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Breakdown {
    /// The step's actions.
    pub compute_s: f64,
    /// Waiting for collectives.
    pub exposed_s: f64,
    /// Waiting for data.
    pub data_s: f64,
    /// Agreement between ranks.
    pub other_s: f64,
}

/// Tokens per second and rank, relative to the smallest point.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Efficiency {
    /// Median over the repeats, each against the smallest point of the same repeat.
    pub value: f64,
    /// Smallest of them.
    pub low: f64,
    /// Largest of them.
    pub high: f64,
}

/// A prediction of one point.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Predicted {
    /// Seconds of a step.
    pub step_s: f64,
    /// Of them: waiting for collectives.
    pub exposed_s: f64,
    /// Predicted tokens per second and rank, relative to the prediction of the smallest point.
    pub efficiency: f64,
    /// Predicted over measured step: the share of the predicted speed that is reached.
    pub reached: f64,
}

/// Energy of a point.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PointEnergy {
    /// How it was read.
    pub source: String,
    /// Per token, median over the repeats.
    pub joules_per_token: f64,
    /// Power of all devices together, median over the repeats.
    pub watts: f64,
    /// Clock of the GPUs' multiprocessors under load.
    pub sm_clock_mhz: Option<f64>,
}

/// A turn without a result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// "4 nodes, repeat 2", or "bandwidth".
    pub turn: String,
    /// What happened.
    pub how: String,
    /// Its log.
    pub log: String,
    /// The end of that.
    pub last_lines: Vec<String>,
}
