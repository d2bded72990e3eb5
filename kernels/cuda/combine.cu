// Several tensors into one: own[i] = the tree over `count` tensors of which `own` is number own_index, adjacent pairs
// level by level, ((0 + 1) + (2 + 3)) + ... Sums (of integers modulo 2^n) or maxima (NaN if any is NaN), in f32 for
// floating-point tensors, with one rounding at the end.
//
//   combine   up to MAX_TENSORS, of any type: each is a parameter
//   stack     up to 8 · 1023, floating-point: the others lie one behind the other in `others` [count - 1, len]
//
// Bytes: (count + 1) elements for each of own; count - 1 FLOPs. Floor: bytes / bandwidth.
// Geometry: 256 threads, blocks in a grid-stride loop over packs of 16 bytes, of stacks over 4 elements; no shared
// memory. Tensors are parameters or equally far apart, so that no table of pointers has to be made; their number is the
// same for all threads.
#include "elements.cuh"
#include "isa/isa.cuh"
#include "vector.cuh"

constexpr u32 MAX_TENSORS = 32;

// What elements of T are combined as.
template <class T>
struct Computed {
    using Type = T;
    static METHOD T widen(T x) { return x; }
    static METHOD T narrow(T x) { return x; }
};
template <>
struct Computed<bf16> {
    using Type = f32;
    static METHOD f32 widen(bf16 x) { return to_f32(x); }
    static METHOD bf16 narrow(f32 x) { return round_to<bf16>(x); }
};

struct Sum {
    static METHOD f32 of(f32 a, f32 b) { return a + b; }
    static METHOD u32 of(u32 a, u32 b) { return a + b; }
    static METHOD i32 of(i32 a, i32 b) { return i32(u32(a) + u32(b)); }
    static METHOD u8 of(u8 a, u8 b) { return u8(a + b); }
};

struct Max {
    static METHOD f32 of(f32 a, f32 b) { return a > b || is_nan(a) ? a : b; }
    template <class Integer>
    static METHOD Integer of(Integer a, Integer b) {
        return a > b ? a : b;
    }
};

// `others[n]` is tensor n, or absent where that is `own`.
template <class T>
struct Tensors {
    Global<T> own;
    u32 own_index, count;
    Global<const T> others[MAX_TENSORS];
};

template <class T, u32 LEN>
struct Values {
    typename Computed<T>::Type values[LEN];
};

// The left branch becomes the node of both.
template <class How, class T, u32 LEN>
DEVICE void join(Values<T, LEN>& left, const Values<T, LEN>& right) {
    UNROLL for (u32 j = 0; j < LEN; j++) { left.values[j] = How::of(left.values[j], right.values[j]); }
}

template <u32 NUMBER, u32 LEN, class T>
DEVICE Values<T, LEN> leaf(const Tensors<T>& tensors, u64 i) {
    Values<T, LEN> wide;
    const bool is_own = NUMBER == tensors.own_index;
    if constexpr (LEN == 1) {
        wide.values[0] = Computed<T>::widen(is_own ? load(tensors.own, i) : load(tensors.others[NUMBER], i));
    } else {
        const Pack<T> pack = is_own ? load_pack(tensors.own, i) : load_pack(tensors.others[NUMBER], i);
        UNROLL for (u32 j = 0; j < LEN; j++) { wide.values[j] = Computed<T>::widen(pack[j]); }
    }
    return wide;
}

// The node over tensors FIRST .. FIRST + SPAN, of which the first is there: what has no right branch is its left one.
template <class How, u32 FIRST, u32 SPAN, u32 LEN, class T>
DEVICE Values<T, LEN> node(const Tensors<T>& tensors, u64 i) {
    if constexpr (SPAN == 1) {
        return leaf<FIRST, LEN>(tensors, i);
    } else {
        Values<T, LEN> left = node<How, FIRST, SPAN / 2, LEN>(tensors, i);
        if (FIRST + SPAN / 2 < tensors.count) {
            const Values<T, LEN> right = node<How, FIRST + SPAN / 2, SPAN / 2, LEN>(tensors, i);
            join<How>(left, right);
        }
        return left;
    }
}

// The registers are for the tree: packs, of which there are less than 2^31, are counted in 32 bits, and the comparisons
// with the number of tensors are made anew for each.
template <class How, class T>
DEVICE void combine(const Tensors<T>& tensors, bool aligned, u64 len) {
    constexpr u32 LEN = Pack<T>::LEN;
    const u32 thread = block_x() * num_threads() + thread_index(), threads = grid_x() * num_threads();
    const u32 packs = aligned ? u32(len / LEN) : 0;
    for (u32 p = thread; p < packs; p += threads) {
        Tensors<T> same = tensors;
        renew(same.count);
        renew(same.own_index);
        const Values<T, LEN> wide = node<How, 0, MAX_TENSORS, LEN>(same, u64(p) * LEN);
        Pack<T> pack;
        UNROLL for (u32 j = 0; j < LEN; j++) { pack[j] = Computed<T>::narrow(wide.values[j]); }
        store_pack(tensors.own, u64(p) * LEN, pack);
    }
    for (u64 i = u64(packs) * LEN + thread; i < len; i += threads) {
        store(tensors.own, i, Computed<T>::narrow(node<How, 0, MAX_TENSORS, 1>(tensors, i).values[0]));
    }
}

// An absent tensor counts as aligned.
template <class T>
DEVICE bool all_aligned(const Tensors<T>& tensors) {
    bool all = is_aligned(tensors.own);
    UNROLL for (u32 n = 0; n < MAX_TENSORS; n++) { all = all && is_aligned(tensors.others[n]); }
    return all;
}

// Tensors of a stack that are read at once.
constexpr u32 LEAVES = 8;

// Elements of each tensor for a thread: its registers are for the tree.
constexpr u32 STACK_LEN = 4;

// Groups of LEAVES tensors are counted with so many binary digits: at most 1023.
constexpr u32 DIGITS = 10;

// All tensors but `own` lie one behind the other, [count - 1, len].
template <class T>
struct Stack {
    Global<T> own;
    Global<const T> others;
    u32 own_index, count;
    u64 len;
};

template <u32 LEN, class T>
DEVICE Values<T, LEN> leaf(const Stack<T>& stack, u32 number, u64 i) {
    const bool is_own = number == stack.own_index;
    const u64 at = u64(number - (number > stack.own_index ? 1 : 0)) * stack.len + i;
    Values<T, LEN> wide;
    if constexpr (LEN == 1) {
        wide.values[0] = Computed<T>::widen(is_own ? load(stack.own, i) : load(stack.others, at));
    } else {
        const Elements<T, LEN> all = is_own ? load_elements<LEN>(stack.own, i) : load_elements<LEN>(stack.others, at);
        UNROLL for (u32 j = 0; j < LEN; j++) { wide.values[j] = Computed<T>::widen(all[j]); }
    }
    return wide;
}

// The node over tensors first .. first + LEAVES, of which the first is there. All are read before two are joined.
template <class How, u32 LEN, class T>
DEVICE Values<T, LEN> node_of_leaves(const Stack<T>& stack, u32 first, u64 i) {
    Values<T, LEN> nodes[LEAVES] = {};
    UNROLL for (u32 n = 0; n < LEAVES; n++) {
        if (first + n < stack.count) {
            nodes[n] = leaf<LEN>(stack, first + n, i);
        }
    }
    UNROLL for (u32 span = 1; span < LEAVES; span *= 2) {
        UNROLL for (u32 n = 0; n < LEAVES; n += 2 * span) {
            if (first + n + span < stack.count) {
                join<How>(nodes[n], nodes[n + span]);
            }
        }
    }
    return nodes[0];
}

// The tree over all tensors. As a counter has a digit for each power of two, so a node over 2^d groups of leaves waits
// at place d for the next one of its size. At the end the nodes that still wait are joined from the right: the smaller
// ones are the right branches of the larger ones.
template <class How, u32 LEN, class T>
DEVICE Values<T, LEN> root(const Stack<T>& stack, u64 i) {
    Values<T, LEN> waiting[DIGITS] = {};
    u32 group = 0;
    for (; group * LEAVES < stack.count; group++) {
        Values<T, LEN> node = node_of_leaves<How, LEN>(stack, group * LEAVES, i);
        bool carries = true;
        UNROLL for (u32 digit = 0; digit < DIGITS; digit++) {
            if (carries && (group >> digit & 1) != 0) {
                Values<T, LEN> both = waiting[digit];
                join<How>(both, node);
                node = both;
            } else if (carries) {
                waiting[digit] = node;
                carries = false;
            }
        }
    }
    Values<T, LEN> right = {};
    bool is_there = false;
    UNROLL for (u32 digit = 0; digit < DIGITS; digit++) {
        if ((group >> digit & 1) != 0) {
            Values<T, LEN> both = waiting[digit];
            if (is_there) {
                join<How>(both, right);
            }
            right = both;
            is_there = true;
        }
    }
    return right;
}

template <class How, class T>
DEVICE void combine_stack(const Stack<T>& stack) {
    const auto one = [&](u64 i) { store(stack.own, i, Computed<T>::narrow(root<How, 1>(stack, i).values[0])); };
    const auto some = [&](u64 i) {
        const Values<T, STACK_LEN> wide = root<How, STACK_LEN>(stack, i);
        Elements<T, STACK_LEN> narrow;
        UNROLL for (u32 j = 0; j < STACK_LEN; j++) { narrow[j] = Computed<T>::narrow(wide.values[j]); }
        store_elements(stack.own, i, narrow);
    };
    const bool aligned = is_aligned(stack.own) && is_aligned(stack.others) && stack.len % STACK_LEN == 0;
    for_each_group<STACK_LEN>(aligned, stack.len, one, some);
}

#define EIGHT(T, a, b, c, d, e, f, g, h)                                                                     \
    Global<const T> a, Global<const T> b, Global<const T> c, Global<const T> d, Global<const T> e,             \
        Global<const T> f, Global<const T> g, Global<const T> h
#define ENTRY(name, How, T)                                                                                  \
    KERNEL(name##_##T, 256, Global<T> own, u32 own_index, u32 count, u64 len,                                  \
           EIGHT(T, t0, t1, t2, t3, t4, t5, t6, t7), EIGHT(T, t8, t9, t10, t11, t12, t13, t14, t15),           \
           EIGHT(T, t16, t17, t18, t19, t20, t21, t22, t23),                                                   \
           EIGHT(T, t24, t25, t26, t27, t28, t29, t30, t31)) {                                                 \
        const Tensors<T> tensors{own, own_index, count,                                                        \
                                 {t0,  t1,  t2,  t3,  t4,  t5,  t6,  t7,  t8,  t9,  t10,                       \
                                  t11, t12, t13, t14, t15, t16, t17, t18, t19, t20, t21,                       \
                                  t22, t23, t24, t25, t26, t27, t28, t29, t30, t31}};                          \
        combine<How>(tensors, all_aligned(tensors), len);                                                      \
    }
#define STACK(name, How, T)                                                                                  \
    KERNEL(name##_##T, 256, Global<T> own, Global<const T> others, u32 own_index, u32 count, u64 len) {        \
        combine_stack<How>(Stack<T>{own, others, own_index, count, len});                                      \
    }
#define ENTRIES(T)                                                                                           \
    ENTRY(combine_sum, Sum, T)                                                                                 \
    ENTRY(combine_max, Max, T)
ENTRIES(f32)
ENTRIES(bf16)
ENTRIES(u32)
ENTRIES(i32)
ENTRIES(u8)
STACK(stack_sum, Sum, f32)
STACK(stack_max, Max, f32)
STACK(stack_sum, Sum, bf16)
STACK(stack_max, Max, bf16)
