// Matrix products on tensor cores: bf16 products, f32 sums, results of f32 or bf16, rounded once.
//
//   gemm_LAYOUT_TILE_C             c = a · b + bias[column], + residual or what c held; a and b bf16, aligned
//   gemm_LAYOUT_converting_A_B_C   the same for an operand of f32, rounded to bf16 on its way, or one that is not aligned
//   gemm_tn_part_TILE, gemm_add_parts   parts of the sums of tn, each by blocks of its own; and their sum
//   gemm_swiglu_TILE_bf16          gate_up = x · weightᵀ, out = silu(gate) · up
//
//   nt   a [m, k], b [n, k]     forward of a linear layer
//   nn   a [m, k], b [k, n]     gradient of its input
//   tn   a [k, m], b [k, n]     gradient of its weight, added to c
//
// FLOPs: 2 m n k. Bytes: a + b + c, c twice if it is added to. Floor: the greater of FLOPs / rate of the tensor cores and
// bytes / bandwidth; of products with m, n, k > 1000 it is the FLOPs.
//
// Geometry: a block of 8 warps computes 128 × 256 sums (large), one of 4 warps 128 × 128 (medium) or 64 × 64 (small). A
// warp of the first two has 64 × 64 sums, 128 registers of a thread, and the fragments of two steps, 64 more. For each
// step of 16 terms it reads 4 KiB of shared memory with 8 instructions and issues 32 products. Per step of a large block
// that is 32 KiB read and 12 KiB copied in, 352 cycles at 128 bytes per cycle, beside products that take 512 cycles on
// sm_80 and, at the 62 % of its rate that sm_90 reaches without wgmma, 413. Warps of 64 × 32 would need 544: that is why
// tiles are as large as registers allow. Small tiles are for results that do not fill the GPU otherwise; the ratio is half.
// In the loop of the large tile half of all instructions are products.
// Shared memory: stages · (M + N) · K bf16, and in their place at the end M · N sums: 144, 64 and 32 KiB.
#include "gemm_epilogue.cuh"
#include "gemm_loop.cuh"
#include "gemm_staging.cuh"
#include "gemm_swiglu.cuh"
#include "gemm_tile.cuh"
#include "gemm_window.cuh"
#include "isa/isa.cuh"

using Large = TileShape<128, 256, 64, 64, 64, 3>;
using Medium = TileShape<128, 128, 32, 64, 64, 4>;
using Small = TileShape<64, 64, 32, 32, 32, 4>;
struct Converting : TileShape<128, 128, 32, 64, 32, 2> {
    static constexpr bool CONVERTS = true;
};

struct Corner {
    u32 row, column;
};

// Where the result [m, n] of this block begins, ROWS × COLUMNS each. Blocks that run at the same time should share rows of
// a and columns of b, which then come from the second-level cache: they go down GROUP_ROWS tiles, then to the right.
template <u32 ROWS, u32 COLUMNS>
DEVICE Corner corner_of_block(u32 m, u32 n) {
    constexpr u32 GROUP_ROWS = 16;
    const u32 tile_rows = (m + ROWS - 1) / ROWS, tile_columns = (n + COLUMNS - 1) / COLUMNS;
    const u32 group = block_x() / (GROUP_ROWS * tile_columns), within = block_x() % (GROUP_ROWS * tile_columns);
    const u32 rows_of_group = least(GROUP_ROWS, tile_rows - group * GROUP_ROWS);
    const u32 tile_row = group * GROUP_ROWS + within % rows_of_group, tile_column = within / rows_of_group;
    return Corner{tile_row * ROWS, tile_column * COLUMNS};
}

// The warps' sums, gathered in shared memory.
template <class Tile, class Layout>
DEVICE Staging<Tile> stage_sums(const WarpTile<Layout, Tile>& warp, Shared<bf16> memory) {
    const Staging<Tile> staging{view_as<f32>(memory)};
    staging.put(warp);
    block_sync();
    return staging;
}

template <class Layout, class Tile, class A, class B, class C>
DEVICE void gemm(Global<const A> a, Global<const B> b, Addition<B, C> addition, Global<C> c, Extents extents) {
    SharedMemory shared;
    const Shared<bf16> memory = shared.take<bf16>(Tile::SHARED_LEN, 1024);
    const Corner corner = corner_of_block<Tile::M, Tile::N>(extents.m, extents.n);
    WarpTile<Layout, Tile> warp;
    accumulate(warp, memory, a, b, extents, corner.row, corner.column, 0, extents.k);
    write_tile(stage_sums(warp, memory), addition, c, extents, corner.row, corner.column);
}

// Block (x, y): the sums of tile x over `terms` terms from y · terms on, to part y of parts [num_parts, m, n].
template <class Tile>
DEVICE void product_of_part(Global<const bf16> a, Global<const bf16> b, Global<f32> parts, Extents extents, u32 terms) {
    SharedMemory shared;
    const Shared<bf16> memory = shared.take<bf16>(Tile::SHARED_LEN, 1024);
    const Corner corner = corner_of_block<Tile::M, Tile::N>(extents.m, extents.n);
    const u32 first = block_y() * terms;
    WarpTile<Tn, Tile> warp;
    accumulate(warp, memory, a, b, extents, corner.row, corner.column, first, least(terms, extents.k - first));
    const Global<f32> part = from(parts, i64(u64(block_y()) * extents.m * extents.n));
    const Addition<bf16, f32> nothing(Global<const bf16>{}, Global<const f32>{}, part, false);
    write_tile(stage_sums(warp, memory), nothing, part, extents, corner.row, corner.column);
}

// c = Σ parts, in their order, + c if it is added to. Bytes: 4 (num_parts + 1) len, 4 len more for what c held; that is
// the floor. One pack for each thread.
DEVICE void add_parts(Global<const f32> parts, Global<f32> c, u32 num_parts, u64 len, bool add) {
    constexpr u32 LEN = Pack<f32>::LEN;
    const u64 first = (u64(block_x()) * num_threads() + thread_index()) * LEN;
    if (is_aligned(parts) && is_aligned(c) && len % LEN == 0) {
        if (first < len) {
            Pack<f32> sum = load_pack(parts, first);
            for (u32 part = 1; part < num_parts; part++) {
                const Pack<f32> more = load_pack(parts, part * len + first);
                UNROLL for (u32 j = 0; j < LEN; j++) { sum[j] = sum[j] + more[j]; }
            }
            const Pack<f32> old = add ? load_pack(c, first) : Pack<f32>{};
            UNROLL for (u32 j = 0; j < LEN; j++) { sum[j] = sum[j] + old[j]; }
            store_pack(c, first, sum);
        }
        return;
    }
    for (u64 i = first; i < first + LEN && i < len; i++) {
        f32 sum = load(parts, i);
        for (u32 part = 1; part < num_parts; part++) {
            sum = sum + load(parts, part * len + i);
        }
        store(c, i, sum + (add ? load(c, i) : 0.0f));
    }
}

template <class Tile>
DEVICE void gemm_swiglu(Global<const bf16> x, Global<const bf16> weight, Global<bf16> gate_up, Global<bf16> out, u32 tokens,
                        u32 width, u32 k) {
    using Half = OperandTile<Major::K, Tile::N / 2, Tile::K>;
    SharedMemory shared;
    const Shared<bf16> memory = shared.take<bf16>(Tile::SHARED_LEN, 1024);
    const Corner corner = corner_of_block<Tile::M, Tile::N / 2>(tokens, width);
    WarpTile<Nt, Tile> warp;
    const Window<bf16, typename WarpTile<Nt, Tile>::A, Tile::THREADS> window_x(x, tokens, k, corner.row);
    const GateUpWindow<Half, Tile::THREADS> window_weight(weight, width, k, corner.column);
    accumulate_copying(warp, memory, window_x, window_weight, k);
    write_gated(stage_sums(warp, memory), gate_up, out, tokens, width, corner.row, corner.column);
}

#define PARAMETERS(A, B, C)                                                                                  \
    Global<const A> a, Global<const B> b, Global<const B> bias, Global<const C> residual, Global<C> c, u32 m,   \
        u32 n, u32 k, u32 add
#define ENTRY(name, Layout, Tile, C)                                                                         \
    KERNEL(name##_##C, Tile::THREADS, PARAMETERS(bf16, bf16, C)) {                                            \
        gemm<Layout, Tile>(a, b, Addition<bf16, C>(bias, residual, c, add != 0), c, Extents{m, n, k});         \
    }
#define CONVERTING(name, Layout, A, B, C)                                                                    \
    KERNEL(name##_##A##_##B##_##C, Converting::THREADS, PARAMETERS(A, B, C)) {                                \
        gemm<Layout, Converting>(a, b, Addition<B, C>(bias, residual, c, add != 0), c, Extents{m, n, k});       \
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

#define PART(name, Tile)                                                                                     \
    KERNEL(name, Tile::THREADS, Global<const bf16> a, Global<const bf16> b, Global<f32> parts, u32 m, u32 n,   \
           u32 k, u32 terms) {                                                                               \
        product_of_part<Tile>(a, b, parts, Extents{m, n, k}, terms);                                           \
    }
PART(gemm_tn_part_large, Large)
PART(gemm_tn_part_converting, Converting)
KERNEL(gemm_add_parts, 256, Global<const f32> parts, Global<f32> c, u32 num_parts, u64 len, u32 add) {
    add_parts(parts, c, num_parts, len, add != 0);
}

#define SWIGLU(name, Tile)                                                                                   \
    KERNEL(name##_bf16, Tile::THREADS, Global<const bf16> x, Global<const bf16> weight, Global<bf16> gate_up,  \
           Global<bf16> out, u32 tokens, u32 width, u32 k) {                                                 \
        gemm_swiglu<Tile>(x, weight, gate_up, out, tokens, width, k);                                          \
    }
SWIGLU(gemm_swiglu_large, Large)
SWIGLU(gemm_swiglu_small, Small)
