// Fragments and products of the tensor cores (sm_80): bf16 operands, f32 sums. A warp of 32 holds a matrix in registers;
// with g = lane / 4 and t = lane % 4 (9.7.14.5.8, matrix fragments of mma.m16n8k16):
//
//   A, 16 × 16, rows m, columns k    a[0] (g,     2t, 2t+1)   a[1] (g + 8, 2t, 2t+1)
//                                    a[2] (g, 2t+8, 2t+9)     a[3] (g + 8, 2t+8, 2t+9)
//   B, 16 × 8, rows k, columns n     b[0] (k = 2t, 2t+1, n = g)   b[1] (k = 2t+8, 2t+9, n = g)
//   C, D, 16 × 8                     c[0], c[1] (g, 2t), (g, 2t+1)   c[2], c[3] (g + 8, 2t), (g + 8, 2t+1)
//
// Of a register's two bf16, the lower half is the lower index.
#pragma once

#include "platform.cuh"
#include "shared.cuh"

#if WARP_SIZE == 32

// d += a · b. mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 (9.7.14.5.14). Volatile, since all threads of the warp must
// execute it: the compiler may not move it to where only those are that use the result.
DEVICE void multiply_add(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2] SITE) {
#if ON_GPU
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulator::multiply_add(d, a, b, site);
#endif
}

// Four 8 × 8 matrices of bf16. Lane l gives the address of row l % 8 of matrix l / 8, the 16 bytes from element i on, a
// multiple of 16 bytes; r[m] receives elements (g, 2t), (g, 2t+1) of matrix m. ldmatrix.sync.aligned.m8n8.x4 (9.7.14.5.15).
DEVICE void load_matrices(u32 (&r)[4], Shared<bf16> x, u32 i SITE) {
#if ON_GPU
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(x, i))
                 : "memory");
#else
    emulator::load_matrices(r, x.range, (i64(x.first) + i64(i)) * 2, false, site);
#endif
}

// As load_matrices, each matrix transposed: r[m] receives (2t, g), (2t+1, g). ldmatrix…x4.trans.
DEVICE void load_matrices_transposed(u32 (&r)[4], Shared<bf16> x, u32 i SITE) {
#if ON_GPU
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(x, i))
                 : "memory");
#else
    emulator::load_matrices(r, x.range, (i64(x.first) + i64(i)) * 2, true, site);
#endif
}

// The mirror of load_matrices: writes four 8 × 8 matrices. stmatrix.sync.aligned.m8n8.x4 (9.7.14.5.16). Needs sm_90; code
// for sm_80 that calls it does not compile.
#if !ON_GPU || __CUDA_ARCH__ >= 900
DEVICE void store_matrices(Shared<bf16> x, u32 i, const u32 (&r)[4] SITE) {
#if ON_GPU
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(x, i)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
#else
    emulator::store_matrices(r, x.range, (i64(x.first) + i64(i)) * 2, site);
#endif
}
#endif

#endif
