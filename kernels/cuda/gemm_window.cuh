// The part of an operand that a block multiplies next, on its way from device to shared memory: a window of the tensor
// that moves along k. What of it lies outside of the tensor becomes zero.
#pragma once

#include "gemm_tile.cuh"
#include "isa/isa.cuh"
#include "vector.cuh"

// Each thread has one chunk of every ROWS_AT_ONCE-th row.
template <class T, class Tile, u32 THREADS>
struct Window {
    static constexpr u32 CHUNKS = Tile::COLUMNS / CHUNK;
    static constexpr u32 ROWS_AT_ONCE = THREADS / CHUNKS;
    static constexpr u32 PASSES = Tile::ROWS / ROWS_AT_ONCE;
    static_assert(ROWS_AT_ONCE % CHUNKS_OF_BANKS == 0, "a thread's chunks have one permutation");

    Global<const T> source;  // from this thread's chunk on
    u64 stride;              // elements from row to row of the tensor
    i32 rows, columns;       // how many there are from this thread's chunk on; 0 or less beyond the end
    u32 place;               // of its chunk in the tile

    // x is [outer, k] or [k, outer], as the tile's major says; the window begins at `first` of outer and 0 of k.
    METHOD Window(Global<const T> x, u32 outer, u32 k, u32 first) {
        constexpr bool ALONG_ROWS = Tile::MAJOR == Major::K;
        const u32 row = thread_index() / CHUNKS + (ALONG_ROWS ? first : 0);
        const u32 column = thread_index() % CHUNKS * CHUNK + (ALONG_ROWS ? 0 : first);
        stride = ALONG_ROWS ? k : outer;
        source = from(x, i64(row * stride + column));
        rows = i32(ALONG_ROWS ? outer : k) - i32(row);
        columns = i32(ALONG_ROWS ? k : outer) - i32(column);
        place = swizzled<Tile::COLUMNS>(thread_index() / CHUNKS, thread_index() % CHUNKS);
    }

    // Over the next terms of the sums.
    METHOD void advance(u32 terms = Tile::DEPTH) {
        if constexpr (Tile::MAJOR == Major::K) {
            source = from(source, i64(terms));
            columns -= i32(terms);
        } else {
            source = from(source, i64(terms * stride));
            rows -= i32(terms);
        }
    }

    // Whether chunks of x may be read as one: they are aligned, and all inside of x or all outside.
    METHOD bool has_whole_chunks(Global<const T> x) const { return is_aligned(x) && stride % CHUNK == 0; }

    METHOD bool has_row(u32 pass) const { return i32(pass * ROWS_AT_ONCE) < rows; }
    METHOD u64 index(u32 pass) const { return pass * (ROWS_AT_ONCE * stride); }
    METHOD u32 place_of(u32 pass) const { return place + pass * ROWS_AT_ONCE * Tile::COLUMNS; }

    // Begins asynchronous copies of passes `begin` to `end`. The tensor must have whole chunks.
    METHOD void copy(Shared<bf16> tile, u32 begin, u32 end SITE) const {
        UNROLL for (u32 pass = 0; pass < PASSES; pass++) {
            if (begin <= pass && pass < end) {
                const u32 valid_bytes = has_row(pass) && columns > 0 ? 16 : 0;
                copy_async(tile, place_of(pass), source, index(pass), valid_bytes PASS_SITE);
            }
        }
    }
};

// A window whose chunks go through registers, where they are rounded to bf16: for operands of f32, and, if not WHOLE, for
// tensors whose chunks do not begin at multiples of 16 bytes, which are read one by one.
template <class T, class Tile, u32 THREADS, bool WHOLE>
struct ConvertingWindow {
    using Place = Window<T, Tile, THREADS>;
    static_assert(CHUNK == GROUP, "a chunk is a group of the tensor's type");

    Place window;
    Group<T> chunks[Place::PASSES];

    METHOD explicit ConvertingWindow(Place window) : window(window) {}

    // Reads the window and moves on.
    METHOD void load_next() {
        UNROLL for (u32 pass = 0; pass < Place::PASSES; pass++) {
            const u64 i = window.index(pass);
            chunks[pass] = Group<T>{};
            if constexpr (WHOLE) {
                if (window.has_row(pass) && window.columns > 0) {
                    chunks[pass] = load_group(window.source, i);
                }
            } else {
                UNROLL for (u32 j = 0; j < CHUNK; j++) {
                    if (window.has_row(pass) && i32(j) < window.columns) {
                        chunks[pass][j] = load(window.source, i + j);
                    }
                }
            }
        }
        window.advance();
    }

    METHOD void store_to(Shared<bf16> tile) const {
        UNROLL for (u32 pass = 0; pass < Place::PASSES; pass++) {
            Pack<bf16> rounded;
            UNROLL for (u32 i = 0; i < CHUNK; i++) { rounded[i] = round_to<bf16>(to_f32(chunks[pass][i])); }
            store_pack(tile, window.place_of(pass), rounded);
        }
    }
};
