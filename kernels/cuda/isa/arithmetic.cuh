// Single instructions on registers. Products and sums are written with operators and are never contracted: a·b + c has
// two roundings on every machine unless it is written fma(a, b, c).
#pragma once

#include "bf16.cuh"
#include "platform.cuh"

// a · b + c with one rounding. fma.rn.f32 (9.7.3.6).
DEVICE f32 fma(f32 a, f32 b, f32 c) {
#if ON_GPU
    return __fmaf_rn(a, b, c);
#else
    return __builtin_fmaf(a, b, c);
#endif
}

// Correctly rounded root. sqrt.rn.f32 (9.7.3.15).
DEVICE f32 square_root(f32 x) {
#if ON_GPU
    return __fsqrt_rn(x);
#else
    return __builtin_sqrtf(x);
#endif
}

// Correctly rounded quotient. div.rn.f32 (9.7.3.8).
DEVICE f32 divide(f32 a, f32 b) {
#if ON_GPU
    return __fdiv_rn(a, b);
#else
    return a / b;
#endif
}

// Correctly rounded 1 / x: the bits of divide(1, x) in fewer instructions. rcp.rn.f32 (9.7.3.13).
DEVICE f32 reciprocal(f32 x) {
#if ON_GPU
    return __frcp_rn(x);
#else
    return 1.0f / x;
#endif
}

// To the nearest integer, ties to even. cvt.rni.f32.f32 (9.7.9.21).
DEVICE f32 round_to_integer(f32 x) {
#if ON_GPU
    return rintf(x);
#else
    return __builtin_rintf(x);
#endif
}

// 2^x, relative error below 2^-22; 0 for -infinity. ex2.approx.ftz.f32 (9.7.3.21): results below 2^-126 are 0. The
// host computes it exactly rounded, so it is for ops that are compared within a tolerance.
DEVICE f32 exp2_approximate(f32 x) {
#if ON_GPU
    f32 result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#else
    return emulator::exp2_flushed(x);
#endif
}

// The larger one; the other one where one is NaN. max.f32 (9.7.3.12).
DEVICE f32 larger(f32 a, f32 b) {
#if ON_GPU
    return fmaxf(a, b);
#else
    return __builtin_fmaxf(a, b);
#endif
}

// The smaller one; the other one where one is NaN. min.f32 (9.7.3.11).
DEVICE f32 smaller(f32 a, f32 b) {
#if ON_GPU
    return fminf(a, b);
#else
    return __builtin_fminf(a, b);
#endif
}

// The upper 32 bits of a product. mul.hi.u32 (9.7.1.3).
DEVICE u32 multiply_high(u32 a, u32 b) {
#if ON_GPU
    return __umulhi(a, b);
#else
    return u32((u64(a) * u64(b)) >> 32);
#endif
}

// The place of the lowest bit that is set; there must be one. brev.b64 (9.7.1.17) and bfind.u64 (9.7.1.16).
DEVICE u32 lowest_set_bit(u64 bits) {
#if ON_GPU
    return u32(__ffsll(i64(bits)) - 1);
#else
    return u32(__builtin_ctzll(bits));
#endif
}

// Changes nothing, but the compiler takes the register's value for a new one: what was computed from it before is
// computed again, not kept. No instruction.
DEVICE void renew(u32& word) {
#if ON_GPU
    asm volatile("" : "+r"(word));
#else
    (void)word;
#endif
}

DEVICE bool is_nan(f32 x) { return x != x; }
DEVICE f32 infinity() { return f32_of_bits(0x7f800000u); }

template <class T>
DEVICE T least(T a, T b) {
    return a < b ? a : b;
}
