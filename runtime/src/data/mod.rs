//! From text to the tokens of a step.
//!
//! Text becomes token files once: [`documents`] reads it, [`mod@tokenize`] encodes it, [`token_writer`] writes
//! `.bin` and `.idx`; [`mod@prepare`] does all of it, tokenizer included, for small runs.
//! A run reads them: [`token_file`] over [`index`], which one rank checks for all (`catalogue`); [`dataset`] numbers the samples of every source,
//! [`blend`] and [`permutation`] say which one the i-th sample of the run is, [`step_order`] which samples
//! a step consumes, [`batch`] lays sequences out for the model and [`loader`] does so ahead of time.
//!
//! **Invariant.** The tokens of a step are a pure function of (files, seed, sources, seq_len, global_batch,
//! skip, step): never of ranks, threads or history. The whole state of the data is the step number.

pub mod batch;
pub mod blend;
mod catalogue;
pub mod dataset;
mod document_encoder;
pub mod documents;
pub(crate) mod files;
pub mod index;
pub mod loader;
pub mod permutation;
pub mod prepare;
pub mod progress;
pub mod sequences;
pub mod step_order;
pub mod token_file;
pub mod token_writer;
pub mod tokenize;
pub mod unigram;
pub mod validation;

pub use batch::{BatchShape, IGNORE_LABEL, MicroBatch};
pub use catalogue::Catalogue;
pub use dataset::{Dataset, DatasetConfig, SampleId};
pub use loader::{Loader, LoaderConfig, StepBatch};
pub use prepare::{Outcome, Prepare, Prepared, prepare, train_tokenizer};
pub use progress::Progress;
pub use step_order::{StepOrder, order_hash};
pub use token_file::TokenFile;
pub use token_writer::TokenFileWriter;
pub use tokenize::{Report, tokenize};
pub use unigram::unigram_entropy;
pub use validation::ValidationSet;

/// One training source of a blend.
#[derive(Clone, PartialEq, Debug)]
pub struct Source {
    /// Prefix of a token file (`tok/fr` for `tok/fr.bin` and `tok/fr.idx`), or a glob of prefixes whose
    /// files follow each other in the order of their names.
    pub path: String,
    /// Share of the tokens, relative to the weights of the other sources; positive.
    pub weight: f64,
    /// How many times the source may be seen at most; `None` for any number.
    pub max_epochs: Option<f64>,
}
