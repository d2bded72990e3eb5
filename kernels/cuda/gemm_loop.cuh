// The loop of a matrix product: how the terms of a block's sums come to shared memory and are multiplied.
#pragma once

#include "gemm_tile.cuh"
#include "gemm_window.cuh"
#include "isa/isa.cuh"

// Adds all products of the tile under the windows. A ring of stages: while one is multiplied, copies into the others are
// under way, or done. The barrier after the wait for a stage tells that all threads' copies into it have come, and that all
// warps are done with the stage before it, into which the next copies go.
template <class Tile, class Layout, class WindowA, class WindowB>
DEVICE void accumulate_copying(WarpTile<Layout, Tile>& warp, Shared<bf16> memory, WindowA window_a, WindowB window_b, u32 terms) {
    const auto stage = [&](u32 s) { return from(memory, i32(s * Tile::STAGE_LEN)); };
    const auto next = [](u32 s) { return s + 1 == Tile::STAGES ? 0 : s + 1; };
    // Part `part` of `parts` of a stage's copies.
    const auto copy = [&](u32 s, u32 part, u32 parts) {
        const auto cut = [&](u32 passes, u32 i) { return (passes * i + parts - 1) / parts; };
        window_a.copy(stage(s), cut(WindowA::PASSES, part), cut(WindowA::PASSES, part + 1));
        window_b.copy(from(stage(s), Tile::A_LEN), cut(WindowB::PASSES, part), cut(WindowB::PASSES, part + 1));
        if (part + 1 == parts) {
            copy_async_commit();
            window_a.advance();
            window_b.advance();
        }
    };

    UNROLL for (u32 s = 0; s + 1 < Tile::STAGES; s++) { copy(s, 0, 1); }
    copy_async_wait<Tile::STAGES - 2>();
    block_sync();
    Fragments<Tile> fragments[2];
    u32 reading = 0, writing = Tile::STAGES - 1;
    warp.load(fragments[0], stage(reading), 0);
    for (u32 k = 0; k < terms; k += Tile::K) {
        UNROLL for (u32 step = 0; step < Tile::STEPS; step++) {
            if (step + 1 == Tile::STEPS) {
                copy_async_wait<Tile::STAGES - 2>();
                block_sync();
                reading = next(reading);
            }
            // Past the end this reads terms that are not multiplied.
            warp.load(fragments[(step + 1) % 2], stage(reading), (step + 1) % Tile::STEPS);
            if (step + 1 < Tile::STEPS) {
                copy(writing, step, Tile::STEPS - 1);
            }
            warp.multiply(fragments[step % 2]);
        }
        writing = next(writing);
    }
    copy_async_wait<0>();
    block_sync();
}

// As accumulate_copying, for tiles that convert. The next stage is read before this one is multiplied, and stored
// after.
template <class Tile, class Layout, class WindowA, class WindowB>
DEVICE void accumulate_converting(WarpTile<Layout, Tile>& warp, Shared<bf16> memory, WindowA window_a, WindowB window_b,
                                  u32 terms) {
    const auto load_next = [&]() {
        window_a.load_next();
        window_b.load_next();
    };
    const auto store_to = [&](Shared<bf16> stage) {
        window_a.store_to(stage);
        window_b.store_to(from(stage, Tile::A_LEN));
    };

    load_next();
    store_to(memory);
    block_sync();
    u32 reading = 0;
    for (u32 k = 0; k < terms; k += Tile::K) {
        load_next();
        const Shared<bf16> stage = from(memory, i32(reading * Tile::STAGE_LEN));
        UNROLL for (u32 step = 0; step < Tile::STEPS; step++) {
            Fragments<Tile> fragments;
            warp.load(fragments, stage, step);
            warp.multiply(fragments);
        }
        reading ^= 1;
        store_to(from(memory, i32(reading * Tile::STAGE_LEN)));
        block_sync();
    }
}

// The sums of the tile whose first one is (row, column) of the result, over `terms` terms from `first` on.
template <class Tile, class Layout, class A, class B>
DEVICE void accumulate(WarpTile<Layout, Tile>& warp, Shared<bf16> memory, Global<const A> a, Global<const B> b,
                       Extents extents, u32 row, u32 column, u32 first, u32 terms) {
    using TileA = typename WarpTile<Layout, Tile>::A;
    using TileB = typename WarpTile<Layout, Tile>::B;
    Window<A, TileA, Tile::THREADS> window_a(a, extents.m, extents.k, row);
    Window<B, TileB, Tile::THREADS> window_b(b, extents.n, extents.k, column);
    window_a.advance(first);
    window_b.advance(first);
    if constexpr (!Tile::CONVERTS) {
        accumulate_copying(warp, memory, window_a, window_b, terms);
    } else if (window_a.has_whole_chunks(a) && window_b.has_whole_chunks(b)) {
        const ConvertingWindow<A, TileA, Tile::THREADS, true> converting_a{window_a};
        const ConvertingWindow<B, TileB, Tile::THREADS, true> converting_b{window_b};
        accumulate_converting(warp, memory, converting_a, converting_b, terms);
    } else {
        const ConvertingWindow<A, TileA, Tile::THREADS, false> converting_a{window_a};
        const ConvertingWindow<B, TileB, Tile::THREADS, false> converting_b{window_b};
        accumulate_converting(warp, memory, converting_a, converting_b, terms);
    }
}
