// What the two kernels of the backward pass on tensor cores share. A block has some rows of its own, queries or keys, and
// walks over the others that these see; probabilities and their gradients are computed again in both. Own rows are the
// rows of the fragments, so both are left operands of the products that follow without leaving the registers.
//
// All terms of a row are added in the warp that owns it, block after block: the order is that of the rows, and no block
// adds to what another one has written.
#pragma once

#include "attention_tile.cuh"
#include "attention_visible.cuh"

template <u32 D>
struct BackwardGeometry {
    static constexpr u32 THREADS = 256;
    static constexpr u32 SPLIT = D <= 128 ? 1 : 2;  // warps that share 16 own rows, each with its columns of the results
    static constexpr u32 WIDTH = D / SPLIT;
    static constexpr u32 ROWS = THREADS / WARP / SPLIT * FRAGMENT;
    static constexpr u32 OTHERS = D <= 128 ? 64 : 32;
    static constexpr u32 STAGES = 2;  // one arrives while the other one is used

    using Sums = f32[1][WIDTH / HALF][4];  // a warp's part of a result
};

// A warp's own rows by N others, and the same as a left operand.
template <u32 N>
using Block = f32[1][N / HALF][4];
template <u32 N>
using LeftBlock = u32[1][N / FRAGMENT][4];

// One tensor's rows of the block, and two stages of the other rows that it is multiplied with.
template <u32 D>
struct BackwardTiles {
    using Geometry = BackwardGeometry<D>;
    Shared<bf16> own, others;

    METHOD BackwardTiles(SharedMemory& memory)
        : own(memory.take<bf16>(Geometry::ROWS * Tile<D>::STRIDE)),
          others(memory.take<bf16>(Geometry::STAGES * Geometry::OTHERS * Tile<D>::STRIDE)) {}

    METHOD void load_own(Global<const bf16> x, u32 first, u32 tokens, u32 row_len, u32 head, u32 head_dim) const {
        Tile<D>::template load<Geometry::ROWS, Geometry::THREADS>(own, x, first, tokens, row_len, head, head_dim);
    }
    METHOD Shared<bf16> at(u32 stage) const { return from(others, i32(stage * Geometry::OTHERS * Tile<D>::STRIDE)); }
    METHOD void load_others(u32 stage, Global<const bf16> x, u32 first, u32 tokens, u32 row_len, u32 head,
                            u32 head_dim) const {
        Tile<D>::template load<Geometry::OTHERS, Geometry::THREADS>(at(stage), x, first, tokens, row_len, head,
                                                                    head_dim);
    }
};

// logsumexp for powers of two: the probability is exp2(log2_scale · logit - log2_sum). Infinity for a row without keys, so
// that all of its probabilities are 0.
DEVICE f32 log2_sum_of(f32 logsumexp) { return logsumexp == -infinity() ? infinity() : logsumexp * LOG2_OF_E; }

template <u32 W>
DEVICE void clear(f32 (&sums)[1][W][4]) {
    UNROLL for (u32 w = 0; w < W; w++) {
        UNROLL for (u32 i = 0; i < 4; i++) { sums[0][w][i] = 0.0f; }
    }
}

// This warp's first own row in the tiles, and its first column of the results.
template <u32 D>
DEVICE u32 own_row() {
    return warp_index() / BackwardGeometry<D>::SPLIT * FRAGMENT;
}
template <u32 D>
DEVICE u32 own_column() {
    return warp_index() % BackwardGeometry<D>::SPLIT * BackwardGeometry<D>::WIDTH;
}
