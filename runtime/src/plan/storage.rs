//! What a run keeps outside of the device: files of its checkpoints, and host memory of a rank.

use tisserand_kernels::DType;

use crate::checkpoint::{FilePlan, SaveOptions, TensorSpec};
use crate::config::Config;
use crate::error::Result;
use crate::model::Transformer;
use crate::train::saving::OPTIMIZER_PARTS;

/// Files and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Files {
    /// Number of files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Files {
    fn times(self, count: u64) -> Files {
        Files { files: self.files * count, bytes: self.bytes * count }
    }

    fn plus(self, other: Files) -> Files {
        Files { files: self.files + other.files, bytes: self.bytes + other.bytes }
    }
}

/// What a run writes by its checkpoint policy, and what host memory that takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Storage {
    /// One complete checkpoint: safetensors files with their headers, and documents (small, counted as files).
    pub checkpoint: Files,
    /// Checkpoints that `every_steps` asks for in the whole run, the last step's included; `None` where minutes
    /// decide.
    pub written: Option<u64>,
    /// One Hugging Face folder of the weights alone.
    pub weights: Files,
    /// Complete checkpoints on disk at the end: `keep_last` and those kept for ever.
    pub kept: u64,
    /// Folders of weights at the end.
    pub kept_weights: u64,
    /// All of that.
    pub at_end: Files,
    /// Host memory of a rank for its share of a checkpoint being written; pinned where the device is a GPU.
    pub snapshot_bytes: u64,
    /// Host memory of a rank for batches read ahead; likewise.
    pub batches_bytes: u64,
}

impl Storage {
    /// Of a run.
    ///
    /// # Errors
    /// If names of parameters are not unique, which is a defect.
    pub fn new(config: &Config, model: &Transformer) -> Result<Storage> {
        let (precision, policy) = (&config.precision, &config.checkpoint);
        let params = || model.units.iter().flat_map(|unit| unit.params());
        let specs = |prefix: &str, dtype: DType| -> Vec<TensorSpec> {
            let spec = |name: &str, shape: &[usize]| TensorSpec::new(format!("{prefix}{name}"), shape, dtype);
            params().map(|param| spec(&param.name, &param.shape)).collect()
        };
        let options = SaveOptions::default();
        let weights = FilePlan::weights(&specs("", precision.compute), options.max_file_bytes)?;
        let state = OPTIMIZER_PARTS.into_iter().zip([precision.master, precision.moments, precision.moments]);
        let state: Vec<TensorSpec> =
            state.flat_map(|((_, name), dtype)| specs(&format!("{name}."), dtype)).collect();
        let state = FilePlan::optimizer(&state, options.optimizer_files)?;
        let files = |plan: &FilePlan| Files {
            files: plan.files.len() as u64,
            bytes: plan.files.iter().map(|file| file.size_bytes).sum(),
        };
        // config.json and tokenizer.json; an index where there are several files.
        let index = u64::from(weights.files.len() > 1);
        let weights = files(&weights).plus(Files { files: 2 + index, bytes: 0 });
        // manifest.json and trainer.json.
        let checkpoint = weights.plus(files(&state)).plus(Files { files: 2, bytes: 0 });
        let steps = config.training.steps;
        let at_multiples = |every: Option<u64>| every.map_or(0, |every| steps / every);
        let written = policy.every_steps.map(|every| steps.div_ceil(every));
        let last = written.map_or(policy.keep_last as u64, |written| written.min(policy.keep_last as u64));
        let kept = last.max(1) + at_multiples(policy.keep_every_steps);
        let kept_weights = at_multiples(policy.weights_every_steps);
        let ranks = (config.mesh.dp() * config.mesh.tp) as u64;
        let local_tokens = config.tokens_per_step() / config.mesh.dp() as u64;
        Ok(Storage {
            checkpoint,
            written,
            weights,
            kept,
            kept_weights,
            at_end: checkpoint.times(kept).plus(weights.times(kept_weights)),
            snapshot_bytes: checkpoint.bytes.div_ceil(ranks),
            // Token, label and position of four bytes each.
            batches_bytes: config.data.prefetch_batches as u64 * local_tokens * 12,
        })
    }
}
