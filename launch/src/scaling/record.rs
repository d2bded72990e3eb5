//! What the ranks of one point write down when they are done: one JSON file, by rank 0.

use serde::{Deserialize, Serialize};
use tisserand_runtime::train::measure::{MeasuredData, StepTime};

use super::energy::Energy;
use super::statistics::Summary;

/// One repeat of one point.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PointRecord {
    /// When the measured steps had ended, RFC 3339, UTC.
    pub time: String,
    /// The program that measured, in words.
    pub program: String,
    /// Number of ranks.
    pub ranks: usize,
    /// How they share the work.
    pub mesh: MeshSizes,
    /// Sequences per step.
    pub global_batch: usize,
    /// Sequences per data-parallel rank and forward pass.
    pub micro_batch: usize,
    /// Micro-steps of a step.
    pub grad_accum: usize,
    /// Tokens of all ranks per step.
    pub tokens_per_step: u64,
    /// Type of weights and activations.
    pub compute_dtype: String,
    /// What was trained on.
    pub data: MeasuredData,
    /// Parameters of the model.
    pub parameters: usize,
    /// Model FLOPs per token, attention counted whole (6N + 12Lhs).
    pub flops_per_token_full: f64,
    /// Model FLOPs per token, attention counted causal (6N + 6Lhs).
    pub flops_per_token_causal: f64,
    /// FLOPs that each rank executes in a step, recomputation included.
    pub executed_flops_per_step: u64,
    /// Arena of each rank.
    pub arena_bytes: usize,
    /// Steps before the first that counts.
    pub warmup_steps: u64,
    /// The measured steps as rank 0 saw them.
    pub steps: Vec<StepTime>,
    /// Every rank's.
    pub rank_rows: Vec<RankRow>,
    /// What each rank called and sent in a step, by axis and kind.
    pub traffic: Vec<TrafficRow>,
    /// Loss of the last step, nats per token.
    pub loss: f32,
    /// What the measured steps took; `None` where it cannot be read on every node.
    pub energy: Option<Energy>,
    /// Why there is no energy, in words.
    pub energy_missing: Option<String>,
}

/// Sizes of the axes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MeshSizes {
    /// Replicas of the sharded model.
    pub dp_replicate: usize,
    /// Ranks that share one replica.
    pub dp_shard: usize,
    /// Ranks that share one matrix.
    pub tp: usize,
    /// ZeRO stage.
    pub zero: u8,
}

/// One rank over the measured steps.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RankRow {
    /// Which.
    pub rank: usize,
    /// Its number on its machine.
    pub local_rank: usize,
    /// Its machine.
    pub host: String,
    /// Its device, in words.
    pub device: String,
    /// Seconds of a step.
    pub step_s: Summary,
    /// Seconds of a step's actions, without waiting for other ranks.
    pub compute_s: Summary,
    /// Mean seconds of a step, by part.
    pub mean: StepTime,
}

/// One kind of collective along one axis.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TrafficRow {
    /// The axis.
    pub axis: String,
    /// The kind.
    pub kind: String,
    /// Calls of a rank in a step.
    pub calls_per_step: f64,
    /// Bytes of the full tensors of these calls.
    pub payload_bytes_per_step: f64,
    /// Bytes that a rank sends for them with a ring.
    pub sent_bytes_per_step: f64,
}

/// All-reduces along one axis, by size.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BandwidthRecord {
    /// The axis.
    pub axis: String,
    /// Ranks along it.
    pub ranks: usize,
    /// Type of the elements.
    pub dtype: String,
    /// In ascending order of size.
    pub sizes: Vec<BandwidthRow>,
}

/// All-reduces of one size.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BandwidthRow {
    /// Bytes of each rank's block.
    pub payload_bytes: usize,
    /// Seconds of a call, at the slowest rank.
    pub seconds: Summary,
    /// `payload_bytes` over the median of `seconds`.
    pub algorithm_bytes_per_s: f64,
    /// That times `2 (n − 1) / n`: what each rank must send with a ring, comparable with the speed of a wire.
    pub bus_bytes_per_s: f64,
}

impl BandwidthRow {
    /// By the definitions above, for `ranks` ranks.
    pub fn new(ranks: usize, payload_bytes: usize, seconds: Summary) -> Self {
        let algorithm_bytes_per_s = payload_bytes as f64 / seconds.median;
        let sent = tisserand_collectives::Collective::AllReduce.sent_per_payload(ranks);
        let bus_bytes_per_s = algorithm_bytes_per_s * sent;
        BandwidthRow { payload_bytes, seconds, algorithm_bytes_per_s, bus_bytes_per_s }
    }
}
