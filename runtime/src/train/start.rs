//! Where a run's weights and optimizer state come from: a seed, a checkpoint, a Hugging Face folder. Each rank reads
//! its own slices, whatever mesh wrote them.

use std::path::Path;

use tisserand_collectives::ControlPlane;
use tisserand_kernels::ops::step_scalars::StepScalars;

use super::saving::OPTIMIZER_PARTS;
use super::setup;
use crate::checkpoint::{self, CheckpointReader, HfFolder, Source, TensorSet, TrainerState};
use crate::config::{Config, InitLoad};
use crate::engine::{Engine, Part};
use crate::error::{Error, Result};
use crate::log::Logger;
use crate::model::Transformer;
use crate::parallel::Sharding;
use crate::step::state::{Piece, pieces};

/// Start values, or those that `[init] from` names.
pub(super) fn begin(
    engine: &mut dyn Engine,
    config: &Config,
    logger: &Logger,
    control: &dyn ControlPlane,
) -> Result<TrainerState> {
    let fresh = TrainerState { seed: config.run.seed, ..TrainerState::default() };
    let Some(from) = &config.init.from else {
        engine.initialize(config.run.seed)?;
        set_scalars(engine, &fresh)?;
        return Ok(fresh);
    };
    let source = agreed_source(from, logger, control)?;
    logger.line(&format!("weights from {}", from.display()));
    let needs_optimizer = config.init.load != InitLoad::Weights;
    match source {
        Source::HfFolder(dir) if needs_optimizer => Err(Error::input(format!(
            "init.load = \"{}\" needs a checkpoint, but init.from = {} is a Hugging Face folder without \
             optimizer state; hint: init.load = \"weights\"",
            config.init.load.name(),
            dir.display()
        ))),
        Source::HfFolder(dir) => {
            load_weights(engine, &HfFolder::open(&dir)?)?;
            set_scalars(engine, &fresh)?;
            Ok(fresh)
        }
        Source::Checkpoint(dir) => {
            let reader = CheckpointReader::open(&dir)?;
            let state = match config.init.load {
                InitLoad::Weights => {
                    load_weights(engine, &reader.weights)?;
                    fresh
                }
                InitLoad::WeightsOptimizer => {
                    load_checkpoint(engine, &reader)?;
                    TrainerState { num_updates: reader.trainer.num_updates, ..fresh }
                }
                InitLoad::All => {
                    check_steps_left(config, from, reader.trainer.step)?;
                    load_checkpoint(engine, &reader)?;
                    TrainerState { seed: config.run.seed, ..reader.trainer }
                }
            };
            set_scalars(engine, &state)?;
            Ok(state)
        }
    }
}

/// What all ranks start from: what rank 0 finds. The run that writes there may be under way, and complete another
/// checkpoint between the looks of two ranks.
fn agreed_source(from: &Path, logger: &Logger, control: &dyn ControlPlane) -> Result<Source> {
    let mut mine = None;
    if control.rank() == 0 {
        let resolved = checkpoint::resolve(from)?;
        resolved.warning.iter().for_each(|warning| logger.warn(warning));
        mine = match resolved.source {
            Source::Checkpoint(dir) | Source::HfFolder(dir) => Some(dir),
        };
    }
    let dir = setup::broadcast_path(control, mine)?;
    Ok(checkpoint::resolve(dir.as_deref().unwrap_or(from))?.source)
}

/// `init.load = "all"` goes on after the step of the checkpoint, so there must be a step after it.
fn check_steps_left(config: &Config, from: &Path, step: u64) -> Result<()> {
    let total = config.training.steps;
    if step < total {
        return Ok(());
    }
    Err(Error::input(format!(
        "init.load = \"all\" goes on after step {step} of init.from = {}, but training has {total} steps; hint: \
         more training.steps, or init.load = \"weights+optimizer\"",
        from.display()
    )))
}

/// Everything as it was when the checkpoint was taken.
pub(super) fn resume(engine: &mut dyn Engine, dir: &Path, seed: u64) -> Result<TrainerState> {
    let reader = CheckpointReader::open(dir)?;
    load_checkpoint(engine, &reader)?;
    let state = TrainerState { seed, ..reader.trainer };
    set_scalars(engine, &state)?;
    Ok(state)
}

fn load_weights(engine: &mut dyn Engine, folder: &HfFolder) -> Result<()> {
    load_part(engine, Part::Master, &folder.tensors, "")
}

fn load_checkpoint(engine: &mut dyn Engine, reader: &CheckpointReader) -> Result<()> {
    for (part, prefix) in OPTIMIZER_PARTS {
        load_part(engine, part, &reader.optimizer, &format!("{prefix}."))?;
    }
    Ok(())
}

/// Elements that are read at once: bounds the host memory of a start.
const READ_ELEMENTS: usize = 16 << 20;

fn load_part(engine: &mut dyn Engine, part: Part, tensors: &TensorSet, prefix: &str) -> Result<()> {
    let (model, sharding) = (engine.model().clone(), engine.sharding());
    load_pieces(tensors, prefix, &model, sharding, |piece, values| engine.write_piece(&piece, part, values))
}

/// Reads what a rank holds of every parameter and hands it to `write`, in the order of the layout; padding is zero.
///
/// # Errors
/// Of reading, of another shape than the model's, of `write`.
pub(crate) fn load_pieces(
    tensors: &TensorSet,
    prefix: &str,
    model: &Transformer,
    sharding: Sharding,
    mut write: impl FnMut(Piece<'_>, &[f32]) -> Result<()>,
) -> Result<()> {
    // What is cut by columns is read with what lies between.
    let most = READ_ELEMENTS / sharding.tp().size;
    let (mut values, mut read) = (Vec::new(), Vec::new());
    for piece in pieces(model, sharding) {
        let name = format!("{prefix}{}", piece.param.name);
        tensors.check_shape(&name, &piece.param.shape)?;
        for start in (0..piece.len).step_by(most) {
            let piece = piece.part(start, most.min(piece.len - start));
            values.clear();
            values.resize(piece.len, 0.0);
            if let Some(first) = piece.runs().next().map(|run| run.global) {
                let end = piece.runs().map(|run| run.global + run.len).last().unwrap_or(first);
                read.resize(end - first, 0.0);
                tensors.read_range(&name, first..end, &mut read)?;
                for run in piece.runs() {
                    values[run.local..][..run.len].copy_from_slice(&read[run.global - first..][..run.len]);
                }
            }
            write(piece, &values)?;
        }
    }
    Ok(())
}

/// The state that the device keeps from step to step.
fn set_scalars(engine: &mut dyn Engine, state: &TrainerState) -> Result<()> {
    engine.set_scalars(&StepScalars {
        num_updates: state.num_updates as u32,
        skipped_total: state.skipped_total as u32,
        skipped_in_row: state.skipped_in_row as u32,
        first_skipped_step: (state.step + 1 - state.skipped_in_row) as u32,
        ..StepScalars::default()
    })
}
