// Sums and maxima of lanes, warps, blocks, and chunks of a tensor. Their order is fixed: it depends on the warp's size
// and the block's, never on when threads run.
#pragma once

#include "isa/isa.cuh"

// The sum over groups of LANES neighbouring lanes (a power of two, at most the warp), halves onto halves. Every lane
// gets it, with equal bits: a butterfly adds the same pairs on both sides.
template <u32 LANES>
DEVICE f32 lanes_sum(f32 value SITE) {
    UNROLL for (u32 distance = LANES / 2; distance > 0; distance /= 2) {
        value = value + shuffle_xor(value, distance PASS_SITE);
    }
    return value;
}

// The largest of groups of LANES neighbouring lanes, for every lane; of numbers if there are any beside NaN.
template <u32 LANES>
DEVICE f32 lanes_max(f32 value SITE) {
    UNROLL for (u32 distance = LANES / 2; distance > 0; distance /= 2) {
        value = larger(value, shuffle_xor(value, distance PASS_SITE));
    }
    return value;
}

DEVICE f32 warp_sum(f32 value SITE) { return lanes_sum<WARP>(value PASS_SITE); }
DEVICE f32 warp_max(f32 value SITE) { return lanes_max<WARP>(value PASS_SITE); }

// A place for the values of all warps, each of LEN elements. Its size is that for the smaller kind of warps, so that the
// host need not know the warp: num_threads / 32 · LEN elements.
template <u32 LEN = 1>
DEVICE Shared<f32> take_for_warps(SharedMemory& memory SITE) {
    constexpr u32 SMALLEST_WARP = 32;
    return memory.take<f32>(num_threads() / SMALLEST_WARP * LEN, 16 PASS_SITE);
}

// Gives every thread the values of all warps, one after the other: `visit(value of warp w)`. `of_warps` comes from
// take_for_warps and may be used again at once. Two barriers.
template <class Visit>
DEVICE void for_each_warp(f32 value_of_warp, Shared<f32> of_warps, Visit visit SITE) {
    if (lane_index() == 0) {
        store(of_warps, warp_index(), value_of_warp PASS_SITE);
    }
    block_sync(PASS_SITE_ONLY);
    for (u32 warp = 0; warp < num_warps(); warp++) {
        visit(load(of_warps, warp PASS_SITE));
    }
    block_sync(PASS_SITE_ONLY);
}

// The sum over all threads of the block, for every thread: the tree of each warp, then the warps in order.
DEVICE f32 block_sum(f32 value, Shared<f32> of_warps SITE) {
    f32 sum = 0.0f;
    for_each_warp(warp_sum(value PASS_SITE), of_warps, [&](f32 term) { sum = sum + term; } PASS_SITE);
    return sum;
}

// The largest over all threads of the block, for every thread; of numbers if there are any beside NaN.
DEVICE f32 block_max(f32 value, Shared<f32> of_warps SITE) {
    f32 largest = -infinity();
    for_each_warp(warp_max(value PASS_SITE), of_warps, [&](f32 term) { largest = larger(largest, term); } PASS_SITE);
    return largest;
}

// Sums over chunks of a tensor have the order of the CPU device, hence its bits: in each chunk, 16 interleaved sums, then
// their tree, halves onto halves. A lane of this kernel is one of the 16; a warp reads whole sectors, and its loads are
// in flight in batches, which hides their latency as well as vectors would. It holds for any alignment.
constexpr u32 CHUNK = 1024;
constexpr u32 CHUNK_LANES = 16;

// partials[c] = sum of term(x[i]) over chunk c. A block of n threads takes n / CHUNK_LANES chunks.
template <class Term>
DEVICE void sum_chunks(Global<const f32> x, Global<f32> partials, u64 len, Term term) {
    constexpr u32 BATCH = 16;
    const u64 thread = u64(block_x()) * num_threads() + thread_index();
    const u64 chunk = thread / CHUNK_LANES, lane = thread % CHUNK_LANES, start = chunk * CHUNK;
    f32 sum = 0.0f;
    if (start + CHUNK <= len) {
        for (u64 i = start + lane; i < start + CHUNK; i += BATCH * CHUNK_LANES) {
            f32 values[BATCH];
            UNROLL for (u32 j = 0; j < BATCH; j++) { values[j] = load(x, i + j * CHUNK_LANES); }
            UNROLL for (u32 j = 0; j < BATCH; j++) { sum = sum + term(values[j]); }
        }
    } else {
        for (u64 i = start + lane; i < len; i += CHUNK_LANES) {
            sum = sum + term(load(x, i));
        }
    }
    sum = lanes_sum<CHUNK_LANES>(sum);
    if (lane == 0 && start < len) {
        store(partials, chunk, sum);
    }
}
