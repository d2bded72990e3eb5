//! Validation: the mean loss over the tokens of each validation set.

use crate::data::{BatchShape, MicroBatch, ValidationSet};
use crate::error::Result;
use crate::log::EvalRecord;

/// A validation set and the buffer that its micro-batches pass through.
pub struct ValidationData {
    set: ValidationSet,
    shape: BatchShape,
    max_tokens: u64,
    buffer: MicroBatch,
}

impl ValidationData {
    /// At most `max_tokens` tokens of `set` are read.
    pub fn new(set: ValidationSet, shape: BatchShape, max_tokens: u64) -> Self {
        ValidationData { set, shape, max_tokens, buffer: MicroBatch::default() }
    }

    /// Name of the set.
    pub fn name(&self) -> &str {
        self.set.name()
    }

    /// Mean cross-entropy in nats over all labelled tokens; `losses` gives the sums of cross-entropy and
    /// z-loss over a micro-batch.
    pub fn evaluate(
        &mut self,
        step: u64,
        losses: &mut dyn FnMut(&MicroBatch) -> Result<[f32; 2]>,
    ) -> Result<EvalRecord> {
        let mut reader = self.set.reader(self.shape, self.max_tokens);
        let (mut sum, mut tokens) = (0.0_f64, 0_u64);
        for index in 0..reader.num_batches() {
            reader.read(index, &mut self.buffer)?;
            sum += f64::from(losses(&self.buffer)?[0]);
            tokens += self.buffer.valid_tokens;
        }
        let loss = sum / tokens as f64;
        Ok(EvalRecord { step, name: self.name().to_owned(), loss, perplexity: loss.exp(), tokens })
    }
}
