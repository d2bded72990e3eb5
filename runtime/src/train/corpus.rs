//! What a run is trained and validated on: rank 0 makes tokens of texts where the run file asks for it, and looks for
//! the files and checks them; then every rank opens them.

use std::path::{Path, PathBuf};

use tisserand_collectives::{Channel, ControlPlane};

use super::evaluation::ValidationData;
use crate::config::Config;
use crate::data::{self, BatchShape, Catalogue, Dataset, DatasetConfig, ValidationSet};
use crate::error::{Error, Result};
use crate::files::io_error;
use crate::log::{Logger, units};
use crate::opener::Opener;
use crate::run::RunFolder;
use crate::tokenizer::Tokenizer;

/// Open datasets.
pub struct Corpus {
    /// What is trained on.
    pub dataset: Dataset,
    /// What is validated on.
    pub validation: Vec<ValidationData>,
    /// What goes into checkpoints.
    pub tokenizer: Option<PathBuf>,
}

impl Corpus {
    /// Opens datasets, and checks that they and the tokenizer agree with the model. Every rank calls it.
    ///
    /// # Errors
    /// Data that is missing, damaged, or not for this model.
    pub fn open(config: &Config, control: &dyn ControlPlane, opener: &Opener) -> Result<Self> {
        let tokenizer = match config.data.prepare {
            Some(_) => Some(prepared_dir(config).join("tokenizer.json")),
            None => config.tokenizer.path.clone(),
        };
        if control.rank() == 0
            && let Some(path) = &tokenizer
        {
            check_vocabulary(config, path)?;
        }
        let (dataset, validation) = open_data(config, control, opener)?;
        Ok(Corpus { dataset, validation, tokenizer })
    }
}

/// Opens what is trained and validated on: rank 0 finds and checks the files, and the others take its word.
///
/// # Errors
/// As [`Dataset::open_known`].
pub fn open_data(
    config: &Config,
    control: &dyn ControlPlane,
    opener: &Opener,
) -> Result<(Dataset, Vec<ValidationData>)> {
    let mut catalogue = Catalogue::new(opener.clone());
    let mine = if control.rank() == 0 { Some(open_known(config, &mut catalogue)?) } else { None };
    let told = control.broadcast(Channel::Step, catalogue.to_bytes()?)?;
    match mine {
        Some(mine) => Ok(mine),
        None => open_known(config, &mut Catalogue::from_bytes(&told, opener.clone())?),
    }
}

fn open_known(config: &Config, catalogue: &mut Catalogue) -> Result<(Dataset, Vec<ValidationData>)> {
    let sources = if catalogue.is_empty() { sources(config)? } else { listed_sources(config) };
    let dataset = Dataset::open_known(&sources, dataset_config(config), catalogue)?;
    let validation = open_validation(config, &dataset, catalogue)?;
    Ok((dataset, validation))
}

fn prepared_dir(config: &Config) -> PathBuf {
    config.run.dir.join("data")
}

/// Builds tokenizer and token file if `data.prepare` asks for it and they are not there yet. A run that has
/// `begun` keeps the data that it began with.
///
/// # Errors
/// As [`data::prepare()`].
pub fn prepare(
    config: &Config,
    folder: &RunFolder,
    logger: &Logger,
    begun: bool,
    progress: data::Progress,
) -> Result<()> {
    let Some(prepare) = &config.data.prepare else { return Ok(()) };
    let prepare = data::Prepare { text: prepare.text.clone(), vocab_size: prepare.vocab_size };
    let dir = prepared_dir(config);
    let when_changed =
        if begun { data::prepare::WhenChanged::Keep } else { data::prepare::WhenChanged::Rebuild };
    let prepared = data::prepare(&prepare, &dir, when_changed, progress)?;
    if let data::Outcome::Built(_) = prepared.outcome {
        share_all(folder, &dir)?;
    }
    logger.line(&describe_prepared(&prepared, prepare.vocab_size));
    Ok(())
}

/// Gives a folder and its files to `run.group`.
fn share_all(folder: &RunFolder, dir: &Path) -> Result<()> {
    let fail = |error: std::io::Error| io_error("read folder", dir, &error);
    folder.access().share(dir)?;
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        folder.access().share(&entry.map_err(fail)?.path())?;
    }
    Ok(())
}

/// The sources of a run, whether they are there or not.
fn listed_sources(config: &Config) -> Vec<data::Source> {
    if config.data.prepare.is_some() {
        let path = prepared_dir(config).join("train").display().to_string();
        return vec![data::Source { path, weight: 1.0, max_epochs: None }];
    }
    let source = |source: &crate::config::Source| data::Source {
        path: source.path.display().to_string(),
        weight: source.weight,
        max_epochs: source.max_epochs,
    };
    config.data.sources.iter().map(source).collect()
}

/// The sources of a run whose data has been prepared.
///
/// # Errors
/// If it has not.
pub fn sources(config: &Config) -> Result<Vec<data::Source>> {
    let prefix = prepared_dir(config).join("train");
    if config.data.prepare.is_some() && !prefix.with_extension("idx").is_file() {
        return Err(Error::input(format!(
            "{}: the data of this run is not prepared; hint: start it with tisserand train",
            prefix.display()
        )));
    }
    Ok(listed_sources(config))
}

/// How datasets are read.
pub fn dataset_config(config: &Config) -> DatasetConfig {
    DatasetConfig {
        seq_len: config.training.seq_len,
        vocab_size: config.model.vocab_size,
        seed: config.run.seed,
        validation_fraction: config.data.validation_fraction,
    }
}

/// Validation sets of their own, then the held-out documents of each source.
fn open_validation(
    config: &Config,
    dataset: &Dataset,
    catalogue: &mut Catalogue,
) -> Result<Vec<ValidationData>> {
    let (seq_len, vocab_size) = (config.training.seq_len, config.model.vocab_size);
    let mut sets = Vec::new();
    for set in &config.data.validation {
        let path = set.path.display().to_string();
        sets.push(ValidationSet::open_known(&set.name, &path, seq_len, vocab_size, catalogue)?);
    }
    sets.extend(dataset.held_out().iter().cloned());
    let shape = batch_shape(config);
    Ok(sets.into_iter().map(|set| ValidationData::new(set, shape, config.eval.max_tokens)).collect())
}

/// Shape of a micro-batch.
pub fn batch_shape(config: &Config) -> BatchShape {
    BatchShape { micro_batch: config.training.micro_batch, document_mask: config.data.document_mask }
}

fn check_vocabulary(config: &Config, path: &Path) -> Result<()> {
    let tokens = Tokenizer::open(path)?.vocab_size();
    let rows = config.model.vocab_size;
    if tokens > rows {
        return Err(Error::input(format!(
            "{}: the tokenizer has {tokens} entries, but model.vocab_size = {rows}; hint: set \
             model.vocab_size = {} or more",
            path.display(),
            tokens.next_multiple_of(128)
        )));
    }
    Ok(())
}

fn describe_prepared(prepared: &data::Prepared, vocab_size: usize) -> String {
    let place = prepared.dataset.display();
    match prepared.outcome {
        data::Outcome::Built(report) => format!(
            "data: {} documents, {} tokens by a new tokenizer of {vocab_size} entries, in {place}",
            units::count(report.documents),
            units::count(report.tokens),
        ),
        data::Outcome::Reused => format!("data: {place}, as built before"),
        data::Outcome::Kept => {
            format!("data: {place}, as this run began with it; the texts have changed since")
        }
    }
}
