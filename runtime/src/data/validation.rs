//! Sequences to evaluate on, in file order.

use super::batch::{BatchShape, MicroBatch};
use super::catalogue::Catalogue;
use super::sequences::{Sequences, Window, open_spans};
use crate::{Error, Result};

/// A named set of documents that is not trained on.
#[derive(Clone, Debug)]
pub struct ValidationSet {
    name: String,
    sequences: Sequences,
}

impl ValidationSet {
    /// Opens the token files of `path`, a prefix or a glob of prefixes.
    ///
    /// # Errors
    /// A file that is missing or damaged; fewer than `seq_len + 1` tokens.
    pub fn open(name: &str, path: &str, seq_len: usize, vocab_size: usize) -> Result<Self> {
        Self::open_known(name, path, seq_len, vocab_size, &mut Catalogue::default())
    }

    /// As [`ValidationSet::open`]: of files that the catalogue has, by its word; others are added to it.
    ///
    /// # Errors
    /// As [`ValidationSet::open`]; a file that is not as the catalogue says.
    pub fn open_known(
        name: &str,
        path: &str,
        seq_len: usize,
        vocab_size: usize,
        catalogue: &mut Catalogue,
    ) -> Result<Self> {
        let sequences = Sequences::new(open_spans(path, catalogue)?, seq_len, vocab_size);
        Self::new(name.into(), sequences)
            .map_err(|error| Error::input(format!("data.validation, path {path}: {error}")))
    }

    pub(crate) fn new(name: String, sequences: Sequences) -> Result<Self> {
        if sequences.is_empty() {
            let (tokens, seq_len) = (sequences.tokens(), sequences.seq_len());
            return Err(Error::input(format!(
                "validation set {name} has {tokens} tokens, fewer than the {} of one sample; \
                 hint: lower training.seq_len = {seq_len}",
                seq_len + 1
            )));
        }
        Ok(ValidationSet { name, sequences })
    }

    /// Its name in logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its samples.
    pub fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    /// A reader of the first `max_tokens` tokens, in whole sequences and at least one.
    pub fn reader(&self, shape: BatchShape, max_tokens: u64) -> ValidationReader<'_> {
        let wanted = (max_tokens / self.sequences.seq_len() as u64).max(1);
        let len = self.sequences.len().min(wanted);
        ValidationReader { sequences: &self.sequences, shape, len, window: Window::default() }
    }
}

/// Reads any micro-batch of a validation set, so that ranks may share them out as they like.
#[derive(Debug)]
pub struct ValidationReader<'a> {
    sequences: &'a Sequences,
    shape: BatchShape,
    len: u64,
    window: Window,
}

impl ValidationReader<'_> {
    /// Number of micro-batches.
    pub fn num_batches(&self) -> u64 {
        self.len.div_ceil(self.shape.micro_batch as u64)
    }

    /// Reads micro-batch `index` into `batch`, whose memory is reused. Sequences that the last one lacks, or
    /// all of one beyond the last, are padding without targets.
    pub fn read(&mut self, index: u64, batch: &mut MicroBatch) -> Result<()> {
        let micro_batch = self.shape.micro_batch as u64;
        batch.clear();
        for sample in index * micro_batch..(index + 1) * micro_batch {
            if sample < self.len {
                self.sequences.read(sample, &mut self.window)?;
                batch.push(&self.window, self.shape.document_mask);
            } else {
                batch.push_padding(self.sequences.seq_len());
            }
        }
        batch.close();
        Ok(())
    }
}
