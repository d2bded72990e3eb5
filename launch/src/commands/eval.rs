//! `tisserand eval`

use tisserand_collectives::Alone;
use tisserand_runtime::data::Dataset;
use tisserand_runtime::inference::ModelFolder;
use tisserand_runtime::log::Record;
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::train::corpus;
use tisserand_runtime::{Error, Result};

use super::{DONE, load};
use crate::{cli, device, output};

/// Prints the loss of every validation set of the run file.
pub(super) fn run(arguments: &cli::Eval) -> Result<u8> {
    let mut config = load(&arguments.run_file, None)?;
    let folder = ModelFolder::open(&arguments.checkpoint)?;
    folder.warning.iter().for_each(|warning| eprintln!("warning: {warning}"));
    config.model = folder.config.clone();
    let sources = corpus::sources(&config)?;
    let dataset = Dataset::open(&sources, corpus::dataset_config(&config))?;
    let mut sets = corpus::open_validation(&config, &dataset)?;
    if sets.is_empty() {
        return Err(Error::input(format!(
            "{}: no validation data; hint: data.validation or data.validation_fraction",
            arguments.run_file.path.display()
        )));
    }
    let mut evaluator = device::evaluator(&config, &folder)?;
    for set in &mut sets {
        let (sharding, control) = (Sharding::single(), Alone::default());
        let record = set.evaluate(folder.step.unwrap_or(0), &sharding, &control, &mut *evaluator)?;
        let Some(record) = record else { continue };
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
