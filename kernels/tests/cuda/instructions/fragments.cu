// The fragment maps of isa/matrix.cuh, read literally (fragments.rs).
#include "isa/isa.cuh"

#if WARP_SIZE == 32

constexpr u32 M = 16, N = 8, K = 16;

// Two elements as the halves of a register.
DEVICE u32 pair(Global<const bf16> x, u32 low, u32 high) { return load(x, low).bits | u32(load(x, high).bits) << 16; }

// d += a · b for row-major matrices, their fragments gathered element by element; each warp has matrices of its own.
KERNEL(instruction_multiply_add, 64, Global<const bf16> a, Global<const bf16> b, Global<f32> d) {
    const u32 g = lane_index() / 4, t = lane_index() % 4;
    const u32 first_a = warp_index() * M * K, first_b = warp_index() * K * N, first_d = warp_index() * M * N;
    u32 of_a[4], of_b[2];
    f32 sums[4];
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        const u32 at = first_a + (g + i % 2 * 8) * K + 2 * t + i / 2 * 8;
        of_a[i] = pair(a, at, at + 1);
    }
    UNROLL
    for (u32 i = 0; i < 2; i++) {
        const u32 at = first_b + (2 * t + 8 * i) * N + g;
        of_b[i] = pair(b, at, at + N);
    }
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        sums[i] = load(d, first_d + (g + i / 2 * 8) * N + 2 * t + i % 2);
    }
    multiply_add(sums, of_a, of_b);
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        store(d, first_d + (g + i / 2 * 8) * N + 2 * t + i % 2, sums[i]);
    }
}

// Four 8 × 8 matrices from shared memory into registers, as they are and transposed, and from registers to `back`. One warp;
// the second one only fills the block. Code for sm_80 has no stmatrix and stores the elements one by one.
KERNEL(instruction_matrices, 64, Global<const bf16> x, Global<u32> plain, Global<u32> transposed, Global<bf16> back) {
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
#if !ON_GPU || __CUDA_ARCH__ >= 900
    store_matrices(copies, lane * 8, r);
#else
    UNROLL
    for (u32 m = 0; m < 4; m++) {
        store_pair(copies, m * 64 + lane / 4 * 8 + lane % 4 * 2, r[m]);
    }
#endif
    warp_sync();
    UNROLL
    for (u32 m = 0; m < 4; m++) {
        store(plain, m * 32 + lane, r[m]);
        store(transposed, m * 32 + lane, s[m]);
    }
    store_pack(back, lane * 8, load_pack(copies, lane * 8));
}

#endif
