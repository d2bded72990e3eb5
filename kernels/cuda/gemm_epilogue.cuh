// From sums in registers to the result in device memory. A warp's fragments hold pairs of neighbours, which would be
// written as 8 bytes of f32 or 4 of bf16; so the block's sums go through shared memory, and each thread takes as many
// neighbours as 16 bytes of the result hold.
//
// What becomes of a sum before it is rounded is an epilogue: a type with
//
//   LEN                      neighbours in a row, those of one pack of the result
//   begin(column, count)     this thread's columns, the same in all of its rows
//   Fetched fetch(i, count)  reads what it needs for c's elements from i on; many of these are under way at once
//   apply(values, fetched)   changes the sums
#pragma once

#include "gemm_tile.cuh"
#include "isa/isa.cuh"

// Adds bias[column], if there is one, or to what c had.
template <class B, class C>
struct Addition {
    static constexpr u32 LEN = Pack<C>::LEN;
    using Fetched = Pack<C>;

    Global<const B> bias;
    Global<C> c;
    bool add;
    f32 terms[LEN];

    METHOD void begin(u32 column, u32 count) {
        UNROLL for (u32 i = 0; i < LEN; i++) {
            terms[i] = is_present(bias) && i < count ? to_f32(load(bias, column + i)) : 0.0f;
        }
    }

    METHOD Pack<C> fetch(u64 i, u32 count, bool whole) const {
        Pack<C> old = {};
        if (add && whole) {
            old = load_pack(c, i);
        } else if (add) {
            UNROLL for (u32 j = 0; j < LEN; j++) {
                if (j < count) {
                    old[j] = load(c, i + j);
                }
            }
        }
        return old;
    }

    METHOD void apply(f32 (&values)[LEN], Pack<C> old) const {
        UNROLL for (u32 i = 0; i < LEN; i++) { values[i] = values[i] + terms[i] + to_f32(old[i]); }
    }
};

// The block's M × N sums in shared memory, and how they reach c.
template <class Tile, class Epilogue>
struct Staging {
    static constexpr u32 LEN = Epilogue::LEN;
    static constexpr u32 GROUPS = Tile::N / LEN;                     // of a row
    static constexpr u32 ROWS_AT_ONCE = Tile::THREADS / GROUPS;
    static constexpr u32 ROUNDS = Tile::M / ROWS_AT_ONCE;
    static constexpr u32 BATCH = ROUNDS < 8 ? ROUNDS : 8;            // rounds whose reads are under way at once
    static_assert(Tile::THREADS % GROUPS == 0 && ROUNDS % BATCH == 0, "every thread has the same columns in all rounds");

    Shared<f32> sums;

    // Where sum (row, column) lies. Four rows write two packs of 4 each at a time, hence the permutation by the row; eight
    // lanes read every second pack of a row where the result is bf16, hence that by the column. No two share a bank.
    static METHOD u32 place(u32 row, u32 column) {
        constexpr u32 PACK = Pack<f32>::LEN;
        const u32 pack = column / PACK;
        return row * Tile::N + (pack ^ (pack / CHUNKS_OF_BANKS % 2) ^ (row % 4 * 2)) * PACK + column % PACK;
    }

    template <class Layout>
    METHOD void put(const WarpTile<Layout, Tile>& warp) const {
        const u32 row = warp.row + lane_index() / 4, column = warp.column + lane_index() % 4 * 2;
        UNROLL for (u32 i = 0; i < Tile::WARP_M / PRODUCT_M; i++) {
            UNROLL for (u32 j = 0; j < Tile::WARP_N / PRODUCT_N; j++) {
                const f32(&sum)[4] = warp.sums[i][j];
                const u32 top = row + i * PRODUCT_M, left = column + j * PRODUCT_N;
                store_pair(sums, place(top, left), sum[0], sum[1]);
                store_pair(sums, place(top + 8, left), sum[2], sum[3]);
            }
        }
    }

    METHOD void get(f32 (&values)[LEN], u32 row, u32 column) const {
        constexpr u32 PACK = Pack<f32>::LEN;
        UNROLL for (u32 p = 0; p < LEN / PACK; p++) {
            const Pack<f32> pack = load_pack(sums, place(row, column + p * PACK));
            UNROLL for (u32 i = 0; i < PACK; i++) { values[p * PACK + i] = pack[i]; }
        }
    }

    // Writes the tile whose first sum is c[first_row, first_column].
    template <class C>
    METHOD void write(Epilogue epilogue, Global<C> c, Extents extents, u32 first_row, u32 first_column) const {
        const u32 row = thread_index() / GROUPS, column = thread_index() % GROUPS * LEN;
        const i32 left = i32(extents.n) - i32(first_column + column);
        if (left <= 0) {
            return;
        }
        const u32 count = left < i32(LEN) ? u32(left) : LEN;
        const bool whole = is_aligned(c) && extents.n % LEN == 0;
        const i32 rows = i32(extents.m) - i32(first_row + row);
        const u64 corner = u64(first_row + row) * extents.n + first_column + column;
        epilogue.begin(first_column + column, count);
        for (u32 round = 0; round < ROUNDS; round += BATCH) {
            typename Epilogue::Fetched fetched[BATCH];
            UNROLL for (u32 r = 0; r < BATCH; r++) {
                const u32 down = (round + r) * ROWS_AT_ONCE;
                if (i32(down) < rows) {
                    fetched[r] = epilogue.fetch(corner + u64(down) * extents.n, count, whole);
                }
            }
            UNROLL for (u32 r = 0; r < BATCH; r++) {
                const u32 down = (round + r) * ROWS_AT_ONCE;
                if (i32(down) < rows) {
                    f32 values[LEN];
                    get(values, row + down, column);
                    epilogue.apply(values, fetched[r]);
                    put_out(c, corner + u64(down) * extents.n, values, count, whole);
                }
            }
        }
    }

    template <class C>
    static METHOD void put_out(Global<C> c, u64 i, const f32 (&values)[LEN], u32 count, bool whole) {
        Pack<C> rounded;
        UNROLL for (u32 j = 0; j < LEN; j++) { rounded[j] = round_to<C>(values[j]); }
        if (whole) {
            store_pack(c, i, rounded);
        } else {
            UNROLL for (u32 j = 0; j < LEN; j++) {
                if (j < count) {
                    store(c, i + j, rounded[j]);
                }
            }
        }
    }
};
