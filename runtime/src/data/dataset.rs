//! The samples of a run: a blend of sources, each shuffled anew in every epoch.

use super::Source;
use super::blend::Blend;
use super::catalogue::Catalogue;
use super::permutation::Permutation;
use super::sequences::{Sequences, Window, open_spans, split_last_documents};
use super::validation::ValidationSet;
use crate::{Error, Result};

/// What the samples of a run depend on beside the files.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DatasetConfig {
    /// Tokens of a sample.
    pub seq_len: usize,
    /// Ids are below this number.
    pub vocab_size: usize,
    /// The run's seed: keys the shuffles.
    pub seed: u64,
    /// Share of the tokens of each source that is kept from training: its last documents. 0 for none.
    pub validation_fraction: f64,
}

/// One sample, by name: everything that the order of the data consists of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SampleId {
    /// Index of the source.
    pub source: usize,
    /// How many times the source was seen completely before.
    pub epoch: u64,
    /// Sample of the source, in file order.
    pub sample: u64,
}

#[derive(Debug)]
struct TrainingSource {
    path: String,
    max_epochs: Option<f64>,
    sequences: Sequences,
}

/// The training data of a run. Holds open files and mapped indices, no tokens; shared by threads.
#[derive(Debug)]
pub struct Dataset {
    sources: Vec<TrainingSource>,
    held_out: Vec<ValidationSet>,
    blend: Blend,
    config: DatasetConfig,
}

impl Dataset {
    /// Opens all files of all sources.
    ///
    /// # Errors
    /// A file that is missing or damaged, a bad weight, a source or held-out part without a whole sample.
    pub fn open(sources: &[Source], config: DatasetConfig) -> Result<Self> {
        Self::open_known(sources, config, &mut Catalogue::default())
    }

    /// As [`Dataset::open`]: of files that the catalogue has, by its word; others are added to it.
    ///
    /// # Errors
    /// As [`Dataset::open`]; a file that is not as the catalogue says.
    pub fn open_known(sources: &[Source], config: DatasetConfig, catalogue: &mut Catalogue) -> Result<Self> {
        check(&config)?;
        let weights: Vec<f64> = sources.iter().map(|source| source.weight).collect();
        let blend = Blend::new(&weights)?;
        let mut dataset = Dataset { sources: Vec::new(), held_out: Vec::new(), blend, config };
        for (i, source) in sources.iter().enumerate() {
            if let Some(epochs) = source.max_epochs.filter(|epochs| epochs.is_nan() || *epochs <= 0.0) {
                let key = format!("data.sources[{i}].max_epochs");
                return Err(Error::input(format!("{key} = {epochs} is not a positive number")));
            }
            dataset.open_source(source, catalogue)?;
        }
        Ok(dataset)
    }

    /// "held-out"; with several sources the others are told apart by their numbers.
    fn held_out_name(&self) -> String {
        match self.held_out.len() {
            0 => "held-out".to_owned(),
            count => format!("held-out-{}", count + 1),
        }
    }

    fn open_source(&mut self, source: &Source, catalogue: &mut Catalogue) -> Result<()> {
        let DatasetConfig { seq_len, vocab_size, validation_fraction: fraction, .. } = self.config;
        let mut spans = open_spans(&source.path, catalogue)?;
        if fraction > 0.0 {
            let (training, held_out) = split_last_documents(spans, fraction, &source.path)?;
            let sequences = Sequences::new(held_out, seq_len, vocab_size);
            let name = self.held_out_name();
            self.held_out.push(
                ValidationSet::new(name, sequences).map_err(|error| {
                    Error::input(format!("data.validation_fraction = {fraction}: {error}"))
                })?,
            );
            spans = training;
        }
        let sequences = Sequences::new(spans, seq_len, vocab_size);
        if sequences.is_empty() {
            let (path, tokens) = (&source.path, sequences.tokens());
            return Err(Error::input(format!(
                "{path}: {tokens} tokens to train on, fewer than the {} of one sample; \
                 hint: lower training.seq_len = {seq_len}",
                seq_len + 1
            )));
        }
        let (path, max_epochs) = (source.path.clone(), source.max_epochs);
        self.sources.push(TrainingSource { path, max_epochs, sequences });
        Ok(())
    }

    /// What the samples depend on.
    pub fn config(&self) -> &DatasetConfig {
        &self.config
    }

    /// Number of sources.
    pub fn num_sources(&self) -> usize {
        self.sources.len()
    }

    /// The path of a source, as given.
    pub fn source_path(&self, source: usize) -> &str {
        &self.sources[source].path
    }

    /// The samples of a source, in file order.
    pub fn sequences(&self, source: usize) -> &Sequences {
        &self.sources[source].sequences
    }

    /// The share of the samples that come from a source.
    pub fn share(&self, source: usize) -> f64 {
        self.blend.share(source)
    }

    /// The documents kept from training, one set per source; none when `validation_fraction` is 0.
    pub fn held_out(&self) -> &[ValidationSet] {
        &self.held_out
    }

    /// How many times a source is seen in the first `samples` samples of the run.
    pub fn epochs(&self, source: usize, samples: u64) -> f64 {
        self.blend.count(source, samples) as f64 / self.sources[source].sequences.len() as f64
    }

    /// Checks that a run of `samples` samples sees no source more often than allowed.
    ///
    /// # Errors
    /// Names the first source that would be exhausted.
    pub fn check_epochs(&self, samples: u64) -> Result<()> {
        for (i, source) in self.sources.iter().enumerate() {
            let (needed, epochs) = (self.blend.count(i, samples), self.epochs(i, samples));
            let Some(max_epochs) = source.max_epochs.filter(|max| epochs > *max) else { continue };
            let (path, per_epoch) = (&source.path, source.sequences.len());
            return Err(Error::input(format!(
                "data source {path} gives {per_epoch} samples per epoch; the run needs {needed} \
                 ({epochs:.2} epochs) but max_epochs = {max_epochs}; hint: train on fewer tokens, lower its \
                 weight or raise max_epochs"
            )));
        }
        Ok(())
    }

    /// Which sample is the `index`-th of the run.
    pub fn sample(&self, index: u64) -> SampleId {
        let (source, index) = self.blend.locate(index);
        let len = self.sources[source].sequences.len();
        let epoch = index / len;
        let shuffle = Permutation::new(len, [self.config.seed, source as u64, epoch]);
        SampleId { source, epoch, sample: shuffle.apply(index % len) }
    }

    /// Reads a sample.
    pub(crate) fn read(&self, id: SampleId, window: &mut Window) -> Result<()> {
        self.sources[id.source].sequences.read(id.sample, window)
    }
}

fn check(config: &DatasetConfig) -> Result<()> {
    let DatasetConfig { seq_len, vocab_size, validation_fraction: fraction, .. } = *config;
    if seq_len == 0 || seq_len >= i32::MAX as usize {
        return Err(Error::input(format!("training.seq_len = {seq_len} is not in 1..2^31 - 1")));
    }
    if vocab_size == 0 || vocab_size > i32::MAX as usize {
        return Err(Error::input(format!("model.vocab_size = {vocab_size} is not in 1..2^31")));
    }
    if !(0.0..1.0).contains(&fraction) {
        return Err(Error::input(format!("data.validation_fraction = {fraction} is not in [0, 1)")));
    }
    Ok(())
}
