//! Validation: the mean loss over the tokens of each validation set.

use tisserand_collectives::{Axis, Channel, ControlPlane};

use crate::data::{BatchShape, MicroBatch, ValidationSet};
use crate::error::{Error, Result};
use crate::log::EvalRecord;
use crate::parallel::Sharding;

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

    /// Mean cross-entropy in nats over all labelled tokens, at rank 0; `losses` gives the sums of cross-entropy
    /// and z-loss over a micro-batch. The data-parallel ranks share the micro-batches out; their sums are added
    /// in the order of the micro-batches, so the mesh does not show.
    pub fn evaluate(
        &mut self,
        step: u64,
        sharding: &Sharding,
        control: &dyn ControlPlane,
        losses: &mut dyn FnMut(&MicroBatch) -> Result<[f32; 2]>,
    ) -> Result<Option<EvalRecord>> {
        let mut reader = self.set.reader(self.shape, self.max_tokens);
        let shards = sharding.shards();
        let ranks = (sharding.mesh.dp()) as u64;
        let rank =
            (sharding.coordinate(Axis::DpReplicate) * shards + sharding.coordinate(Axis::DpShard)) as u64;
        // All ranks run equally many micro-batches; those beyond the last are padding.
        let rounds = reader.num_batches().div_ceil(ranks);
        let mut sums = Vec::with_capacity(rounds as usize);
        for round in 0..rounds {
            reader.read(round * ranks + rank, &mut self.buffer)?;
            sums.push((losses(&self.buffer)?[0], self.buffer.valid_tokens));
        }
        let bytes: Vec<u8> = sums
            .iter()
            .flat_map(|(sum, tokens)| [u64::from(sum.to_bits()), *tokens])
            .flat_map(u64::to_le_bytes)
            .collect();
        let Some(gathered) = control.gather(Channel::Step, bytes)? else { return Ok(None) };
        let (sum, tokens) = in_order(&gathered, rounds as usize, sharding)?;
        let loss = sum / tokens as f64;
        Ok(Some(EvalRecord { step, name: self.name().to_owned(), loss, perplexity: loss.exp(), tokens }))
    }
}

/// The sum of all losses and tokens, in the order of the micro-batches. Ranks along `tp` have the same ones.
fn in_order(gathered: &[Vec<u8>], rounds: usize, sharding: &Sharding) -> Result<(f64, u64)> {
    let word = |rank: usize, index: usize| -> Result<u64> {
        let bytes = gathered[rank].get(8 * index..8 * index + 8).and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(u64::from_le_bytes)
            .ok_or_else(|| Error::fault(format!("rank {rank} evaluated less than rank 0")))
    };
    let (mut sum, mut tokens) = (0.0_f64, 0);
    for round in 0..rounds {
        for rank in (0..gathered.len()).step_by(sharding.mesh.size(Axis::Tp)) {
            sum += f64::from(f32::from_bits(word(rank, 2 * round)? as u32));
            tokens += word(rank, 2 * round + 1)?;
        }
    }
    Ok((sum, tokens))
}
