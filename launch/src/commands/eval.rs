//! `tisserand eval`

use std::path::Path;

use tisserand_collectives::ControlPlane;
use tisserand_runtime::config::Config;
use tisserand_runtime::inference::ModelFolder;
use tisserand_runtime::log::{EvalRecord, Record};
use tisserand_runtime::train::{corpus, setup};
use tisserand_runtime::{Error, Result};

use super::{DONE, load_on};
use crate::device::{self, Place};
use crate::node::Node;
use crate::ranks::Ranks;
use crate::world::{self, World};
use crate::{cli, output};

/// Prints the loss of every validation set of the run file.
pub(super) fn run(arguments: &cli::Eval) -> Result<u8> {
    world::enter(arguments.ranks, |ranks, world| on_ranks(arguments, ranks, world))
}

fn on_ranks(arguments: &cli::Eval, ranks: &Ranks, world: World) -> Result<u8> {
    let mut node = Node::of(ranks);
    let (mut config, _) = load_on(&mut node, &arguments.run_file, world.size(ranks))?;
    let folder = ModelFolder::open(&arguments.checkpoint)?;
    if ranks.rank == 0 {
        folder.warning.iter().for_each(|warning| eprintln!("warning: {warning}"));
    }
    config.model = folder.config.clone();
    let records = world.run(ranks, &mut node, &config, |place, control| {
        evaluate(&config, &arguments.run_file.path, &folder, place, control.as_ref())
    })?;
    for record in records {
        if arguments.json {
            let record = serde_json::to_string(&Record::Eval(record))
                .map_err(|error| Error::fault(format!("cannot print the record: {error}")))?;
            output::line(&record)?;
        } else {
            output::line(&record.line())?;
        }
    }
    Ok(DONE)
}

/// The losses of all validation sets, at rank 0.
fn evaluate(
    config: &Config,
    run_file: &Path,
    folder: &ModelFolder,
    place: Place,
    control: &dyn ControlPlane,
) -> Result<Vec<EvalRecord>> {
    let (_, mut sets) = corpus::open_data(config, control, &place.opener)?;
    if sets.is_empty() {
        return Err(Error::input(format!(
            "{}: no validation data; hint: data.validation or data.validation_fraction",
            run_file.display()
        )));
    }
    let sharding = setup::sharding(config, control.rank());
    let mut evaluator = device::evaluator(config, folder, place, sharding)?;
    let mut records = Vec::new();
    for set in &mut sets {
        records.extend(set.evaluate(folder.step.unwrap_or(0), &sharding, control, &mut *evaluator)?);
    }
    Ok(records)
}
