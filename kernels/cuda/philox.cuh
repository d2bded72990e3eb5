// Philox4x32-10, the noise of stochastic rounding, and where the elements of a part of a tensor stand in the whole. The
// definitions, bit for bit, are those of kernels/src/ops/philox.
#pragma once

#include "isa/isa.cuh"

// The random words of one counter.
struct PhiloxWords {
    u32 words[4];
};

struct PhiloxKey {
    u32 low, high;
};

DEVICE PhiloxKey philox_key(u64 seed) { return PhiloxKey{u32(seed), u32(seed >> 32)}; }

DEVICE PhiloxWords philox4x32(u32 c0, u32 c1, u32 c2, u32 c3, PhiloxKey key) {
    constexpr u32 ROUNDS = 10, FACTOR_0 = 0xd2511f53u, FACTOR_1 = 0xcd9e8d57u;
    constexpr u32 GOLDEN_RATIO = 0x9e3779b9u, SQRT_3_MINUS_1 = 0xbb67ae85u;
    // Not all at once: the keys of all rounds, the same for all elements, would fill the registers of a kernel.
    UNROLL_BY(2) for (u32 round = 0; round < ROUNDS; round++) {
        const u32 high_0 = multiply_high(FACTOR_0, c0), low_0 = FACTOR_0 * c0;
        const u32 high_1 = multiply_high(FACTOR_1, c2), low_1 = FACTOR_1 * c2;
        c0 = high_1 ^ c1 ^ key.low;
        c1 = low_1;
        c2 = high_0 ^ c3 ^ key.high;
        c3 = low_0;
        key.low += GOLDEN_RATIO;
        key.high += SQRT_3_MINUS_1;
    }
    return PhiloxWords{{c0, c1, c2, c3}};
}

// The words of block `block` of the tensor with this key.
DEVICE PhiloxWords philox_block(u64 block, u64 tensor_key, PhiloxKey key) {
    return philox4x32(u32(block), u32(block >> 32), u32(tensor_key), u32(tensor_key >> 32), key);
}

// Word i. Comparisons instead of an index: registers have none.
DEVICE u32 word_of(PhiloxWords block, u32 i) {
    const u32 low = i & 1 ? block.words[1] : block.words[0];
    const u32 high = i & 1 ? block.words[3] : block.words[2];
    return i & 2 ? high : low;
}

// Elements that share one counter of normal numbers, and of rounding noise.
constexpr u32 NORMALS_PER_BLOCK = 4;
constexpr u32 NOISES_PER_BLOCK = 8;

// What rounding noise is for.
enum class RoundingStream : u32 { MASTER = 0, FIRST_MOMENT = 1, SECOND_MOMENT = 2 };

// The key of the rounding noise of one step.
DEVICE PhiloxKey rounding_key(PhiloxKey seed, u32 step, RoundingStream stream) {
    // No tensor has this key, so the counter is none of those of normal numbers.
    const PhiloxWords block = philox4x32(step, u32(stream), ~0u, ~0u, seed);
    return PhiloxKey{block.words[0], block.words[1]};
}

// The 16 random bits of noise i of a block.
DEVICE u32 noise_of(PhiloxWords block, u32 i) { return word_of(block, i / 2) >> (16 * (i % 2)) & 0xffffu; }

// The value rounded to bf16, up in magnitude with the probability that makes the mean exact; NaN stays NaN.
DEVICE bf16 round_stochastic(f32 value, u32 noise) {
    const u32 bits = bits_of(value);
    const bool is_a_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return bf16{u16(is_a_nan ? (bits >> 16) | 0x40u : (bits + noise) >> 16)};
}

// Indices in the whole tensor of the elements of a part: element (row, c) of the part has the index
// row_start + row · row_stride + c, where rows of the part have `row_len` elements and its element 0 is at `column`.
struct GlobalIndex {
    u64 row_start, column, row_len, row_stride;

    // A part of one row: a range of the whole.
    METHOD bool is_range() const { return row_len == ~u64(0); }

    // Whether element i of the part has an index that n divides, and shares its row with the next n - 1, for every i
    // that n divides.
    METHOD bool keeps_groups_of(u32 n) const {
        if (is_range()) {
            return (row_start + column) % n == 0;
        }
        return row_start % n == 0 && column % n == 0 && row_len % n == 0 && row_stride % n == 0;
    }

    // The index of element i. Ranges, the usual case, need no division.
    METHOD u64 at(u64 i) const {
        const u64 from_start = column + i;
        if (is_range()) {
            return row_start + from_start;
        }
        return row_start + from_start / row_len * row_stride + from_start % row_len;
    }
};
