// The fragment maps of kernels/cuda/isa/matrix.cuh, read literally: kernels/tests/cuda/sound.rs compares with a plain product
// and with the matrices themselves.
#include "isa/isa.cuh"

#if WARP_SIZE == 32

constexpr u32 THREADS = 64;
constexpr u32 M = 16, N = 8, K = 16;

// Both halves of a register, elements i and j.
DEVICE u32 pair(Global<const bf16> x, u32 i, u32 j) { return load(x, i).bits | u32(load(x, j).bits) << 16; }

// d += a · b for row-major matrices, each fragment element by element. Both warps do it, with rows of their own.
KERNEL(sound_product_of_fragments, THREADS, Global<const bf16> a, Global<const bf16> b, Global<f32> d) {
    const u32 g = lane_index() / 4, t = lane_index() % 4;
    const u32 first_a = warp_index() * M * K, first_b = warp_index() * K * N, first_d = warp_index() * M * N;
    u32 of_a[4], of_b[2];
    for (u32 i = 0; i < 4; i++) {
        const u32 at = first_a + (g + i % 2 * 8) * K + 2 * t + i / 2 * 8;
        of_a[i] = pair(a, at, at + 1);
    }
    for (u32 i = 0; i < 2; i++) {
        const u32 at = first_b + (2 * t + 8 * i) * N + g;
        of_b[i] = pair(b, at, at + N);
    }
    f32 sums[4];
    for (u32 i = 0; i < 4; i++) {
        sums[i] = load(d, first_d + (g + i / 2 * 8) * N + 2 * t + i % 2);
    }
    multiply_add(sums, of_a, of_b);
    for (u32 i = 0; i < 4; i++) {
        store(d, first_d + (g + i / 2 * 8) * N + 2 * t + i % 2, sums[i]);
    }
}

// The same product, with fragments by load_matrices: of `a` as it is, of `b` transposed, since it has rows of k.
KERNEL(sound_product_through_shared, THREADS, Global<const bf16> a, Global<const bf16> b, Global<f32> d) {
    SharedMemory memory;
    const Shared<bf16> rows_a = memory.take<bf16>(2 * M * K), rows_b = memory.take<bf16>(2 * K * N);
    for (u32 i = thread_index(); i < 2 * M * K; i += THREADS) {
        store(rows_a, i, load(a, i));
    }
    for (u32 i = thread_index(); i < 2 * K * N; i += THREADS) {
        store(rows_b, i, load(b, i));
    }
    block_sync();
    const Shared<bf16> own_a = from(rows_a, i32(warp_index() * M * K)), own_b = from(rows_b, i32(warp_index() * K * N));
    const u32 matrix = lane_index() / 8, row = lane_index() % 8;
    u32 of_a[4], of_b[4];
    load_matrices(of_a, own_a, (row + matrix % 2 * 8) * K + matrix / 2 * 8);
    // Two matrices, rows of k 0 to 7 and 8 to 15; the other lanes give the same addresses again.
    load_matrices_transposed(of_b, own_b, (row + matrix % 2 * 8) * N);
    const u32 g = lane_index() / 4, t = lane_index() % 4, first_d = warp_index() * M * N;
    f32 sums[4] = {};
    multiply_add(sums, of_a, {of_b[0], of_b[1]});
    for (u32 i = 0; i < 4; i++) {
        store(d, first_d + (g + i / 2 * 8) * N + 2 * t + i % 2, sums[i]);
    }
}

// Four 8 × 8 matrices into registers, as they are and transposed, and from registers to `back`. One warp.
KERNEL(sound_matrices, THREADS, Global<const bf16> x, Global<u32> plain, Global<u32> transposed, Global<bf16> back) {
    SharedMemory memory;
    const Shared<bf16> rows = memory.take<bf16>(4 * 64), copies = memory.take<bf16>(4 * 64);
    if (warp_index() != 0) {
        return;
    }
    const u32 lane = lane_index();
    store_pack(rows, lane * 8, load_pack(x, lane * 8));
    warp_sync();
    u32 r[4], s[4];
    load_matrices(r, rows, lane * 8);
    load_matrices_transposed(s, rows, lane * 8);
    store_matrices(copies, lane * 8, r);
    warp_sync();
    for (u32 m = 0; m < 4; m++) {
        store(plain, m * 32 + lane, r[m]);
        store(transposed, m * 32 + lane, s[m]);
    }
    store_pack(back, lane * 8, load_pack(copies, lane * 8));
}

#endif
