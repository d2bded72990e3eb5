// Shuffles and votes. All threads of a warp take part, at the same line: there is no mask. They exchange registers and
// order no memory (9.7.9.6 shfl.sync, 9.7.13.9 vote.sync); warp_sync does that.
#pragma once

#include "bf16.cuh"
#include "platform.cuh"

// The value of lane `lane ^ mask`. shfl.sync.bfly.
DEVICE u32 shuffle_xor(u32 value, u32 mask SITE) {
#if ON_GPU
    return __shfl_xor_sync(0xffffffffu, value, mask);
#else
    return emulator::shuffle_xor(value, mask, site);
#endif
}
DEVICE f32 shuffle_xor(f32 value, u32 mask SITE) { return f32_of_bits(shuffle_xor(bits_of(value), mask PASS_SITE)); }

// The value of lane `lane + distance`, of the own lane where there is none. shfl.sync.down.
DEVICE u32 shuffle_down(u32 value, u32 distance SITE) {
#if ON_GPU
    return __shfl_down_sync(0xffffffffu, value, distance);
#else
    return emulator::shuffle_down(value, distance, site);
#endif
}
DEVICE f32 shuffle_down(f32 value, u32 distance SITE) {
    return f32_of_bits(shuffle_down(bits_of(value), distance PASS_SITE));
}

// The value of lane `source`, which may differ from lane to lane. shfl.sync.idx.
DEVICE u32 shuffle(u32 value, u32 source SITE) {
#if ON_GPU
    return __shfl_sync(0xffffffffu, value, source);
#else
    return emulator::shuffle(value, source, site);
#endif
}
DEVICE f32 shuffle(f32 value, u32 source SITE) { return f32_of_bits(shuffle(bits_of(value), source PASS_SITE)); }

// Bit l is the condition of lane l (NVRTC has a `ballot` of its own). vote.sync.ballot.
DEVICE u64 lanes_where(bool condition SITE) {
#if ON_GPU
    return __ballot_sync(0xffffffffu, condition);
#else
    return emulator::ballot(condition, site);
#endif
}

// Whether it holds for every lane, or for one at least. vote.sync.all, vote.sync.any.
DEVICE bool all_lanes(bool condition SITE) {
#if ON_GPU
    return __all_sync(0xffffffffu, condition);
#else
    return emulator::ballot(!condition, site) == 0;
#endif
}
DEVICE bool any_lane(bool condition SITE) {
#if ON_GPU
    return __any_sync(0xffffffffu, condition);
#else
    return emulator::ballot(condition, site) != 0;
#endif
}
