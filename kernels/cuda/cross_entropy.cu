// Softmax cross-entropy of rows of f32 logits, and its gradient in their place or, rounded to bf16, beside them.
//
//   M = max_v logits[t, v],  S = sum_v e^(logits[t, v] - M),  lse = M + ln S
//   cross_entropy[t] = M - logits[t, label] + ln S,  z_losses[t] = z_loss · lse²
//   dlogits[t, v] = loss_scale · ((1 + 2 · z_loss · lse) · e^(logits[t, v] - M) / S - [v = label])
//
//   softmax_cross_entropy_rows   all of it, where one rank holds all classes
//   shard_maxima, shard_terms, shard_losses   the same in three phases around a maximum and a sum over ranks
//
// logits [tokens, classes] f32, dlogits [tokens, classes] bf16, labels [tokens] i32, all else [tokens] or [2, tokens] f32.
// Without a loss_scale (it is optional) there are losses alone; without dlogits (they are too) gradients replace what they
// are computed from. Labels that are no class and not IGNORED give losses that are not numbers.
//
// Bytes: per logit 4 (maxima), 8 (terms, losses), 12 (rows: two reads, of which the second finds in the cache what fits
// there, and a write; 4 without gradient); 2 less with dlogits. FLOPs: about 40 per logit and exponential. Floor: bytes /
// bandwidth, with 8 for rows. Geometry: a block for each row, of 64 to 1024 threads by the width of the row, 4 logits at a time for each;
// shared memory: a number for each warp.
//
// Which thread adds which logits in which order depends on the width of the row alone, not on alignment.
#include "elements.cuh"
#include "isa/isa.cuh"
#include "math.cuh"
#include "reduce.cuh"

// The label of a token without a target.
constexpr i32 IGNORED = -100;

DEVICE bool is_class(i32 label, u32 vocab_size) { return label >= 0 && u32(label) < vocab_size; }
DEVICE f32 not_a_number() { return f32_of_bits(0x7fc00000u); }

// A row, by quads: 4 adjacent elements. Beyond its end it is -infinity, which changes no maximum and no sum of
// exponentials.
constexpr u32 QUAD = Pack<f32>::LEN;
template <class T>
struct Row {
    Global<T> data;
    u32 len;
    bool aligned;

    METHOD Pack<f32> load_quad(u32 i) const {
        if (aligned && i + QUAD <= len) {
            return load_pack(data, i);
        }
        Pack<f32> quad;
        UNROLL for (u32 j = 0; j < QUAD; j++) { quad[j] = i + j < len ? load(data, i + j) : -infinity(); }
        return quad;
    }

    METHOD void store_quad(u32 i, Pack<f32> quad) const {
        Elements<T, QUAD> values;
        UNROLL for (u32 j = 0; j < QUAD; j++) { values[j] = round_to<T>(quad[j]); }
        if (aligned && i + QUAD <= len) {
            store_elements(data, i, values);
            return;
        }
        UNROLL for (u32 j = 0; j < QUAD; j++) {
            if (i + j < len) {
                store(data, i + j, values[j]);
            }
        }
    }
};

template <class T>
DEVICE Row<T> row_of(Global<T> logits, u32 t, u32 width) {
    const Global<T> data = from(logits, i64(u64(t) * width));
    return Row<T>{data, width, is_aligned(data)};
}

// Calls visit(i, quad) for this thread's quads in order. Several are read before the first is used, which hides the time
// that a read takes.
template <class T, class Visit>
DEVICE void for_each_quad(Row<T> row, Visit visit) {
    constexpr u32 BATCH = 4;
    const u32 stride = num_threads() * QUAD;
    for (u32 i = thread_index() * QUAD; i < row.len; i += BATCH * stride) {
        Pack<f32> quads[BATCH];
        UNROLL for (u32 k = 0; k < BATCH; k++) { quads[k] = row.load_quad(i + k * stride); }
        UNROLL for (u32 k = 0; k < BATCH; k++) { visit(i + k * stride, quads[k]); }
    }
}

DEVICE f32 quad_max(Pack<f32> quad) { return larger(larger(quad[0], quad[1]), larger(quad[2], quad[3])); }
DEVICE f32 quad_sum(Pack<f32> quad) { return (quad[0] + quad[1]) + (quad[2] + quad[3]); }

// e^(x - max) of each.
DEVICE Pack<f32> exponentials(Pack<f32> quad, f32 max) {
    UNROLL for (u32 j = 0; j < QUAD; j++) { quad[j] = exp(quad[j] - max); }
    return quad;
}

// The largest logit so far, and the sum of the exponentials of their differences to it.
struct OnlineSum {
    f32 max = -infinity(), sum = 0.0f;

    // What differences are taken to: with -infinity they would not be numbers.
    METHOD f32 reference() const { return max == -infinity() ? 0.0f : max; }

    METHOD void add(Pack<f32> quad) {
        const f32 largest = quad_max(quad);
        if (largest > max) {
            sum = sum * exp(max - largest);
            max = largest;
        }
        sum = sum + quad_sum(exponentials(quad, reference()));
    }

    // The two of the whole block.
    METHOD OnlineSum of_block(Shared<f32> of_warps) const {
        OnlineSum all;
        all.max = block_max(max, of_warps);
        all.sum = block_sum(sum * exp(max - all.reference()), of_warps);
        return all;
    }
};

// What a row's loss and gradient need of all its logits.
struct Softmax {
    f32 z_loss, max, sum;

    METHOD f32 logsumexp() const { return max + ln(sum); }
    // The difference of the two large terms is taken first, so that large logits cost no digits.
    METHOD f32 cross_entropy(f32 target_logit) const { return max - target_logit + ln(sum); }
    METHOD f32 squared() const { return z_loss * logsumexp() * logsumexp(); }
    // The gradient of a logit per exponential.
    METHOD f32 factor(f32 loss_scale) const {
        return divide(loss_scale * (1.0f + 2.0f * z_loss * logsumexp()), sum);
    }
};

// As on the CPU device, to which subnormal gradients cost time.
DEVICE f32 without_subnormal(f32 x) {
    constexpr f32 LEAST_NORMAL = 1.17549435e-38f;
    return x < LEAST_NORMAL && x > -LEAST_NORMAL ? 0.0f : x;
}

// The gradients of a quad at i; `target` is the label's place in the row, beyond it if it is not here.
DEVICE Pack<f32> gradients(Pack<f32> exponentials, f32 factor, f32 loss_scale, u32 i, u32 target) {
    UNROLL for (u32 j = 0; j < QUAD; j++) {
        const f32 term = without_subnormal(exponentials[j] * factor);
        exponentials[j] = i + j == target ? term - loss_scale : term;
    }
    return exponentials;
}

template <class T>
DEVICE void clear_row(Row<T> row) {
    for (u32 i = thread_index() * QUAD; i < row.len; i += num_threads() * QUAD) {
        row.store_quad(i, Pack<f32>{});
    }
}

// Where the gradients of a row go.
struct GradientRow {
    Row<f32> in_place;
    Row<bf16> narrow;
    bool is_narrow;

    METHOD void clear() const {
        if (is_narrow) {
            clear_row(narrow);
        } else {
            clear_row(in_place);
        }
    }

    // Stores gradient(i, quad) of what stands in place.
    template <class Gradient>
    METHOD void store(Gradient gradient) const {
        if (is_narrow) {
            for_each_quad(in_place, [&](u32 i, Pack<f32> quad) { narrow.store_quad(i, gradient(i, quad)); });
        } else {
            for_each_quad(in_place, [&](u32 i, Pack<f32> quad) { in_place.store_quad(i, gradient(i, quad)); });
        }
    }
};

DEVICE GradientRow gradient_row(Row<f32> in_place, Global<bf16> dlogits, u32 t) {
    const bool is_narrow = is_present(dlogits);
    return GradientRow{in_place, is_narrow ? row_of(dlogits, t, in_place.len) : Row<bf16>{}, is_narrow};
}

// Where the losses of a token go. One thread stores them.
struct Losses {
    Global<f32> cross_entropy, z_losses;

    METHOD void store(u32 t, f32 cross_entropy_of_token, f32 z_loss_of_token) const {
        if (thread_index() == 0) {
            ::store(cross_entropy, t, cross_entropy_of_token);
            ::store(z_losses, t, z_loss_of_token);
        }
    }
};

// An ignored token: no loss, no gradient.
DEVICE void ignore(const GradientRow& row, u32 t, Losses losses, bool has_gradient) {
    losses.store(t, 0.0f, 0.0f);
    if (has_gradient) {
        row.clear();
    }
}

KERNEL(softmax_cross_entropy_rows, 1024, Global<f32> logits, Global<bf16> dlogits, Global<const i32> labels,
       Global<const f32> loss_scale, Global<f32> cross_entropy, Global<f32> z_losses, f32 z_loss, u32 vocab_size) {
    SharedMemory memory;
    const Shared<f32> of_warps = take_for_warps(memory);
    const u32 t = block_x();
    const i32 label = load(labels, t);
    const Row<f32> row = row_of(logits, t, vocab_size);
    const GradientRow gradient = gradient_row(row, dlogits, t);
    const Losses losses{cross_entropy, z_losses};
    if (label == IGNORED) {
        ignore(gradient, t, losses, is_present(loss_scale));
        return;
    }
    // Before the barriers below, since gradients replace the logits after them.
    const f32 target_logit = is_class(label, vocab_size) ? load(row.data, u32(label)) : not_a_number();
    OnlineSum own;
    for_each_quad(row, [&](u32, Pack<f32> quad) { own.add(quad); });
    const OnlineSum all = own.of_block(of_warps);
    const Softmax softmax{z_loss, all.max, all.sum};
    losses.store(t, softmax.cross_entropy(target_logit), softmax.squared());
    if (!is_present(loss_scale)) {
        return;
    }
    const f32 scale = load(loss_scale, 0), factor = softmax.factor(scale);
    gradient.store([&](u32 i, Pack<f32> quad) {
        return gradients(exponentials(quad, softmax.max), factor, scale, i, u32(label));
    });
}

KERNEL(shard_maxima, 1024, Global<const f32> logits, Global<f32> maxima, u32 classes) {
    SharedMemory memory;
    const Shared<f32> of_warps = take_for_warps(memory);
    const u32 t = block_x();
    f32 largest = -infinity();
    for_each_quad(row_of(logits, t, classes), [&](u32, Pack<f32> quad) { largest = larger(largest, quad_max(quad)); });
    largest = block_max(largest, of_warps);
    if (thread_index() == 0) {
        store(maxima, t, largest);
    }
}

// Where the label's class stands among those of this rank; beyond them if it is on another one.
DEVICE u32 local_class(i32 label, u32 first_class, u32 classes) {
    const u32 local = u32(label) - first_class;
    return u32(label) >= first_class && local < classes ? local : ~0u;
}

// terms[t] = the sum of exponentials; terms[tokens + t] = the label's logit, by the one thread that has it.
KERNEL(shard_terms, 1024, Global<f32> logits, Global<const i32> labels, Global<const f32> maxima, Global<f32> terms,
       u32 tokens, u32 first_class, u32 classes, u32 vocab_size) {
    SharedMemory memory;
    const Shared<f32> of_warps = take_for_warps(memory);
    const u32 t = block_x();
    const i32 label = load(labels, t);
    const Row<f32> row = row_of(logits, t, classes);
    const u32 target = label == IGNORED ? ~0u : local_class(label, first_class, classes);
    f32 sum = 0.0f;
    if (label != IGNORED) {
        const f32 max = load(maxima, t);
        for_each_quad(row, [&](u32 i, Pack<f32> quad) {
            const Pack<f32> powers = exponentials(quad, max);
            row.store_quad(i, powers);
            sum = sum + quad_sum(powers);
            UNROLL for (u32 j = 0; j < QUAD; j++) {
                if (i + j == target) {
                    store(terms, u64(tokens) + t, quad[j]);
                }
            }
        });
    }
    sum = block_sum(sum, of_warps);
    if (thread_index() == 0) {
        store(terms, t, sum);
        if (target == ~0u) {
            const bool has_loss = label == IGNORED || is_class(label, vocab_size);
            store(terms, u64(tokens) + t, has_loss ? 0.0f : not_a_number());
        }
    }
}

KERNEL(shard_losses, 1024, Global<f32> exponentials, Global<bf16> dlogits, Global<const i32> labels,
       Global<const f32> maxima, Global<const f32> terms, Global<const f32> loss_scale, Global<f32> cross_entropy,
       Global<f32> z_losses, f32 z_loss, u32 tokens, u32 first_class, u32 classes) {
    const u32 t = block_x();
    const i32 label = load(labels, t);
    const GradientRow gradient = gradient_row(row_of(exponentials, t, classes), dlogits, t);
    const Losses losses{cross_entropy, z_losses};
    if (label == IGNORED) {
        ignore(gradient, t, losses, is_present(loss_scale));
        return;
    }
    const Softmax softmax{z_loss, load(maxima, t), load(terms, t)};
    losses.store(t, softmax.cross_entropy(load(terms, u64(tokens) + t)), softmax.squared());
    if (!is_present(loss_scale)) {
        return;
    }
    const f32 scale = load(loss_scale, 0), factor = softmax.factor(scale);
    const u32 target = local_class(label, first_class, classes);
    gradient.store([&](u32 i, Pack<f32> quad) { return gradients(quad, factor, scale, i, target); });
}
