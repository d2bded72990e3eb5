// Matrix products on tensor cores: c[m, n] = Σ_k a · b, + bias[n], or added to c. bf16 products, f32 sums.
//
//   nt   a [m, k], b [n, k]     forward of a linear layer
//   nn   a [m, k], b [k, n]     gradient of its input
//   tn   a [k, m], b [k, n]     gradient of its weight
#include "gemm_epilogue.cuh"
#include "gemm_tile.cuh"
#include "gemm_window.cuh"
#include "isa/isa.cuh"

using Large = TileShape<128, 256, 64, 64, 64, 3>;
using Medium = TileShape<128, 128, 32, 64, 64, 4>;
using Small = TileShape<64, 64, 32, 32, 32, 4>;
using Converting = TileShape<128, 128, 32, 64, 32, 2>;

struct Corner {
    u32 row, column;
};

// The tile of this block. Blocks that run at the same time should share rows of a and columns of b, which then come from
// the second-level cache: they go down GROUP_ROWS tiles before they go on to the right.
template <class Tile>
DEVICE Corner corner_of_block(Extents extents) {
    constexpr u32 GROUP_ROWS = 16;
    const u32 tile_rows = (extents.m + Tile::M - 1) / Tile::M;
    const u32 tile_columns = (extents.n + Tile::N - 1) / Tile::N;
    const u32 group = block_x() / (GROUP_ROWS * tile_columns), within = block_x() % (GROUP_ROWS * tile_columns);
    const u32 rows_of_group = least(GROUP_ROWS, tile_rows - group * GROUP_ROWS);
    const u32 tile_row = group * GROUP_ROWS + within % rows_of_group, tile_column = within / rows_of_group;
    return Corner{tile_row * Tile::M, tile_column * Tile::N};
}

// Adds all products of the tile at `corner`. A ring of stages: while one is multiplied, copies into all others are under
// way, or done. A block_sync after the wait for a stage tells that all threads' copies into it have come, and that all
// warps are done with the stage before it, into which the next copies go.
template <class Layout, class Tile>
DEVICE void accumulate(WarpTile<Layout, Tile>& warp, Shared<bf16> memory, Global<const bf16> a, Global<const bf16> b,
                       Extents extents, Corner corner) {
    using W = WarpTile<Layout, Tile>;
    using WindowA = Window<bf16, typename W::A, Tile::THREADS>;
    using WindowB = Window<bf16, typename W::B, Tile::THREADS>;
    WindowA window_a(a, extents.m, extents.k, corner.row);
    WindowB window_b(b, extents.n, extents.k, corner.column);
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
    for (u32 k = 0; k < extents.k; k += Tile::K) {
        UNROLL for (u32 step = 0; step < Tile::STEPS; step++) {
            if (step + 1 == Tile::STEPS) {
                copy_async_wait<Tile::STAGES - 2>();
                block_sync();
                reading = next(reading);
            }
            // Past the end this reads a stage of zeros.
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

// As accumulate, for operands that must be converted or are not aligned. The next stage is read into registers before
// this one is multiplied, and stored after.
template <class Layout, class Tile, class TypeA, class TypeB>
DEVICE void accumulate_converting(WarpTile<Layout, Tile>& warp, Shared<bf16> memory, Global<const TypeA> a,
                                  Global<const TypeB> b, Extents extents, Corner corner) {
    using W = WarpTile<Layout, Tile>;
    ConvertingWindow<TypeA, typename W::A, Tile::THREADS> window_a(a, extents.m, extents.k, corner.row);
    ConvertingWindow<TypeB, typename W::B, Tile::THREADS> window_b(b, extents.n, extents.k, corner.column);
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
    for (u32 k = 0; k < extents.k; k += Tile::K) {
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

// The whole product of a block; `accumulate` adds up its sums.
template <class Layout, class Tile, class B, class C, class Accumulate>
DEVICE void product(Global<const B> bias, Global<C> c, Extents extents, bool add, Accumulate accumulate) {
    SharedMemory shared;
    const Shared<bf16> memory = shared.take<bf16>(Tile::SHARED_LEN, 1024);
    const Corner corner = corner_of_block<Tile>(extents);
    WarpTile<Layout, Tile> warp;
    accumulate(warp, memory, corner);
    using Epilogue = Addition<B, C>;
    const Staging<Tile, Epilogue> staging{view_as<f32>(memory)};
    staging.put(warp);
    block_sync();
    staging.write(Epilogue{bias, c, add, {}}, c, extents, corner.row, corner.column);
}

template <class Layout, class Tile, class C>
DEVICE void gemm(Global<const bf16> a, Global<const bf16> b, Global<const bf16> bias, Global<C> c, Extents extents,
                 bool add) {
    product<Layout, Tile>(bias, c, extents, add, [&](WarpTile<Layout, Tile>& warp, Shared<bf16> memory, Corner corner) {
        accumulate(warp, memory, a, b, extents, corner);
    });
}

template <class Layout, class A, class B, class C>
DEVICE void gemm_converting(Global<const A> a, Global<const B> b, Global<const B> bias, Global<C> c, Extents extents,
                            bool add) {
    product<Layout, Converting>(bias, c, extents, add, [&](WarpTile<Layout, Converting>& warp, Shared<bf16> memory, Corner corner) {
        accumulate_converting(warp, memory, a, b, extents, corner);
    });
}

#define ENTRY(name, Layout, Tile, C)                                                                         \
    KERNEL(name##_##C, Tile::THREADS, Global<const bf16> a, Global<const bf16> b, Global<const bf16> bias,     \
           Global<C> c, u32 m, u32 n, u32 k, u32 add) {                                                      \
        gemm<Layout, Tile>(a, b, bias, c, Extents{m, n, k}, add != 0);                                         \
    }
#define CONVERTING(name, Layout, A, B, C)                                                                    \
    KERNEL(name##_##A##_##B##_##C, Converting::THREADS, Global<const A> a, Global<const B> b,                  \
           Global<const B> bias, Global<C> c, u32 m, u32 n, u32 k, u32 add) {                                \
        gemm_converting<Layout>(a, b, bias, c, Extents{m, n, k}, add != 0);                                    \
    }
#define ENTRIES(layout, Layout)                                                                              \
    ENTRY(gemm_##layout##_large, Layout, Large, f32)                                                           \
    ENTRY(gemm_##layout##_large, Layout, Large, bf16)                                                          \
    ENTRY(gemm_##layout##_medium, Layout, Medium, f32)                                                         \
    ENTRY(gemm_##layout##_medium, Layout, Medium, bf16)                                                        \
    ENTRY(gemm_##layout##_small, Layout, Small, f32)                                                           \
    ENTRY(gemm_##layout##_small, Layout, Small, bf16)                                                          \
    CONVERTING(gemm_##layout##_converting, Layout, bf16, bf16, f32)                                            \
    CONVERTING(gemm_##layout##_converting, Layout, bf16, bf16, bf16)                                           \
    CONVERTING(gemm_##layout##_converting, Layout, bf16, f32, f32)                                             \
    CONVERTING(gemm_##layout##_converting, Layout, bf16, f32, bf16)                                            \
    CONVERTING(gemm_##layout##_converting, Layout, f32, bf16, f32)                                             \
    CONVERTING(gemm_##layout##_converting, Layout, f32, bf16, bf16)
ENTRIES(nt, Nt)
ENTRIES(nn, Nn)
ENTRIES(tn, Tn)
