// What becomes of a sum before it is rounded and stored. An epilogue is a type with
//
//   Fetched                     what it needs of device memory for one pack of the result
//   is_aligned_too()            whether its tensors allow whole packs
//   begin(part)                 the thread's columns, the same in all its rows
//   fetch(part, i, whole)       reads for the result's elements from i on; many of these are under way at once
//   apply(values, fetched)      changes the sums
#pragma once

#include "gemm_staging.cuh"
#include "gemm_tile.cuh"
#include "isa/isa.cuh"

// How many packs of a thread are fetched before the first of them is used.
constexpr u32 FETCHED_AT_ONCE = 8;

// Adds bias[column], and residual[row, column] or what the result held, where there are such.
template <class B, class C>
struct Addition {
    using Fetched = Pack<C>;

    Global<const B> bias;
    Global<const C> residual;
    Global<C> c;
    bool add;  // to c
    f32 biases[Pack<C>::LEN];

    METHOD Addition(Global<const B> bias, Global<const C> residual, Global<C> c, bool add)
        : bias(bias), residual(residual), c(c), add(add) {}

    METHOD bool is_aligned_too() const { return is_aligned(residual); }

    template <class Part>
    METHOD void begin(const Part& part) {
        UNROLL for (u32 j = 0; j < Part::LEN; j++) {
            biases[j] = is_present(bias) && part.has_element(j) ? to_f32(load(bias, part.result_column() + j)) : 0.0f;
        }
    }

    template <class Part>
    METHOD Fetched fetch(const Part& part, u64 i, bool whole) const {
        return is_present(residual) ? part.read(residual, i, whole) : add ? part.read(c, i, whole) : Fetched{};
    }

    METHOD void apply(f32 (&values)[Pack<C>::LEN], Fetched fetched) const {
        UNROLL for (u32 j = 0; j < Pack<C>::LEN; j++) { values[j] = values[j] + biases[j] + to_f32(fetched[j]); }
    }
};

// Writes a tile whose first sum is c[first_row, first_column].
template <class Tile, class Epilogue, class C>
DEVICE void write_tile(Staging<Tile> staging, Epilogue epilogue, Global<C> c, Extents extents, u32 first_row,
                       u32 first_column) {
    using Part = Rows<C, Tile::M, Tile::N, Tile::THREADS>;
    constexpr u32 BATCH = Part::PASSES < FETCHED_AT_ONCE ? Part::PASSES : FETCHED_AT_ONCE;
    static_assert(Part::PASSES % BATCH == 0, "no pass is left over");
    const Part part(first_row, first_column, extents.m, extents.n);
    const bool whole = has_whole_packs(c, extents.n) && epilogue.is_aligned_too();
    epilogue.begin(part);
    for (u32 first = 0; first < Part::PASSES; first += BATCH) {
        typename Epilogue::Fetched fetched[BATCH];
        UNROLL for (u32 p = 0; p < BATCH; p++) {
            if (part.has(first + p)) {
                fetched[p] = epilogue.fetch(part, part.index(first + p, extents.n), whole);
            }
        }
        UNROLL for (u32 p = 0; p < BATCH; p++) {
            if (part.has(first + p)) {
                f32 values[Part::LEN];
                staging.get(values, part.row_of(first + p), part.column);
                epilogue.apply(values, fetched[p]);
                Pack<C> rounded;
                UNROLL for (u32 j = 0; j < Part::LEN; j++) { rounded[j] = round_to<C>(values[j]); }
                part.write(c, part.index(first + p, extents.n), rounded, whole);
            }
        }
    }
}
