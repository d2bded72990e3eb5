// A block's sums on their way to the result. A warp's fragments hold pairs of neighbours, which would be written as 8
// bytes of f32 or 4 of bf16; so the sums go through shared memory, from where each thread takes as many neighbours as 16
// bytes of the result hold.
#pragma once

#include "gemm_tile.cuh"
#include "isa/isa.cuh"

template <class Tile>
struct Staging {
    static constexpr u32 PACK = Pack<f32>::LEN;

    Shared<f32> sums;

    // Where sum (row, column) lies. Four rows write two packs of 4 each at a time, hence the permutation by the row; eight
    // lanes read every second pack of a row where the result is bf16, hence that by the column. No two share a bank.
    static METHOD u32 place(u32 row, u32 column) {
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

    template <u32 LEN>
    METHOD void get(f32 (&values)[LEN], u32 row, u32 column) const {
        UNROLL for (u32 p = 0; p < LEN / PACK; p++) {
            const Pack<f32> pack = load_pack(sums, place(row, column + p * PACK));
            UNROLL for (u32 i = 0; i < PACK; i++) { values[p * PACK + i] = pack[i]; }
        }
    }
};

// How a block's threads share a part of ROWS × COLUMNS of a row-major result [m, n]: each has one pack of every
// ROWS_AT_ONCE-th row.
template <class C, u32 ROWS, u32 COLUMNS, u32 THREADS>
struct Rows {
    static constexpr u32 LEN = Pack<C>::LEN;
    static constexpr u32 PACKS = COLUMNS / LEN;
    static constexpr u32 ROWS_AT_ONCE = THREADS / PACKS;
    static constexpr u32 PASSES = ROWS / ROWS_AT_ONCE;
    static_assert(THREADS % PACKS == 0 && ROWS % ROWS_AT_ONCE == 0, "a thread has the same columns in every pass");

    u32 row, column;  // of the thread's first pack, in the part
    u32 first_row, first_column;
    i32 rows, count;  // from there on: rows of the result, elements of the row; 0 or less beyond the end

    METHOD Rows(u32 first_row, u32 first_column, u32 m, u32 n)
        : row(thread_index() / PACKS), column(thread_index() % PACKS * LEN), first_row(first_row),
          first_column(first_column), rows(i32(m) - i32(first_row + row)), count(i32(n) - i32(first_column + column)) {}

    METHOD bool has(u32 pass) const { return i32(pass * ROWS_AT_ONCE) < rows && count > 0; }
    METHOD bool has_element(u32 j) const { return i32(j) < count; }
    METHOD u32 result_column() const { return first_column + column; }
    METHOD u32 row_of(u32 pass) const { return row + pass * ROWS_AT_ONCE; }

    // The first element of a pass, in a tensor with rows of `width`.
    METHOD u64 index(u32 pass, u64 width) const { return (first_row + row_of(pass)) * width + result_column(); }

    // Reads a pack of a pass: at once if packs are whole, which depends on the tensor's address and width.
    template <class T>
    METHOD Pack<C> read(Global<T> x, u64 i, bool whole) const {
        Pack<C> pack = {};
        if (whole) {
            return load_pack(x, i);
        }
        UNROLL for (u32 j = 0; j < LEN; j++) {
            if (has_element(j)) {
                pack[j] = load(x, i + j);
            }
        }
        return pack;
    }
    METHOD void write(Global<C> x, u64 i, Pack<C> pack, bool whole) const {
        if (whole) {
            store_pack(x, i, pack);
            return;
        }
        UNROLL for (u32 j = 0; j < LEN; j++) {
            if (has_element(j)) {
                store(x, i + j, pack[j]);
            }
        }
    }
};

// Whether packs of a tensor with rows of `width` begin at multiples of 16 bytes and do not cross a row's end.
template <class C>
DEVICE bool has_whole_packs(Global<C> x, u32 width) {
    return is_aligned(x) && width % Pack<C>::LEN == 0;
}
