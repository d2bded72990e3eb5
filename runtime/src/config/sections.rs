//! The sections of a validated run file that are plain data. Defaults stand in `super::keys`.

use std::path::PathBuf;

use tisserand_kernels::DType;

/// `[run]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Run {
    /// Name in reports.
    pub name: String,
    /// Folder of the run.
    pub dir: PathBuf,
    /// Key of initial weights, data order and rounding noise.
    pub seed: u64,
    /// What computes.
    pub device: DeviceKind,
    /// CPU worker threads per rank; 0 = cores / local ranks.
    pub threads: usize,
    /// Save and stop before this many minutes.
    pub max_minutes: Option<f64>,
    /// Seconds that a stop before a time limit leaves for the save; `None`: twice the slowest save.
    pub stop_before_limit_s: Option<f64>,
    /// Starts in a row without a completed step after which the run is not started again.
    pub max_idle_starts: Option<u64>,
    /// Seconds after which a collective counts as hung.
    pub collective_timeout_s: f64,
    /// The file of libnccl; none: where `NCCL_HOME` or the system says.
    pub nccl_library: Option<PathBuf>,
    /// Whether the step is replayed as CUDA graphs.
    pub cuda_graph: bool,
    /// Whether ranks that are bound to CPUs may have less than one each.
    pub oversubscribe: bool,
    /// What happens when memory used differs from the plan.
    pub plan_check: PlanCheck,
    /// Unix group that may read everything.
    pub group: Option<String>,
}

/// `run.device`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceKind {
    /// The host.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
}

/// `run.plan_check`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlanCheck {
    /// One warning.
    Warn,
    /// The run fails.
    Error,
}

/// `[tokenizer]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Tokenizer {
    /// A `tokenizer.json`; copied into checkpoints.
    pub path: Option<PathBuf>,
}

/// `[data]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Data {
    /// Datasets to train on; empty exactly when `prepare` is given.
    pub sources: Vec<Source>,
    /// Datasets to validate on; names are unique.
    pub validation: Vec<Validation>,
    /// Share of each source's documents, its last ones, kept for validation.
    pub validation_fraction: f64,
    /// Whether attention and positions restart at each document.
    pub document_mask: bool,
    /// Batches read ahead.
    pub prefetch_batches: usize,
    /// Steps whose data is passed over: pairs (first, last), both included, increasing and disjoint.
    pub skip: Vec<(u64, u64)>,
    /// Text from which tokenizer and dataset are built first.
    pub prepare: Option<Prepare>,
}

impl Data {
    /// Whether anything is there to validate on.
    pub fn has_validation(&self) -> bool {
        !self.validation.is_empty() || self.validation_fraction > 0.0
    }
}

/// One of `data.sources`.
#[derive(Clone, PartialEq, Debug)]
pub struct Source {
    /// Prefix of `.bin` and `.idx`, or a glob of such prefixes.
    pub path: PathBuf,
    /// Share of tokens, relative to the sum over all sources.
    pub weight: f64,
    /// How often its data may be seen.
    pub max_epochs: Option<f64>,
}

/// One of `data.validation`.
#[derive(Clone, PartialEq, Debug)]
pub struct Validation {
    /// Name in reports.
    pub name: String,
    /// Prefix of `.bin` and `.idx`.
    pub path: PathBuf,
}

/// `[data.prepare]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Prepare {
    /// Globs of text files.
    pub text: Vec<String>,
    /// Entries of the tokenizer.
    pub vocab_size: usize,
}

/// `[training]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Training {
    /// Tokens per sequence.
    pub seq_len: usize,
    /// Sequences per step.
    pub global_batch: usize,
    /// Sequences per data-parallel rank and forward.
    pub micro_batch: usize,
    /// Steps of the whole run.
    pub steps: u64,
    /// Factor of the squared log-partition in the loss.
    pub z_loss: f64,
    /// Non-finite steps in a row that are skipped before the run fails.
    pub max_skipped_steps: u32,
}

/// `[mesh]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mesh {
    /// Replicas of the sharded model.
    pub dp_replicate: usize,
    /// Ranks that share one replica's state.
    pub dp_shard: usize,
    /// Ranks that share one matrix.
    pub tp: usize,
    /// 0 replicate everything, 1 shard optimizer state, 2 and gradients, 3 and parameters.
    pub zero: u8,
}

impl Mesh {
    /// Data-parallel ranks.
    pub fn dp(&self) -> usize {
        self.dp_replicate * self.dp_shard
    }
}

/// `[determinism]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Determinism {
    /// Bit-equal losses and weights for every data-parallel mesh and ZeRO stage.
    pub mesh_invariant: bool,
}

/// `[precision]`: each F32 or Bf16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Precision {
    /// Weights and activations of forward and backward.
    pub compute: DType,
    /// Master weights; bf16 is rounded stochastically.
    pub master: DType,
    /// Moments of AdamW.
    pub moments: DType,
    /// Wire type of gradient reductions.
    pub reduce: DType,
}

/// `[recompute]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recompute {
    /// What is dropped in forward.
    pub mode: RecomputeMode,
    /// How many blocks, from the first; `num_layers` for "all".
    pub blocks: usize,
}

/// `recompute.mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecomputeMode {
    /// Everything is saved.
    None,
    /// What is cheap to compute again is not saved.
    Selective,
    /// Only a block's input is saved.
    Full,
}

impl RecomputeMode {
    /// Its name in the run file.
    pub fn name(self) -> &'static str {
        match self {
            RecomputeMode::None => "none",
            RecomputeMode::Selective => "selective",
            RecomputeMode::Full => "full",
        }
    }
}

/// `[checkpoint]`. With neither `every_minutes` nor `every_steps` only the end of a job is saved.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Checkpoint {
    /// Minutes between complete checkpoints.
    pub every_minutes: Option<f64>,
    /// Steps between complete checkpoints.
    pub every_steps: Option<u64>,
    /// Rolling complete checkpoints that are kept.
    pub keep_last: usize,
    /// Complete checkpoints at multiples of this are kept for ever.
    pub keep_every_steps: Option<u64>,
    /// Steps between Hugging Face folders of weights only.
    pub weights_every_steps: Option<u64>,
}

/// `[init]`.
#[derive(Clone, PartialEq, Debug)]
pub struct InitFrom {
    /// A checkpoint or Hugging Face folder.
    pub from: Option<PathBuf>,
    /// What is taken from it.
    pub load: InitLoad,
}

/// `init.load`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitLoad {
    /// Weights only.
    Weights,
    /// Weights, master weights and moments.
    WeightsOptimizer,
    /// Also the step and the position in the data.
    All,
}

impl InitLoad {
    /// Its name in the run file.
    pub fn name(self) -> &'static str {
        match self {
            InitLoad::Weights => "weights",
            InitLoad::WeightsOptimizer => "weights+optimizer",
            InitLoad::All => "all",
        }
    }
}

/// `[eval]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Eval {
    /// Steps between validations; `None` for never.
    pub every_steps: Option<u64>,
    /// Tokens of each validation set that are used.
    pub max_tokens: u64,
}

/// `[log]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Log {
    /// Steps between lines.
    pub every_steps: u64,
    /// Whether event files are written.
    pub tensorboard: bool,
    /// First and last step of which every rank writes a trace.
    pub trace_steps: Option<[u64; 2]>,
}
