//! Random numbers as pure functions of (seed, tensor, global element index): initial weights and rounding
//! noise are the same on any number of ranks, in whatever slices they are made.
//!
//! The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2,
//! 3", SC 2011): a bijection of 128-bit counters for each 64-bit key, four 32-bit words per counter. Words
//! of 64-bit values stand low word first.
//!
//! - Normal numbers: key = seed, counter = (index / 4, tensor key), word index % 4 ([`normal_at`]).
//! - Rounding noise: key = [`rounding_key`] of (seed, step, stream), counter = (index / 8, tensor key); the
//!   eight 16-bit halves of a block belong to eight adjacent elements ([`rounding_noise`]).

mod global_index;

pub use global_index::GlobalIndex;

use half::bf16;

use crate::{Context, Cost, DType, Device, KernelError, Result, Storage, TensorMut, math};

/// Elements that share one counter of normal numbers.
pub const NORMALS_PER_BLOCK: u64 = 4;

/// Elements that share one counter of rounding noise.
pub const NOISES_PER_BLOCK: u64 = 8;

/// The random words of one counter under one key.
#[inline(always)]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const ROUNDS: u32 = 10;
    let mut counter = counter;
    for round in 0..ROUNDS {
        counter = philox_round(counter, round_key(key, round));
    }
    counter
}

/// The key of round `round`: two Weyl sequences.
#[inline(always)]
fn round_key(key: [u32; 2], round: u32) -> [u32; 2] {
    const GOLDEN_RATIO: u32 = 0x9e37_79b9;
    const SQRT_3_MINUS_1: u32 = 0xbb67_ae85;
    [
        key[0].wrapping_add(GOLDEN_RATIO.wrapping_mul(round)),
        key[1].wrapping_add(SQRT_3_MINUS_1.wrapping_mul(round)),
    ]
}

/// One round: two 32 × 32 -> 64 bit products.
#[inline(always)]
fn philox_round(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let product_0 = 0xd251_1f53 * u64::from(counter[0]);
    let product_1 = 0xcd9e_8d57 * u64::from(counter[2]);
    let (high_0, high_1) = ((product_0 >> 32) as u32, (product_1 >> 32) as u32);
    [high_1 ^ counter[1] ^ key[0], product_1 as u32, high_0 ^ counter[3] ^ key[1], product_0 as u32]
}

/// The counter of `block` of the tensor with this key.
fn counter(block: u64, tensor_key: u64) -> [u32; 4] {
    let ([block_low, block_high], [key_low, key_high]) = (words(block), words(tensor_key));
    [block_low, block_high, key_low, key_high]
}

/// Low and high word.
#[inline(always)]
pub(crate) fn words(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// The key of a tensor: FNV-1a of 64 bits over the bytes of its name (draft-eastlake-fnv). It must never
/// change, since initial weights and resumed runs depend on it.
pub fn tensor_key(name: &str) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    name.bytes().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// The standard normal number of element `index` of a tensor: the definition that devices reproduce bit
/// for bit.
pub fn normal_at(seed: u64, tensor_key: u64, index: u64) -> f32 {
    let block = philox4x32(counter(index / NORMALS_PER_BLOCK, tensor_key), words(seed));
    normal_from_word(block[(index % NORMALS_PER_BLOCK) as usize])
}

/// A standard normal number from 32 random bits: the lowest is the sign, the others the probability
/// `(k + 1/2) / 2^32` of the tail beyond it. Both tails reach 6.3 (probability 2^-33) and are symmetric.
#[inline(always)]
pub(crate) fn normal_from_word(word: u32) -> f32 {
    const TWO_TO_MINUS_32: f32 = 1.0 / 4_294_967_296.0;
    let tail = ((word >> 1) as i32 as f32 + 0.5) * TWO_TO_MINUS_32;
    let negative = math::inverse_normal(tail);
    f32::from_bits(negative.to_bits() ^ (word << 31))
}

/// What rounding noise is for. Streams are independent, so that the roundings of one element are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoundingStream {
    /// Master weights.
    Master = 0,
    /// First moments.
    FirstMoment = 1,
    /// Second moments.
    SecondMoment = 2,
}

/// The key of the rounding noise of one step: the first two words of the block of (step, stream).
pub fn rounding_key(seed: u64, step: u32, stream: RoundingStream) -> [u32; 2] {
    // No tensor has this key, so the counter is none of those of normal numbers.
    let [low, high] = words(u64::MAX);
    let block = philox4x32([step, stream as u32, low, high], words(seed));
    [block[0], block[1]]
}

/// The 16 random bits that round element `index` of a tensor: half `index % 2` (low first) of word
/// `index % 8 / 2`.
pub fn rounding_noise(rounding_key: [u32; 2], tensor_key: u64, index: u64) -> u16 {
    let block = philox4x32(counter(index / NOISES_PER_BLOCK, tensor_key), rounding_key);
    let half = (index % NOISES_PER_BLOCK) as usize;
    (block[half / 2] >> (16 * (half % 2))) as u16
}

/// `value` rounded up in magnitude with the probability that makes the mean exact, given 16 random bits:
/// `noise` is added below the last kept bit and the rest is cut. What bf16 holds exactly, infinities
/// included, is kept; NaN stays NaN.
#[inline(always)]
pub fn round_stochastic(value: f32, noise: u16) -> bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(u32::from(noise)) >> 16;
    let quiet_nan = (bits >> 16) | 0x40;
    let is_nan = (bits & 0x7fff_ffff) > 0x7f80_0000;
    bf16::from_bits(if is_nan { quiet_nan } else { rounded } as u16)
}

/// Which normal numbers to write.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct NormalParams {
    /// Seed of the run.
    pub seed: u64,
    /// [`tensor_key`] of the tensor's name.
    pub tensor_key: u64,
    /// Where the elements written stand in the whole tensor.
    pub index: GlobalIndex,
    /// Standard deviation; 0 writes the mean.
    pub std: f32,
    /// Mean.
    pub mean: f32,
}

/// Device side of this family. Arguments have been checked by the functions below.
pub trait PhiloxKernels: Storage {
    /// See [`normal`].
    fn philox_normal(&self, params: &NormalParams, out: TensorMut<'_, Self>) -> Result<()>;
}

/// `out[i] = mean + std · normal_at(seed, tensor_key, index.at(i))`, one fused multiply-add: an element has
/// the same bits in whatever part of the tensor it is written.
///
/// Shapes: `out` `[n]` f32. Errors: a standard deviation or mean that is not finite or a negative one, an
/// index beyond 2^64.
pub fn normal<D: Device>(ctx: &Context<D>, params: &NormalParams, out: TensorMut<'_, D>) -> Result<()> {
    const OP: &str = "philox::normal";
    // Two polynomials, a logarithm, a square root: counted once, whatever the branch taken.
    const FLOPS_PER_ELEMENT: u64 = 72;
    let [len] = out.dims(OP, "out")?;
    out.expect_dtype(OP, "out", DType::F32)?;
    let NormalParams { std, mean, index, .. } = *params;
    if !(std.is_finite() && std >= 0.0 && mean.is_finite()) {
        let message = format!("std = {std}, mean = {mean}; both must be finite and std not negative");
        return Err(KernelError::Parameter { op: OP, message });
    }
    index.check(OP, len)?;
    let cost = Cost { op: OP, flops: FLOPS_PER_ELEMENT * len as u64, bytes: 4 * len as u64 };
    ctx.device.record(cost);
    ctx.device.philox_normal(params, out)
}

/// The definition with an f64 inverse of the normal distribution.
pub mod reference {
    use super::{NORMALS_PER_BLOCK, counter, philox4x32, words};
    use crate::math;

    /// The standard normal number of element `index`.
    pub fn normal_at(seed: u64, tensor_key: u64, index: u64) -> f64 {
        let block = philox4x32(counter(index / NORMALS_PER_BLOCK, tensor_key), words(seed));
        let word = block[(index % NORMALS_PER_BLOCK) as usize];
        let tail = (f64::from(word >> 1) + 0.5) / 2.0_f64.powi(32);
        let negative = math::reference::inverse_normal(tail);
        if word.is_multiple_of(2) { negative } else { -negative }
    }
}
