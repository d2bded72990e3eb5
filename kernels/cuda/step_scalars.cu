// The decision about a step's update, on the device so that the host need not wait: StepScalars::finish of
// kernels/src/ops/step_scalars.rs, operation by operation.
//
//   grad_norm = sqrt(sum_of_squares), loss = loss_sums[0] · loss_scale, z_loss = loss_sums[1] · loss_scale
//   apply the update if both are finite and the run has not failed, else count a skipped step
//   bias_correction = 1 - beta^num_updates in f64
//
// sum_of_squares [1] f32, loss_sums [2] f32, scalars [WORDS] u32. Some 180 bytes: the floor is a launch. Geometry: one
// block, one of whose threads works; no shared memory.
#include "isa/isa.cuh"
#include "step_scalars.cuh"

DEVICE bool is_finite(f32 x) { return (bits_of(x) & 0x7fffffffu) < 0x7f800000u; }

// 1 - beta^updates, by repeated squaring.
DEVICE f32 bias_correction(f32 beta, u32 updates) {
    f64 power = 1.0, square = f64(beta);
    for (u32 exponent = updates; exponent > 0; exponent /= 2) {
        if (exponent % 2 == 1) {
            power = power * square;
        }
        square = square * square;
    }
    return f32(1.0 - power);
}

DEVICE void store_word(Global<u32> scalars, Scalar which, u32 value SITE) {
    store(scalars, u32(which), value PASS_SITE);
}
DEVICE void store_number(Global<u32> scalars, Scalar which, f32 value SITE) {
    store(scalars, u32(which), bits_of(value) PASS_SITE);
}

DEVICE f32 clip_factor(f32 max_grad_norm, f32 grad_norm) {
    const f32 ratio = divide(max_grad_norm, grad_norm + 1e-6f);
    return ratio < 1.0f ? ratio : 1.0f;
}

// Counts one more skipped step.
DEVICE void skip(Global<u32> scalars) {
    const u32 in_row = load_word(scalars, Scalar::SKIPPED_IN_ROW);
    if (in_row == 0) {
        store_word(scalars, Scalar::FIRST_SKIPPED_STEP, load_word(scalars, Scalar::STEP));
    }
    store_word(scalars, Scalar::SKIPPED_TOTAL, load_word(scalars, Scalar::SKIPPED_TOTAL) + 1);
    store_word(scalars, Scalar::SKIPPED_IN_ROW, in_row + 1);
    if (in_row + 1 >= load_word(scalars, Scalar::MAX_SKIPPED)) {
        store_word(scalars, Scalar::FAILED, 1u);
    }
}

KERNEL(finish_step_scalars, 64, Global<const f32> sum_of_squares, Global<const f32> loss_sums, Global<u32> scalars) {
    if (thread_index() != 0) {
        return;
    }
    const f32 grad_norm = square_root(load(sum_of_squares, 0)), loss_scale = load_number(scalars, Scalar::LOSS_SCALE);
    const f32 loss = load(loss_sums, 0) * loss_scale;
    const bool apply = is_finite(grad_norm) && is_finite(loss) && load_word(scalars, Scalar::FAILED) == 0;
    const u32 num_updates = load_word(scalars, Scalar::NUM_UPDATES) + (apply ? 1u : 0u);
    if (apply) {
        store_word(scalars, Scalar::NUM_UPDATES, num_updates);
        store_word(scalars, Scalar::SKIPPED_IN_ROW, 0u);
    } else {
        skip(scalars);
    }
    store_number(scalars, Scalar::GRAD_NORM, grad_norm);
    const f32 max_grad_norm = load_number(scalars, Scalar::MAX_GRAD_NORM);
    store_number(scalars, Scalar::CLIP_FACTOR, apply ? clip_factor(max_grad_norm, grad_norm) : 0.0f);
    store_number(scalars, Scalar::BIAS_CORRECTION1, bias_correction(load_number(scalars, Scalar::BETA1), num_updates));
    store_number(scalars, Scalar::BIAS_CORRECTION2, bias_correction(load_number(scalars, Scalar::BETA2), num_updates));
    store_word(scalars, Scalar::UPDATE, apply ? 1u : 0u);
    store_number(scalars, Scalar::LOSS, loss);
    store_number(scalars, Scalar::Z_LOSS, load(loss_sums, 1) * loss_scale);
}
