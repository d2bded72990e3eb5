// AdamW: weights, moments and the compute copy of the weights in one pass, as kernels/src/ops/adamw.rs defines it.
//
//   g = clip_factor · grad
//   m = m + (1 - beta1) · (g - m)
//   v = beta2 · v + (1 - beta2) · g²
//   p = p · (1 - lr · weight_decay) - lr / bias_correction1 · m / (sqrt(v) / sqrt(bias_correction2) + eps)
//   weights = round(stored p)
//
// All [n]: grad f32; master f32 or bf16; m, v f32 or bf16; weights f32 or bf16. What is stored as bf16 is rounded
// stochastically but for `weights`. scalars [WORDS] u32: where their `update` is 0 nothing is read or written.
//
// Bytes per element: 4 (grad) + 2 · (master + m + v) + weights, 30 with an f32 state and bf16 weights. FLOPs: 15, and one
// Philox block of 20 products for 8 elements and each tensor rounded. Floor: bytes / bandwidth. Geometry: 256 threads,
// groups of elements in a grid-stride loop, at most 2048 blocks; no shared memory. A group is 16 bytes of the widest tensor
// that is written, 4 elements or 8: neighbours write whole sectors of every tensor. Its noise comes from one counter where
// its index is a multiple of its length; elsewhere elements go one by one, each with a counter of its own.
#include "elements.cuh"
#include "isa/isa.cuh"
#include "philox.cuh"
#include "step_scalars.cuh"
#include "vector.cuh"

// What differs from one group of parameters to the next.
struct Hyperparameters {
    f32 lr_scale, eps, weight_decay;
};

// `Coefficients` of the host, by the same operations.
struct Coefficients {
    f32 clip_factor, decay, beta1_complement, beta2, beta2_complement, step_size, root_scale, eps;
};

DEVICE Coefficients coefficients(Hyperparameters group, Global<const u32> scalars) {
    const f32 lr = load_number(scalars, Scalar::LR) * group.lr_scale, beta2 = load_number(scalars, Scalar::BETA2);
    Coefficients c;
    c.clip_factor = load_number(scalars, Scalar::CLIP_FACTOR);
    c.decay = fma(-lr, group.weight_decay, 1.0f);
    c.beta1_complement = 1.0f - load_number(scalars, Scalar::BETA1);
    c.beta2 = beta2;
    c.beta2_complement = 1.0f - beta2;
    c.step_size = divide(lr, load_number(scalars, Scalar::BIAS_CORRECTION1));
    c.root_scale = divide(1.0f, square_root(load_number(scalars, Scalar::BIAS_CORRECTION2)));
    c.eps = group.eps;
    return c;
}

// One element before or after its update.
struct State {
    f32 p, m, v;
};

DEVICE State updated(const Coefficients& c, f32 grad, State old) {
    const f32 g = c.clip_factor * grad;
    const f32 m = fma(c.beta1_complement, g - old.m, old.m);
    const f32 v = fma(c.beta2_complement, g * g, c.beta2 * old.v);
    const f32 denominator = fma(square_root(v), c.root_scale, c.eps);
    const f32 p = fma(-c.step_size, divide(m, denominator), c.decay * old.p);
    return State{p, m, v};
}

// How a type keeps a result: exactly, or rounded with noise.
template <class T>
struct Stored;
template <>
struct Stored<f32> {
    static constexpr bool ROUNDS = false;
    static METHOD f32 from(f32 value, u32) { return value; }
};
template <>
struct Stored<bf16> {
    static constexpr bool ROUNDS = true;
    static METHOD bf16 from(f32 value, u32 noise) { return round_stochastic(value, noise); }
};

// The noise of the elements of one block, if T needs it.
template <class T>
DEVICE PhiloxWords noise_block(PhiloxKey key, u64 tensor_key, u64 index) {
    if constexpr (Stored<T>::ROUNDS) {
        return philox_block(index / NOISES_PER_BLOCK, tensor_key, key);
    } else {
        return PhiloxWords{};
    }
}

// The noise of three streams for the elements of one block.
struct Noise {
    PhiloxWords p, m, v;
};

// The tensors of a call, and where their noise comes from.
template <class P, class S, class W>
struct Update {
    static constexpr bool ROUNDS = Stored<P>::ROUNDS || Stored<S>::ROUNDS;
    static constexpr u32 WIDEST_BYTES = sizeof(P) + sizeof(S) + sizeof(W) == 6 ? 2 : 4;
    static constexpr u32 LEN = 16 / WIDEST_BYTES;
    Global<const f32> grad;
    Global<P> master;
    Global<S> m, v;
    Global<W> weights;
    Coefficients coefficients;
    PhiloxKey p_key, m_key, v_key;
    u64 tensor_key;
    GlobalIndex index;

    METHOD Noise noise(u64 place) const {
        return Noise{noise_block<P>(p_key, tensor_key, place), noise_block<S>(m_key, tensor_key, place),
                     noise_block<S>(v_key, tensor_key, place)};
    }

    METHOD void one(u64 i) const {
        const u64 place = ROUNDS ? index.at(i) : 0;
        const Noise noise = this->noise(place);
        const u32 n = u32(place % NOISES_PER_BLOCK);
        const State old{to_f32(load(master, i)), to_f32(load(m, i)), to_f32(load(v, i))};
        const State now = updated(coefficients, load(grad, i), old);
        const P stored = Stored<P>::from(now.p, noise_of(noise.p, n));
        store(master, i, stored);
        store(m, i, Stored<S>::from(now.m, noise_of(noise.m, n)));
        store(v, i, Stored<S>::from(now.v, noise_of(noise.v, n)));
        store(weights, i, round_to<W>(to_f32(stored)));
    }

    METHOD void group(u64 i) const {
        const Elements<f32, LEN> grads = load_elements<LEN>(grad, i);
        Elements<P, LEN> ps = load_elements<LEN>(master, i);
        Elements<S, LEN> ms = load_elements<LEN>(m, i), vs = load_elements<LEN>(v, i);
        // After the loads, whose time it fills.
        const u64 place = ROUNDS ? index.at(i) : 0;
        const Noise noise = this->noise(place);
        const u32 first_noise = LEN == NOISES_PER_BLOCK ? 0 : u32(place % NOISES_PER_BLOCK);
        Elements<W, LEN> copies;
        UNROLL for (u32 j = 0; j < LEN; j++) {
            const State old{to_f32(ps[j]), to_f32(ms[j]), to_f32(vs[j])};
            const State now = updated(coefficients, grads[j], old);
            const u32 n = first_noise + j;
            ps[j] = Stored<P>::from(now.p, noise_of(noise.p, n));
            ms[j] = Stored<S>::from(now.m, noise_of(noise.m, n));
            vs[j] = Stored<S>::from(now.v, noise_of(noise.v, n));
            copies[j] = round_to<W>(to_f32(ps[j]));
        }
        store_elements(master, i, ps);
        store_elements(m, i, ms);
        store_elements(v, i, vs);
        store_elements(weights, i, copies);
    }

    // Whether elements may go in groups: by addresses, and by indices where noise depends on them.
    METHOD bool takes_groups() const {
        const bool aligned =
            is_aligned(grad) && is_aligned(master) && is_aligned(m) && is_aligned(v) && is_aligned(weights);
        return aligned && (!ROUNDS || index.keeps_groups_of(LEN));
    }
};

template <class P, class S, class W>
DEVICE void adamw_update(Global<const u32> scalars, Global<const f32> grad, Global<P> master, Global<S> m, Global<S> v,
                         Global<W> weights, Hyperparameters hyper, u64 tensor_key, GlobalIndex index, u64 len) {
    if (load_word(scalars, Scalar::UPDATE) == 0) {
        return;
    }
    const PhiloxKey seed{load_word(scalars, Scalar::SEED_LOW), load_word(scalars, Scalar::SEED_HIGH)};
    const u32 step = load_word(scalars, Scalar::STEP);
    const Update<P, S, W> update{grad,
                                 master,
                                 m,
                                 v,
                                 weights,
                                 coefficients(hyper, scalars),
                                 rounding_key(seed, step, RoundingStream::MASTER),
                                 rounding_key(seed, step, RoundingStream::FIRST_MOMENT),
                                 rounding_key(seed, step, RoundingStream::SECOND_MOMENT),
                                 tensor_key,
                                 index};
    constexpr u32 LEN = Update<P, S, W>::LEN;
    for_each_group<LEN>(update.takes_groups(), len, [&](u64 i) { update.one(i); }, [&](u64 i) { update.group(i); });
}

#define ENTRY(P, S, W)                                                                                       \
    KERNEL(adamw_update_##P##_##S##_##W, 256, Global<const u32> scalars, Global<const f32> grad, Global<P> master, \
           Global<S> m, Global<S> v, Global<W> weights, f32 lr_scale, f32 eps, f32 weight_decay, u64 tensor_key, \
           u64 row_start, u64 column, u64 row_len, u64 row_stride, u64 len) {                                \
        adamw_update(scalars, grad, master, m, v, weights, Hyperparameters{lr_scale, eps, weight_decay}, tensor_key, \
                     GlobalIndex{row_start, column, row_len, row_stride}, len);                              \
    }
ENTRY(f32, f32, f32)
ENTRY(f32, f32, bf16)
ENTRY(f32, bf16, f32)
ENTRY(f32, bf16, bf16)
ENTRY(bf16, f32, f32)
ENTRY(bf16, f32, bf16)
ENTRY(bf16, bf16, f32)
ENTRY(bf16, bf16, bf16)
