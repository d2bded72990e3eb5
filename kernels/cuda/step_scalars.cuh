// The scalars of a step as the host has them: `StepScalars` of kernels/src/ops/step_scalars.rs, words of 32 bits.
#pragma once

#include "isa/isa.cuh"

// The place of each word; a test of the host compares them with the struct's.
enum class Scalar : u32 {
    LR,
    LOSS_SCALE,
    MAX_GRAD_NORM,
    BETA1,
    BETA2,
    STEP,
    SEED_LOW,
    SEED_HIGH,
    MAX_SKIPPED,
    NUM_UPDATES,
    SKIPPED_TOTAL,
    SKIPPED_IN_ROW,
    FIRST_SKIPPED_STEP,
    FAILED,
    GRAD_NORM,
    CLIP_FACTOR,
    BIAS_CORRECTION1,
    BIAS_CORRECTION2,
    UPDATE,
    LOSS,
    Z_LOSS,
};

template <class T>
DEVICE u32 load_word(Global<T> scalars, Scalar which SITE) {
    return load(scalars, u32(which) PASS_SITE);
}
template <class T>
DEVICE f32 load_number(Global<T> scalars, Scalar which SITE) {
    return f32_of_bits(load(scalars, u32(which) PASS_SITE));
}
