// A block's tile of a matrix product, and how warps hold it: c[m, n] = Σ_k a · b on tensor cores.
//
// Operands lie in shared memory as they lie in device memory, [rows][columns] of bf16 without padding. ldmatrix reads
// them either way round, so all layouts take the same path: where k runs along a row as it is, else transposed.
//
// Chunks of 16 bytes are permuted within their row by the row's number (`swizzled`): the eight rows of which ldmatrix
// takes one chunk each, and the eight chunks that a quarter of a warp copies, then lie in different banks.
#pragma once

#include "isa/isa.cuh"

// bf16 in 16 bytes: what one asynchronous copy moves, and what a lane gives to ldmatrix.
constexpr u32 CHUNK = 8;

// Chunks that cover all banks of shared memory once.
constexpr u32 CHUNKS_OF_BANKS = 8;

// Rows of a, columns of b, and terms of one product of a warp (m16n8k16); b is loaded for two products at once.
constexpr u32 PRODUCT_M = 16, PRODUCT_N = 8, PRODUCT_K = 16, PAIR_N = 2 * PRODUCT_N;

// Which index of an operand is contiguous: k, or the other one (m of a, n of b).
enum class Major { K, OUTER };

// The layouts of ops/gemm.rs.
struct Nt {
    static constexpr Major A = Major::K, B = Major::K;
};
struct Nn {
    static constexpr Major A = Major::K, B = Major::OUTER;
};
struct Tn {
    static constexpr Major A = Major::OUTER, B = Major::OUTER;
};

struct Extents {
    u32 m, n, k;
};

// A block computes M × N sums, K terms at a time; each warp has WARP_M × WARP_N of them.
template <u32 M_, u32 N_, u32 K_, u32 WARP_M_, u32 WARP_N_, u32 STAGES_>
struct TileShape {
    static constexpr u32 M = M_, N = N_, K = K_, WARP_M = WARP_M_, WARP_N = WARP_N_, STAGES = STAGES_;
    static constexpr bool CONVERTS = false;  // whether operands need be neither bf16 nor aligned
    static constexpr u32 WARPS_N = N / WARP_N;
    static constexpr u32 THREADS = M / WARP_M * WARPS_N * WARP;
    static constexpr u32 STEPS = K / PRODUCT_K;
    static constexpr u32 A_LEN = M * K, STAGE_LEN = (M + N) * K;
    // Elements of bf16 that hold all stages, and after them the f32 sums.
    static constexpr u32 SUMS_LEN = 2 * M * N;
    static constexpr u32 SHARED_LEN = STAGES * STAGE_LEN > SUMS_LEN ? STAGES * STAGE_LEN : SUMS_LEN;
    static_assert((WARP_M == 32 || WARP_M == 64) && (WARP_N == 32 || WARP_N == 64), "Reader::load steps by xor");
    static_assert(STEPS >= 2 && STAGES >= 2, "fragments of the next step are loaded ahead");
};

// The tile of one operand in shared memory.
template <Major MAJOR_, u32 OUTER, u32 DEPTH_>
struct OperandTile {
    static constexpr Major MAJOR = MAJOR_;
    static constexpr u32 DEPTH = DEPTH_;
    static constexpr u32 ROWS = MAJOR == Major::K ? OUTER : DEPTH, COLUMNS = MAJOR == Major::K ? DEPTH : OUTER;
};

// The element where chunk `chunk` of row `row` begins, in a tile of rows of COLUMNS.
template <u32 COLUMNS>
DEVICE u32 swizzled(u32 row, u32 chunk) {
    constexpr u32 CHUNKS = COLUMNS / CHUNK;
    constexpr u32 PERIOD = CHUNKS < CHUNKS_OF_BANKS ? CHUNKS : CHUNKS_OF_BANKS;
    constexpr u32 ROWS_OF_BANKS = CHUNKS_OF_BANKS / PERIOD;
    return row * COLUMNS + (chunk ^ (row / ROWS_OF_BANKS % PERIOD)) * CHUNK;
}

// How a lane reads an operand's tile: 16 × 16 elements at a time, as four matrices. `start` is the element that it gives
// for the first of them; from there, a step along a row flips bits of the chunk, which no carry disturbs because warps
// begin at multiples of their extent, and a step down is a constant, because the permutation repeats.
template <class Tile>
struct Reader {
    u32 start;

    // outer: the warp's first row of c (for a) or column (for b). outer_half, k_half: which half of the 16 × 16 the
    // lane's matrix is.
    METHOD Reader(u32 outer, u32 outer_half, u32 k_half) {
        const u32 row = lane_index() % 8;
        if constexpr (Tile::MAJOR == Major::K) {
            start = swizzled<Tile::COLUMNS>(outer + outer_half * 8 + row, k_half);
        } else {
            start = swizzled<Tile::COLUMNS>(k_half * 8 + row, outer / CHUNK + outer_half);
        }
    }

    // The i-th 16 along m or n, of k-step `step`.
    METHOD void load(u32 (&fragment)[4], Shared<bf16> tile, u32 i, u32 step SITE) const {
        if constexpr (Tile::MAJOR == Major::K) {
            const u32 at = (start ^ (step * PRODUCT_K)) + i * 16 * Tile::COLUMNS;
            load_matrices(fragment, tile, at PASS_SITE);
        } else {
            const u32 at = (start ^ (i * 16)) + step * PRODUCT_K * Tile::COLUMNS;
            load_matrices_transposed(fragment, tile, at PASS_SITE);
        }
    }
};

// What a warp multiplies in one step along k.
template <class Tile>
struct Fragments {
    u32 a[Tile::WARP_M / PRODUCT_M][4];
    u32 b[Tile::WARP_N / PRODUCT_N][2];
};

// A warp's part of the tile: its sums, and its place in the operands.
template <class Layout, class Tile>
struct WarpTile {
    using A = OperandTile<Layout::A, Tile::M, Tile::K>;
    using B = OperandTile<Layout::B, Tile::N, Tile::K>;

    f32 sums[Tile::WARP_M / PRODUCT_M][Tile::WARP_N / PRODUCT_N][4];
    u32 row, column;
    Reader<A> reader_a;
    Reader<B> reader_b;

    // Matrices 0 to 3 of a are (m, k), (m + 8, k), (m, k + 8), (m + 8, k + 8); of b (n, k), (n, k + 8), (n + 8, k),
    // (n + 8, k + 8): the fragments of one product, and of two.
    METHOD WarpTile()
        : row(warp_index() / Tile::WARPS_N * Tile::WARP_M), column(warp_index() % Tile::WARPS_N * Tile::WARP_N),
          reader_a(row, lane_index() / 8 % 2, lane_index() / 16),
          reader_b(column, lane_index() / 16, lane_index() / 8 % 2) {
        UNROLL for (auto& row_of_products : sums) {
            UNROLL for (auto& product : row_of_products) {
                UNROLL for (f32& sum : product) { sum = 0.0f; }
            }
        }
    }

    // Reads step `step` of a stage, which holds a's tile and then b's.
    METHOD void load(Fragments<Tile>& fragments, Shared<bf16> stage, u32 step) const {
        UNROLL for (u32 i = 0; i < Tile::WARP_M / PRODUCT_M; i++) { reader_a.load(fragments.a[i], stage, i, step); }
        const Shared<bf16> stage_b = from(stage, Tile::A_LEN);
        UNROLL for (u32 j = 0; j < Tile::WARP_N / PAIR_N; j++) {
            u32 pair[4];
            reader_b.load(pair, stage_b, j, step);
            UNROLL for (u32 r = 0; r < 4; r++) { fragments.b[2 * j + r / 2][r % 2] = pair[r]; }
        }
    }

    METHOD void multiply(const Fragments<Tile>& fragments) {
        UNROLL for (u32 i = 0; i < Tile::WARP_M / PRODUCT_M; i++) {
            UNROLL for (u32 j = 0; j < Tile::WARP_N / PRODUCT_N; j++) {
                multiply_add(sums[i][j], fragments.a[i], fragments.b[j]);
            }
        }
    }
};
