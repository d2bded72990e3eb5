//! Where a run's weights and optimizer state come from: a seed, a checkpoint, a Hugging Face folder. Rank 0 opens it and
//! tells the others what is where; each rank reads its own slices, whatever mesh wrote them.

use std::path::Path;

use tisserand_collectives::{Channel, ControlPlane};
use tisserand_kernels::ops::step_scalars::StepScalars;

use super::saving::OPTIMIZER_PARTS;
use crate::checkpoint::{self, CheckpointReader, HfFolder, Source, TensorLayout, TensorSet, TrainerState};
use crate::config::{Config, InitLoad};
use crate::engine::{Engine, Part};
use crate::error::{Error, Result};
use crate::log::Logger;
use crate::model::Transformer;
use crate::opener::Opener;
use crate::parallel::Sharding;
use crate::step::state::{Piece, pieces};

/// Start values, or those that `[init] from` names.
pub(super) fn begin(
    engine: &mut dyn Engine,
    config: &Config,
    logger: &Logger,
    control: &dyn ControlPlane,
    opener: &Opener,
) -> Result<TrainerState> {
    let fresh = TrainerState { seed: config.run.seed, ..TrainerState::default() };
    let Some(from) = &config.init.from else {
        engine.initialize(config.run.seed)?;
        set_scalars(engine, &fresh)?;
        return Ok(fresh);
    };
    let (tensors, saved) = shared(control, opener, || find(from, config.init.load, logger))?;
    logger.line(&format!("weights from {}", from.display()));
    let state = match saved {
        None => {
            load_weights(engine, &tensors)?;
            fresh
        }
        Some(saved) => {
            if config.init.load == InitLoad::All {
                check_steps_left(config, from, saved.step)?;
            }
            load_optimizer(engine, &tensors)?;
            match config.init.load {
                InitLoad::All => TrainerState { seed: config.run.seed, ..saved },
                _ => TrainerState { num_updates: saved.num_updates, ..fresh },
            }
        }
    };
    set_scalars(engine, &state)?;
    Ok(state)
}

/// Weights, or optimizer state with the counters of the run that saved it.
type Start = (TensorSet, Option<TrainerState>);

/// What `init.from` names, as far as `init.load` wants it.
fn find(from: &Path, load: InitLoad, logger: &Logger) -> Result<Start> {
    let resolved = checkpoint::resolve(from)?;
    resolved.warning.iter().for_each(|warning| logger.warn(warning));
    match (resolved.source, load) {
        (Source::HfFolder(dir), InitLoad::Weights) => Ok((HfFolder::open(&dir)?.tensors, None)),
        (Source::HfFolder(dir), load) => Err(Error::input(format!(
            "init.load = \"{}\" needs a checkpoint, but init.from = {} is a Hugging Face folder without \
             optimizer state; hint: init.load = \"weights\"",
            load.name(),
            dir.display()
        ))),
        (Source::Checkpoint(dir), InitLoad::Weights) => {
            Ok((CheckpointReader::open(&dir)?.weights.tensors, None))
        }
        (Source::Checkpoint(dir), _) => whole(&dir),
    }
}

fn whole(dir: &Path) -> Result<Start> {
    let reader = CheckpointReader::open(dir)?;
    Ok((reader.optimizer, Some(reader.trainer)))
}

/// What rank 0 opens, at every rank: the others read no header, and nothing may be another file meanwhile. The run that
/// writes there may be under way.
fn shared(
    control: &dyn ControlPlane,
    opener: &Opener,
    open: impl FnOnce() -> Result<Start>,
) -> Result<Start> {
    let broken = |error: serde_json::Error| Error::fault(format!("where rank 0 starts from: {error}"));
    let mine = if control.rank() == 0 { Some(open()?) } else { None };
    let told = match &mine {
        Some((tensors, saved)) => {
            let saved = saved.as_ref().map(TrainerState::to_json);
            serde_json::to_vec(&(tensors.layout(), saved)).map_err(broken)?
        }
        None => Vec::new(),
    };
    let told = control.broadcast(Channel::Step, told)?;
    if let Some(mine) = mine {
        return Ok(mine);
    }
    let (layout, saved): (TensorLayout, Option<String>) = serde_json::from_slice(&told).map_err(broken)?;
    let saved = saved.map(|text| TrainerState::from_json(&text, "rank 0")).transpose()?;
    Ok((TensorSet::from_layout(layout, opener.clone())?, saved))
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
pub(super) fn resume(
    engine: &mut dyn Engine,
    dir: &Path,
    seed: u64,
    control: &dyn ControlPlane,
    opener: &Opener,
) -> Result<TrainerState> {
    let (tensors, saved) = shared(control, opener, || whole(dir))?;
    load_optimizer(engine, &tensors)?;
    let state = TrainerState { seed, ..saved.unwrap_or_default() };
    set_scalars(engine, &state)?;
    Ok(state)
}

fn load_weights(engine: &mut dyn Engine, tensors: &TensorSet) -> Result<()> {
    load_part(engine, Part::Master, tensors, "")
}

fn load_optimizer(engine: &mut dyn Engine, tensors: &TensorSet) -> Result<()> {
    for (part, prefix) in OPTIMIZER_PARTS {
        load_part(engine, part, tensors, &format!("{prefix}."))?;
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
