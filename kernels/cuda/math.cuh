// The functions of kernels/src/math.rs with the same operations in the same order, hence the same bits as the CPU device.
// Their formulas, errors and sources are told there.
#pragma once

#include "isa/isa.cuh"

// e^x for -87.3 <= x <= 88.7; of other numbers, that of the nearer bound. Fewer instructions than the definition, and its
// bits: adding 1.5 · 2^23 rounds to an integer as round_to_integer does and leaves it in the low bits, and since the
// result is a normal number, its exponent may be added as an integer.
DEVICE f32 exp_of_clamped(f32 x) {
    constexpr f32 LOG2_E = 1.44269504f, LN2_HIGH = 0.6933594f, LN2_LOW = -2.121944409e-4f, SHIFT = 12582912.0f;
    const f32 clamped = smaller(larger(x, -87.3f), 88.7f);
    const f32 shifted = clamped * LOG2_E + SHIFT;
    const f32 n = shifted - SHIFT;
    const f32 r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, clamped));
    f32 p = 1.9875691e-4f;
    p = fma(p, r, 1.3981999e-3f);
    p = fma(p, r, 8.333452e-3f);
    p = fma(p, r, 4.1665796e-2f);
    p = fma(p, r, 1.6666665e-1f);
    p = fma(p, r, 0.5f);
    const f32 series = fma(p, r * r, r) + 1.0f;
    return f32_of_bits(bits_of(series) + (bits_of(shifted) << 23));
}

// e^x, error below 2 units in the last place; 0 below -87.3, infinity above 88.7, NaN kept.
DEVICE f32 exp(f32 x) {
    const f32 value = exp_of_clamped(x);
    const f32 limited = x < -87.3f ? 0.0f : x > 88.7f ? infinity() : value;
    return is_nan(x) ? x : limited;
}

// 1 / (1 + e^-x); of NaN it is 1. The addition hides the lower limit of exp, so only the upper one is restored.
DEVICE f32 sigmoid_of_number(f32 x) { return -x > 88.7f ? 0.0f : reciprocal(1.0f + exp_of_clamped(-x)); }

// 1 / (1 + e^-x), NaN kept.
DEVICE f32 sigmoid(f32 x) { return is_nan(x) ? x : sigmoid_of_number(x); }

// Natural logarithm; ln(0) is -infinity, negative numbers give NaN, infinity and NaN are kept.
DEVICE f32 ln(f32 x) {
    constexpr f32 LN2_HIGH = 0.6933594f, LN2_LOW = -2.121944409e-4f, LEAST_NORMAL = 1.17549435e-38f;
    constexpr f32 TWO_TO_23 = 8388608.0f;
    constexpr u32 SQRT_HALF_BITS = 0x3f3504f3u;
    const bool subnormal = x < LEAST_NORMAL;
    const u32 bits = bits_of(subnormal ? x * TWO_TO_23 : x);
    const i32 exponent = i32(bits - SQRT_HALF_BITS) >> 23;
    const f32 r = f32_of_bits(bits - (u32(exponent) << 23)) - 1.0f;
    const f32 e = f32(exponent) - (subnormal ? 23.0f : 0.0f);
    f32 p = 7.0376836e-2f;
    p = fma(p, r, -1.151461e-1f);
    p = fma(p, r, 1.1676999e-1f);
    p = fma(p, r, -1.2420141e-1f);
    p = fma(p, r, 1.4249323e-1f);
    p = fma(p, r, -1.6668058e-1f);
    p = fma(p, r, 2.0000715e-1f);
    p = fma(p, r, -2.4999994e-1f);
    p = fma(p, r, 3.333333e-1f);
    const f32 square = r * r;
    const f32 low = fma(-0.5f, square, fma(e, LN2_LOW, p * r * square));
    const f32 value = fma(e, LN2_HIGH, r + low);
    if (x == infinity()) {
        return x;
    }
    if (x == 0.0f) {
        return -infinity();
    }
    return x >= 0.0f ? value : f32_of_bits(0x7fc00000u);
}

// Horner's scheme, highest coefficient first.
template <u32 LEN>
DEVICE f32 polynomial(const f32 (&coefficients)[LEN], f32 x) {
    f32 value = coefficients[0];
    UNROLL for (u32 i = 1; i < LEN; i++) { value = fma(value, x, coefficients[i]); }
    return value;
}

// The x for which a standard normal variable is below x with probability p; finite for 0 and 1, NaN kept.
DEVICE f32 inverse_normal(f32 p) {
    constexpr f32 CENTRE[] = {-6.5243359e-9f, -4.7204604e-9f, 6.105193e-7f,  -2.6907584e-6f, -1.7821578e-5f,
                              2.7657647e-4f,  -1.1829087e-3f, -8.115799e-3f, 3.417172e-1f,   2.2960353f};
    constexpr f32 TAIL[] = {6.28417e-5f,    -2.968483e-4f, 6.42089e-4f, -9.835189e-4f, 1.5396393e-3f,
                            -2.9120397e-3f, 4.634146e-3f,  1.4246343f,  4.717089f};
    constexpr f32 LARGEST_W = 22.5f;
    const f32 q = 2.0f * (p < 0.5f ? p : 1.0f - p);
    const f32 w = smaller(-ln(q * (2.0f - q)), LARGEST_W);
    // One number in a thousand lies in the tail: most warps compute the centre alone.
    const f32 ratio = w < 6.25f ? polynomial(CENTRE, w - 3.0f)
                                : polynomial(TAIL, square_root(larger(w, 0.0f)) - 3.5f);
    const f32 magnitude = (1.0f - q) * ratio;
    return p < 0.5f ? -magnitude : magnitude;
}
