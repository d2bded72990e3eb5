//! Philox on the host: adjacent counters side by side in the lanes of vector registers.

use rayon::prelude::*;

use super::{Cpu, vectorize};
use crate::ops::CHUNK;
use crate::ops::philox::{
    NOISES_PER_BLOCK, NORMALS_PER_BLOCK, NormalParams, PhiloxKernels, normal_from_word, philox4x32, words,
};
use crate::{Result, TensorMut};

impl PhiloxKernels for Cpu {
    fn philox_normal(&self, params: &NormalParams, out: TensorMut<'_, Self>) -> Result<()> {
        let out = out.into_slice::<f32>();
        self.run(|| {
            out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
                let index = params.index.advance(chunk * CHUNK);
                vectorize!(normal(NormalParams { index, ..*params }, out));
            });
        });
        Ok(())
    }
}

/// At most [`CHUNK`] normal numbers.
#[inline(always)]
fn normal(params: NormalParams, mut out: &mut [f32]) {
    let NormalParams { seed, tensor_key, mut index, std, mean } = params;
    // One block more than a chunk has, since the first element may stand inside a block.
    let mut blocks = [[0; WORDS_PER_BLOCK]; CHUNK / WORDS_PER_BLOCK + 1];
    while !out.is_empty() {
        let (first_index, len) = index.next_run(out.len());
        let (run, rest) = out.split_at_mut(len);
        let skipped = (first_index % NORMALS_PER_BLOCK) as usize;
        let used = (skipped + len).div_ceil(WORDS_PER_BLOCK);
        fill_blocks(words(seed), tensor_key, first_index / NORMALS_PER_BLOCK, &mut blocks[..used]);
        for (out, word) in run.iter_mut().zip(&blocks.as_flattened()[skipped..]) {
            *out = normal_from_word(*word).mul_add(std, mean);
        }
        out = rest;
    }
}

/// Words of one counter.
const WORDS_PER_BLOCK: usize = 4;

/// Noises of one counter: the halves of its words.
const NOISES: usize = 2 * WORDS_PER_BLOCK;

/// Rounding noise of up to [`CHUNK`] adjacent elements.
pub(super) struct RoundingNoise {
    noise: [[u16; NOISES]; CHUNK / NOISES + 1],
    skipped: usize,
}

impl RoundingNoise {
    /// No noise yet.
    #[inline(always)]
    pub(super) fn new() -> Self {
        RoundingNoise { noise: [[0; NOISES]; CHUNK / NOISES + 1], skipped: 0 }
    }

    /// The noise of `len` elements from global index `first_index`: see
    /// [`rounding_noise`](crate::ops::philox::rounding_noise).
    #[inline(always)]
    pub(super) fn refill(&mut self, key: [u32; 2], tensor_key: u64, first_index: u64, len: usize) {
        self.skipped = (first_index % NOISES_PER_BLOCK) as usize;
        let used = (self.skipped + len).div_ceil(NOISES);
        let mut blocks = [[0; WORDS_PER_BLOCK]; CHUNK / NOISES + 1];
        fill_blocks(key, tensor_key, first_index / NOISES_PER_BLOCK, &mut blocks[..used]);
        let halves = self.noise.as_flattened_mut().as_chunks_mut::<2>().0;
        for (halves, word) in halves.iter_mut().zip(blocks[..used].as_flattened()) {
            *halves = [*word as u16, (*word >> 16) as u16];
        }
    }

    /// The noise of the `len` elements of the last refill.
    #[inline(always)]
    pub(super) fn elements(&self, len: usize) -> &[u16] {
        &self.noise.as_flattened()[self.skipped..self.skipped + len]
    }
}

/// `blocks[i]` = the words of block `first_block + i`. One loop over blocks with all rounds inside, which
/// the compiler turns into one block per vector lane.
#[inline(always)]
fn fill_blocks(key: [u32; 2], tensor_key: u64, first_block: u64, blocks: &mut [[u32; WORDS_PER_BLOCK]]) {
    let [first_low, first_high] = words(first_block);
    let [key_low, key_high] = words(tensor_key);
    for (i, block) in blocks.iter_mut().enumerate() {
        // The 64-bit sum by words of 32 bits, as wide as the lanes of everything else here.
        let low = first_low.wrapping_add(i as u32);
        let high = first_high.wrapping_add(u32::from(low < first_low));
        *block = philox4x32([low, high, key_low, key_high], key);
    }
}
