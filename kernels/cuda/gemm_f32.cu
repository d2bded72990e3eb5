// Matrix products of f32 operands without tensor cores: c = a · b + bias[column], + residual or what c held. Every sum is
// one chain of fused multiply-adds in the order of k.
//
//   gemm_nt_f32_f32_C, gemm_nn_…, gemm_tn_…   layouts as in gemm.cu; C is f32 or bf16
//
// FLOPs: 2 m n k. Bytes: 4 (m k + n k) + c, a second time where it is added to. Floor: FLOPs / rate of f32 fma (67 TFLOP/s
// on an H100); a thread's 16 fma take two reads of 16 bytes from shared memory, which is about half of that rate. This is
// the path of f32 training and of tests, for which it is made plain.
// Geometry: 64 × 64 sums for each block of 256 threads, 4 × 4 for each thread, 16 terms at a time.
// Shared memory: both operands' terms, k-major: 2 · 16 · 68 f32.
#include "isa/isa.cuh"

constexpr u32 SIDE = 64, DEPTH = 16, THREADS = 256;
constexpr u32 EACH = 4, THREADS_PER_ROW = SIDE / EACH;

// Padding to the next multiple of 16 bytes: fewer of the elements of one column then share a bank.
constexpr u32 PITCH = SIDE + 4;

// Copies DEPTH terms of SIDE rows (of a; columns of b) from `first` on; zero outside. The tensor is [outer, extent_k] if
// K_RUNS, k being the index that is contiguous, else [extent_k, outer].
template <bool K_RUNS>
DEVICE void load_terms(Shared<f32> terms, Global<const f32> x, u32 outer, u32 extent_k, u32 first, u32 k) {
    constexpr u32 WIDTH = K_RUNS ? DEPTH : SIDE, ROWS_AT_ONCE = THREADS / WIDTH, PASSES = (K_RUNS ? SIDE : DEPTH) / ROWS_AT_ONCE;
    const u32 column = thread_index() % WIDTH;
    UNROLL for (u32 pass = 0; pass < PASSES; pass++) {
        const u32 row = thread_index() / WIDTH + pass * ROWS_AT_ONCE;
        const u32 i = K_RUNS ? row : column, term = K_RUNS ? column : row;
        const bool inside = first + i < outer && k + term < extent_k;
        const u64 at = K_RUNS ? u64(first + i) * extent_k + k + term : u64(k + term) * outer + first + i;
        store(terms, term * PITCH + i, inside ? load(x, at) : 0.0f);
    }
}

template <bool A_K_RUNS, bool B_K_RUNS, class C>
DEVICE void gemm(Global<const f32> a, Global<const f32> b, Global<const f32> bias, Global<const C> residual, Global<C> c,
                 u32 m, u32 n, u32 k, bool add) {
    SharedMemory shared;
    const Shared<f32> terms_a = shared.take<f32>(DEPTH * PITCH);
    const Shared<f32> terms_b = shared.take<f32>(DEPTH * PITCH);
    const u32 tile_columns = (n + SIDE - 1) / SIDE;
    const u32 first_row = block_x() / tile_columns * SIDE, first_column = block_x() % tile_columns * SIDE;
    const u32 row = thread_index() / THREADS_PER_ROW * EACH, column = thread_index() % THREADS_PER_ROW * EACH;

    f32 sums[EACH][EACH] = {};
    for (u32 start = 0; start < k; start += DEPTH) {
        load_terms<A_K_RUNS>(terms_a, a, m, k, first_row, start);
        load_terms<B_K_RUNS>(terms_b, b, n, k, first_column, start);
        block_sync();
        UNROLL for (u32 term = 0; term < DEPTH; term++) {
            const Pack<f32> left = load_pack(terms_a, term * PITCH + row);
            const Pack<f32> right = load_pack(terms_b, term * PITCH + column);
            UNROLL for (u32 i = 0; i < EACH; i++) {
                UNROLL for (u32 j = 0; j < EACH; j++) { sums[i][j] = fma(left[i], right[j], sums[i][j]); }
            }
        }
        block_sync();
    }

    UNROLL for (u32 i = 0; i < EACH; i++) {
        UNROLL for (u32 j = 0; j < EACH; j++) {
            const u32 to_row = first_row + row + i, to_column = first_column + column + j;
            if (to_row < m && to_column < n) {
                const u64 at = u64(to_row) * n + to_column;
                const f32 old = is_present(residual) ? to_f32(load(residual, at)) : add ? to_f32(load(c, at)) : 0.0f;
                const f32 term = is_present(bias) ? load(bias, to_column) : 0.0f;
                store(c, at, round_to<C>(sums[i][j] + term + old));
            }
        }
    }
}

#define ENTRIES(layout, A_K_RUNS, B_K_RUNS, C)                                                               \
    KERNEL(gemm_##layout##_f32_f32_##C, THREADS, Global<const f32> a, Global<const f32> b,                     \
           Global<const f32> bias, Global<const C> residual, Global<C> c, u32 m, u32 n, u32 k, u32 add) {    \
        gemm<A_K_RUNS, B_K_RUNS>(a, b, bias, residual, c, m, n, k, add != 0);                                  \
    }
ENTRIES(nt, true, true, f32)
ENTRIES(nt, true, true, bf16)
ENTRIES(nn, true, false, f32)
ENTRIES(nn, true, false, bf16)
ENTRIES(tn, false, false, f32)
ENTRIES(tn, false, false, bf16)
