//! Philox on the host: blocks of adjacent counters side by side in the lanes of vector registers.

use rayon::prelude::*;

use super::{Cpu, vectorized_fn};
use crate::ops::CHUNK;
use crate::ops::philox::{
    NOISES_PER_BLOCK, NORMALS_PER_BLOCK, NormalParams, PhiloxKernels, ROUNDS, counter, normal_from_word,
    philox_round, round_key, words,
};
use crate::{Result, TensorMut};

/// Counters computed at once.
const BLOCKS: usize = 16;

/// Random words made at once.
const BATCH_WORDS: usize = 4 * BLOCKS;

impl PhiloxKernels for Cpu {
    fn philox_normal(&self, params: &NormalParams, out: TensorMut<'_, Self>) -> Result<()> {
        let out = out.into_slice::<f32>();
        self.run(|| {
            out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
                let first_index = params.first_index + (chunk * CHUNK) as u64;
                normal(NormalParams { first_index, ..*params }, out);
            });
        });
        Ok(())
    }
}

vectorized_fn! {
    /// At most [`CHUNK`] normal numbers.
    fn normal<'a>(params: NormalParams, out: &'a mut [f32]) {
        let NormalParams { seed, tensor_key, first_index, std, mean } = params;
        // Room for one batch more than a chunk, since the first element may stand inside a block.
        let mut random = [0; CHUNK + BATCH_WORDS];
        let skipped = (first_index % NORMALS_PER_BLOCK) as usize;
        let used = (skipped + out.len()).next_multiple_of(BATCH_WORDS);
        let mut block = first_index / NORMALS_PER_BLOCK;
        for batch in random[..used].chunks_exact_mut(BATCH_WORDS) {
            let columns = random_words(words(seed), tensor_key, block);
            for (lane, words) in batch.chunks_exact_mut(4).enumerate() {
                for (word, column) in words.iter_mut().zip(&columns) {
                    *word = column[lane];
                }
            }
            block = block.wrapping_add(BLOCKS as u64);
        }
        for (out, word) in out.iter_mut().zip(&random[skipped..]) {
            *out = normal_from_word(*word).mul_add(std, mean);
        }
    }
}

/// Elements whose noise one batch holds.
const BATCH_NOISES: usize = 2 * BATCH_WORDS;

/// Rounding noise of up to [`CHUNK`] adjacent elements.
pub(super) struct RoundingNoise {
    noise: [u16; CHUNK + BATCH_NOISES],
    skipped: usize,
}

impl RoundingNoise {
    /// No noise yet.
    #[inline(always)]
    pub(super) fn new() -> Self {
        RoundingNoise { noise: [0; CHUNK + BATCH_NOISES], skipped: 0 }
    }

    /// The noise of `len` elements from global index `first_index`: see
    /// [`rounding_noise`](crate::ops::philox::rounding_noise).
    #[inline(always)]
    pub(super) fn refill(&mut self, key: [u32; 2], tensor_key: u64, first_index: u64, len: usize) {
        self.skipped = (first_index % NOISES_PER_BLOCK) as usize;
        let used = (self.skipped + len).next_multiple_of(BATCH_NOISES);
        let mut block = first_index / NOISES_PER_BLOCK;
        for batch in self.noise[..used].chunks_exact_mut(BATCH_NOISES) {
            let columns = random_words(key, tensor_key, block);
            for (lane, halves) in batch.chunks_exact_mut(8).enumerate() {
                for (pair, column) in halves.chunks_exact_mut(2).zip(&columns) {
                    pair[0] = column[lane] as u16;
                    pair[1] = (column[lane] >> 16) as u16;
                }
            }
            block = block.wrapping_add(BLOCKS as u64);
        }
    }

    /// The noise of the `len` elements of the last refill.
    #[inline(always)]
    pub(super) fn elements(&self, len: usize) -> &[u16] {
        &self.noise[self.skipped..self.skipped + len]
    }
}

/// `[w][b]` = word w of the block `first_block + b`.
#[inline(always)]
fn random_words(key: [u32; 2], tensor_key: u64, first_block: u64) -> [[u32; BLOCKS]; 4] {
    let mut columns = [[0; BLOCKS]; 4];
    for lane in 0..BLOCKS {
        let start = counter(first_block.wrapping_add(lane as u64), tensor_key);
        for (column, word) in columns.iter_mut().zip(start) {
            column[lane] = word;
        }
    }
    for round in 0..ROUNDS {
        let key = round_key(key, round);
        let [mut c0, mut c1, mut c2, mut c3] = columns;
        for lane in 0..BLOCKS {
            [c0[lane], c1[lane], c2[lane], c3[lane]] =
                philox_round([c0[lane], c1[lane], c2[lane], c3[lane]], key);
        }
        columns = [c0, c1, c2, c3];
    }
    columns
}
