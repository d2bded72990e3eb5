//! A model from a folder onto a device, for evaluation and generation.

use std::path::{Path, PathBuf};

use tisserand_collectives::Single;
use tisserand_kernels::{Context, DType, Device};

use crate::checkpoint::{self, CheckpointReader, HfFolder, Source};
use crate::decoder::CachedNetwork;
use crate::error::{Error, Result};
use crate::model::Transformer;
use crate::model_config::ModelConfig;
use crate::network::{Network, NetworkShape};
use crate::parallel::{Sharding, TensorParallel};
use crate::step::state::pieces;
use crate::{hf_config, plan};

/// Weights in a folder, and what belongs to them.
pub struct ModelFolder {
    /// The model.
    pub config: ModelConfig,
    /// Step of the checkpoint, if it is one.
    pub step: Option<u64>,
    /// The tokenizer beside the weights.
    pub tokenizer: Option<PathBuf>,
    /// What was found instead of what was expected, to be shown.
    pub warning: Option<String>,
    weights: HfFolder,
}

impl ModelFolder {
    /// Opens a checkpoint, the newest one of a run folder, or a Hugging Face folder.
    pub fn open(path: &Path) -> Result<Self> {
        let resolved = checkpoint::resolve(path)?;
        let (weights, step) = match resolved.source {
            Source::Checkpoint(dir) => {
                let reader = CheckpointReader::open(&dir)?;
                (reader.weights, Some(reader.trainer.step))
            }
            Source::HfFolder(dir) => (HfFolder::open(&dir)?, None),
        };
        let config = hf_config::read(&weights.dir.join("config.json"))?;
        let tokenizer = weights.tokenizer.clone();
        Ok(ModelFolder { config, step, tokenizer, warning: resolved.warning, weights })
    }

    /// The path of the tokenizer, or an error that says how to give one.
    pub fn require_tokenizer(&self) -> Result<&Path> {
        self.tokenizer.as_deref().ok_or_else(|| {
            Error::input(format!(
                "{}: no tokenizer.json beside the weights; hint: --tokenizer FILE",
                self.weights.dir.display()
            ))
        })
    }

    /// The weights on a device, for evaluation on micro-batches of `tokens` tokens.
    pub fn evaluator<D: Device>(
        &self,
        device: D,
        dtype: DType,
        tokens: usize,
        seq_len: usize,
    ) -> Result<Network<D>> {
        let model = Transformer::new(self.config.clone());
        let bytes = plan::evaluation_bytes(device.caps(), &model, dtype, tokens, seq_len)?;
        self.load(device, bytes, model, NetworkShape { dtype, tokens, positions: seq_len })
    }

    /// The weights on a device with room for `capacity` tokens, the first `prompt_len` of them at once.
    pub fn decoder<D: Device>(
        &self,
        device: D,
        dtype: DType,
        prompt_len: usize,
        capacity: usize,
    ) -> Result<CachedNetwork<D>> {
        let model = Transformer::new(self.config.clone());
        let bytes = plan::generation_bytes(device.caps(), &model, dtype, prompt_len, capacity)?;
        let shape = NetworkShape { dtype, tokens: 1, positions: capacity };
        let network = self.load(device, bytes, model, shape)?;
        CachedNetwork::new(network, capacity)
    }

    fn load<D: Device>(
        &self,
        device: D,
        arena_bytes: usize,
        model: Transformer,
        shape: NetworkShape,
    ) -> Result<Network<D>> {
        let ctx = Context::new(device.clone(), arena_bytes)?;
        let (gathers, tp) = (Box::new(Single::new(device.clone())), TensorParallel::single(&device));
        let mut network = Network::new(ctx, model.clone(), shape, Sharding::single(), gathers, tp)?;
        for piece in pieces(&model, Sharding::single()) {
            let values = self.weights.tensors.read_shaped(&piece.param.name, &piece.param.shape)?;
            network.write(piece, &values)?;
        }
        Ok(network)
    }
}
