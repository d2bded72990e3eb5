//! A model from a folder onto the devices of a mesh, for evaluation and generation.

use std::path::{Path, PathBuf};

use tisserand_collectives::{Axes, Workspace};
use tisserand_kernels::device::Caps;
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::{Arena, Class, Context, DType, Device, DryRun};

use crate::checkpoint::{self, CheckpointReader, HfFolder, Source};
use crate::data::MicroBatch;
use crate::decoder::CachedNetwork;
use crate::error::{Error, Result};
use crate::hf_config;
use crate::model::Transformer;
use crate::model_config::ModelConfig;
use crate::network::{Network, NetworkShape};
use crate::parallel::{Sharding, TensorParallel};
use crate::step::state::{STAGED_ELEMENTS, pieces};
use crate::train::start;

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

    /// The weights on a rank's device, for evaluation on micro-batches of `shape.tokens` tokens.
    ///
    /// # Errors
    /// Weights that are not those of the model, a device without the memory, ranks that fail.
    pub fn evaluator<D: Device>(&self, place: InferencePlace<D>, shape: NetworkShape) -> Result<Network<D>> {
        let model = Transformer::sharded(self.config.clone(), place.sharding.tp());
        let bytes = evaluation_bytes(place.device.caps(), &model, place.sharding, place.workspace, shape)?;
        self.load(place, bytes, model, shape)
    }

    /// The weights on a rank's device with room for `capacity` tokens, the first `prompt_len` of them at once.
    ///
    /// # Errors
    /// As [`ModelFolder::evaluator`].
    pub fn decoder<D: Device>(
        &self,
        place: InferencePlace<D>,
        dtype: DType,
        prompt_len: usize,
        capacity: usize,
    ) -> Result<CachedNetwork<D>> {
        let model = Transformer::sharded(self.config.clone(), place.sharding.tp());
        let shape = NetworkShape { dtype, tokens: 1, positions: capacity };
        let bytes = generation_bytes(
            place.device.caps(),
            &model,
            place.sharding,
            place.workspace,
            shape,
            prompt_len,
        )?;
        CachedNetwork::new(self.load(place, bytes, model, shape)?, capacity)
    }

    fn load<D: Device>(
        &self,
        place: InferencePlace<D>,
        arena_bytes: usize,
        model: Transformer,
        shape: NetworkShape,
    ) -> Result<Network<D>> {
        let InferencePlace { device, sharding, axes, .. } = place;
        let ctx = Context::new(device, arena_bytes)?;
        let tp = TensorParallel::new(axes.tp, axes.copies);
        let mut network = Network::new(ctx, model.clone(), shape, sharding, axes.gather, tp)?;
        start::load_pieces(&self.weights.tensors, "", &model, sharding, |piece, values| {
            network.write(piece, values)
        })?;
        network.weights.publish(&network.ctx)?;
        Ok(network)
    }
}

/// A rank's device and its part of the mesh.
pub struct InferencePlace<D: Device> {
    /// The device.
    pub device: D,
    /// The rank's part.
    pub sharding: Sharding,
    /// Its communicators.
    pub axes: Axes<D>,
    /// What they take from the arena.
    pub workspace: Workspace,
}

/// Arena bytes for evaluation on micro-batches of `shape.tokens` tokens.
fn evaluation_bytes(
    caps: Caps,
    model: &Transformer,
    sharding: Sharding,
    workspace: Workspace,
    shape: NetworkShape,
) -> Result<usize> {
    let (mut network, arena) = imagined(caps, model, sharding, workspace, shape)?;
    let params = CrossEntropyParams { z_loss: 0.0 };
    network.losses(&params, &MicroBatch::empty(shape.tokens))?;
    Ok(arena.high_water_bytes())
}

/// Arena bytes for generation: a prompt at once, then tokens one by one, `shape.positions` tokens in all.
fn generation_bytes(
    caps: Caps,
    model: &Transformer,
    sharding: Sharding,
    workspace: Workspace,
    shape: NetworkShape,
    prompt_len: usize,
) -> Result<usize> {
    let (mut network, arena) = imagined(caps, model, sharding, workspace, shape)?;
    let mut caches = network.caches(shape.positions)?;
    network.extend(&mut caches, &vec![0; prompt_len])?;
    for _ in prompt_len..shape.positions {
        network.extend(&mut caches, &[0])?;
    }
    Ok(arena.high_water_bytes())
}

/// A loaded network on a device that only counts, and its arena.
fn imagined(
    caps: Caps,
    model: &Transformer,
    sharding: Sharding,
    workspace: Workspace,
    shape: NetworkShape,
) -> Result<(Network<DryRun>, Arena<DryRun>)> {
    let ctx = Context::new(DryRun::new(caps), DryRun::CAPACITY_BYTES)?;
    let arena = ctx.arena.clone();
    let copies = sharding.tp().copies(model.config.num_kv_heads);
    let axes = Axes::imagined(sharding.mesh, sharding.rank, copies, workspace);
    let tp = TensorParallel::new(axes.tp, axes.copies);
    let mut network = Network::new(ctx, model.clone(), shape, sharding, axes.gather, tp)?;
    // The workspace of loading.
    let longest = pieces(model, sharding).map(|piece| piece.len).max().unwrap_or(0);
    network.ctx.arena.block(Class::Workspace, DType::F32, longest.min(STAGED_ELEMENTS))?;
    network.weights.publish(&network.ctx)?;
    Ok((network, arena))
}
