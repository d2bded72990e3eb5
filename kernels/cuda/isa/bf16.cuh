// bfloat16: the upper half of an f32. Our own type, so that no header of a vendor is needed.
#pragma once

#include "platform.cuh"

struct bf16 {
    u16 bits;
};

// Reinterpretation of 32 bits.
DEVICE u32 bits_of(f32 x) {
#if ON_GPU
    return __float_as_uint(x);
#else
    return emulator::bit_cast<u32>(x);
#endif
}
DEVICE f32 f32_of_bits(u32 bits) {
#if ON_GPU
    return __uint_as_float(bits);
#else
    return emulator::bit_cast<f32>(bits);
#endif
}

// Widens exactly.
DEVICE f32 to_f32(bf16 x) { return f32_of_bits(u32(x.bits) << 16); }
DEVICE f32 to_f32(f32 x) { return x; }

// Two values as the low and the high half of a register, each rounded to nearest, ties to even.
// cvt.rn.bf16x2.f32 d, a, b (9.7.9.21): a goes to the upper half. sm_80.
DEVICE u32 pack_bf16(f32 low, f32 high) {
#if ON_GPU
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#else
    return emulator::round_bf16(low) | u32(emulator::round_bf16(high)) << 16;
#endif
}

// The two values of such a register.
DEVICE f32 low_bf16(u32 packed) { return f32_of_bits(packed << 16); }
DEVICE f32 high_bf16(u32 packed) { return f32_of_bits(packed & 0xffff0000u); }

// Rounds to nearest, ties to even, into the type of a tensor: round_to<T>(x).
template <class T>
struct Round;
template <>
struct Round<f32> {
    static METHOD f32 from(f32 x) { return x; }
};
template <>
struct Round<bf16> {
    // cvt.rn.bf16.f32 (9.7.9.21). sm_80.
    static METHOD bf16 from(f32 x) {
#if ON_GPU
        u16 bits;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
        return bf16{bits};
#else
        return bf16{emulator::round_bf16(x)};
#endif
    }
};
template <class T>
DEVICE T round_to(f32 x) {
    return Round<T>::from(x);
}
