// Tiles of bf16 in shared memory and the products of their fragments (maps: isa/matrix.cuh).
//
// A tile is row-major; a row has 8 elements more than it needs, so that it is an odd number of 16 bytes and eight rows
// lie in different banks: neither fragments nor copies meet conflicts, and all addresses of a thread differ from its first
// one by constants.
#pragma once

#include "isa/isa.cuh"

constexpr f32 LOG2_OF_E = 1.44269504f;

constexpr u32 FRAGMENT = 16;  // rows and columns of a left operand
constexpr u32 HALF = 8;       // columns of a right operand, and of a sum
constexpr u32 CHUNK = 8;      // elements of 16 bytes

// How many loads of right operands a warp is ahead of their products, of which there are 2 M for each: a load takes as long
// as some four. ptxas keeps this order on sm_90.
template <u32 M>
constexpr u32 LOADS_AHEAD = M == 1 ? 2 : 1;

template <u32 D>
struct Tile {
    static constexpr u32 STRIDE = D + CHUNK;
    static constexpr u32 CHUNKS = D / CHUNK;

    // Copies rows first … of x, [tokens, row_len], in the background: `head_dim` elements from `head` on. Rows beyond the
    // last token and columns beyond the head's become zero: they enter products.
    template <u32 ROWS, u32 THREADS>
    static METHOD void load(Shared<bf16> tile, Global<const bf16> x, u32 first, u32 tokens, u32 row_len, u32 head,
                            u32 head_dim) {
        if constexpr (THREADS % CHUNKS == 0) {
            // A thread's chunks lie in one column, at equal distances.
            constexpr u32 STEP = THREADS / CHUNKS;
            static_assert(ROWS % STEP == 0, "every thread has as many chunks");
            const u32 row = thread_index() / CHUNKS, column = thread_index() % CHUNKS * CHUNK;
            const i32 left = column < head_dim ? i32(tokens) - i32(first + row) : 0;
            const u64 start = u64(first + row) * row_len + (head + column);
            UNROLL for (u32 n = 0; n < ROWS / STEP; n++) {
                const u32 bytes = i32(n * STEP) < left ? CHUNK * sizeof(bf16) : 0;
                copy_async(tile, (n * STEP + row) * STRIDE + column, x, start + u64(n * STEP) * row_len, bytes);
            }
        } else {
            for (u32 i = thread_index(); i < ROWS * CHUNKS; i += THREADS) {
                const u32 row = i / CHUNKS, column = i % CHUNKS * CHUNK;
                const u32 bytes = first + row < tokens && column < head_dim ? CHUNK * sizeof(bf16) : 0;
                copy_async(tile, row * STRIDE + column, x, u64(first + row) * row_len + (head + column), bytes);
            }
        }
    }

    // Fragment of a left operand: 16 rows from `row`, 16 columns from `column`.
    static METHOD void left(u32 (&a)[4], Shared<bf16> tile, u32 row, u32 column) {
        const u32 lane = lane_index();
        load_matrices(a, tile, lane % 16 * STRIDE + lane / 16 * HALF + (row * STRIDE + column));
    }

    // Two fragments of a right operand that is the tile's transpose: columns are its 16 rows from `row`, and 16 columns
    // from `column` are summed over.
    static METHOD void right_transposed(u32 (&b)[2][2], Shared<bf16> tile, u32 row, u32 column) {
        const u32 lane = lane_index();
        u32 r[4];
        load_matrices(r, tile, (lane / 16 * HALF + lane % 8) * STRIDE + lane / 8 % 2 * HALF + (row * STRIDE + column));
        b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
    }

    // Two fragments of a right operand that is the tile itself: its 16 rows from `row` are summed over.
    static METHOD void right(u32 (&b)[2][2], Shared<bf16> tile, u32 row, u32 column) {
        const u32 lane = lane_index();
        u32 r[4];
        load_matrices_transposed(r, tile, lane % 16 * STRIDE + lane / 16 * HALF + (row * STRIDE + column));
        b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
    }

    // sums = x yᵀ, x being M · 16 rows from `x_row`, y being N · 8 rows from 0.
    template <u32 M, u32 N>
    static METHOD void multiply_transposed(f32 (&sums)[M][N][4], Shared<bf16> x, u32 x_row, Shared<bf16> y) {
        UNROLL for (u32 m = 0; m < M; m++) {
            UNROLL for (u32 n = 0; n < N; n++) {
                UNROLL for (u32 i = 0; i < 4; i++) { sums[m][n][i] = 0.0f; }
            }
        }
        constexpr u32 PAIRS = N / 2, STEPS = D / FRAGMENT, AHEAD = LOADS_AHEAD<M>, RING = AHEAD + 1;
        u32 a[2][M][4], b[RING][2][2];
        const auto load_left = [&](u32 step) {
            UNROLL for (u32 m = 0; m < M; m++) { left(a[step % 2][m], x, x_row + m * FRAGMENT, step * FRAGMENT); }
        };
        load_left(0);
        UNROLL for (u32 i = 0; i < AHEAD; i++) { right_transposed(b[i], y, i * FRAGMENT, 0); }
        UNROLL for (u32 step = 0; step < STEPS; step++) {
            UNROLL for (u32 pair = 0; pair < PAIRS; pair++) {
                const u32 i = step * PAIRS + pair, next = i + AHEAD;
                if (pair + AHEAD == PAIRS && step + 1 < STEPS) {
                    load_left(step + 1);
                }
                if (next < STEPS * PAIRS) {
                    right_transposed(b[next % RING], y, next % PAIRS * FRAGMENT, next / PAIRS * FRAGMENT);
                }
                UNROLL for (u32 m = 0; m < M; m++) {
                    multiply_add(sums[m][2 * pair], a[step % 2][m], b[i % RING][0]);
                    multiply_add(sums[m][2 * pair + 1], a[step % 2][m], b[i % RING][1]);
                }
            }
        }
    }

    // sums += x y, where x is M · 16 rows, rounded from registers by as_left, and y is the K · 16 rows of the tile, W · 8
    // columns from `column`.
    template <u32 M, u32 K, u32 W>
    static METHOD void multiply(f32 (&sums)[M][W][4], const u32 (&x)[M][K][4], Shared<bf16> y, u32 column) {
        constexpr u32 PAIRS = W / 2, AHEAD = LOADS_AHEAD<M>, RING = AHEAD + 1;
        u32 b[RING][2][2];
        UNROLL for (u32 i = 0; i < AHEAD; i++) { right(b[i], y, 0, column + i * FRAGMENT); }
        UNROLL for (u32 k = 0; k < K; k++) {
            UNROLL for (u32 pair = 0; pair < PAIRS; pair++) {
                const u32 i = k * PAIRS + pair, next = i + AHEAD;
                if (next < K * PAIRS) {
                    right(b[next % RING], y, next / PAIRS * FRAGMENT, column + next % PAIRS * FRAGMENT);
                }
                UNROLL for (u32 m = 0; m < M; m++) {
                    multiply_add(sums[m][2 * pair], x[m][k], b[i % RING][0]);
                    multiply_add(sums[m][2 * pair + 1], x[m][k], b[i % RING][1]);
                }
            }
        }
    }

    // sums_1 += x_1 y and sums_2 += x_2 y: as above, with one read of y.
    template <u32 K, u32 W>
    static METHOD void multiply_both(f32 (&sums_1)[1][W][4], const u32 (&x_1)[1][K][4], f32 (&sums_2)[1][W][4],
                                     const u32 (&x_2)[1][K][4], Shared<bf16> y, u32 column) {
        UNROLL for (u32 k = 0; k < K; k++) {
            UNROLL for (u32 w = 0; w < W; w += 2) {
                u32 b[2][2];
                right(b, y, k * FRAGMENT, column + w * HALF);
                UNROLL for (u32 i = 0; i < 2; i++) {
                    multiply_add(sums_1[0][w + i], x_1[0][k], b[i]);
                    multiply_add(sums_2[0][w + i], x_2[0][k], b[i]);
                }
            }
        }
    }

    // Writes sums · factor, 16 rows of W · 8 columns, to x, [tokens, row_len], from token `first` and column `column` on.
    // They go by way of rows `row` … of a tile that no other warp uses, so that whole chunks leave.
    template <u32 W>
    static METHOD void store(Global<bf16> x, u32 first, u32 tokens, u32 row_len, u32 head_dim, const f32 (&sums)[W][4],
                             f32 upper_factor, f32 lower_factor, Shared<bf16> tile, u32 row, u32 column) {
        const u32 lane = lane_index(), g = lane / 4, t = lane % 4;
        UNROLL for (u32 w = 0; w < W; w++) {
            const u32 at = (row + g) * STRIDE + column + w * HALF + 2 * t;
            store_pair(tile, at, pack_bf16(sums[w][0] * upper_factor, sums[w][1] * upper_factor));
            store_pair(tile, at + 8 * STRIDE, pack_bf16(sums[w][2] * lower_factor, sums[w][3] * lower_factor));
        }
        warp_sync();
        for (u32 i = lane; i < FRAGMENT * W; i += WARP) {
            const u32 r = i / W, c = column + i % W * CHUNK;
            if (first + r < tokens && c < head_dim) {
                store_pack(x, u64(first + r) * row_len + c, load_pack(tile, (row + r) * STRIDE + c));
            }
        }
    }
};

// The sum, or the largest, over the four lanes that hold a row of a sum.
DEVICE f32 sum_of_row(f32 x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
}
DEVICE f32 largest_of_row(f32 x) {
    x = larger(x, shuffle_xor(x, 1));
    return larger(x, shuffle_xor(x, 2));
}

// A sum of 16 rows and N · 8 columns as fragments of a left operand, rounded: the same elements in the same threads.
template <u32 N>
DEVICE void as_left(u32 (&fragments)[N / 2][4], const f32 (&sums)[N][4]) {
    UNROLL for (u32 k = 0; k < N / 2; k++) {
        UNROLL for (u32 i = 0; i < 4; i++) {
            const f32* pair = &sums[2 * k + i / 2][i % 2 * 2];
            fragments[k][i] = pack_bf16(pair[0], pair[1]);
        }
    }
}
