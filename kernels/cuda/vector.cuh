// Groups of elements that a thread of a memory-bound kernel works on at once: as many as 16 bytes of the narrowest type
// hold, so one pack of bf16 or two of f32.
#pragma once

#include "isa/isa.cuh"

constexpr u32 GROUP = 8;

template <class T>
struct Group {
    static constexpr u32 PACKS = GROUP / Pack<T>::LEN;
    Pack<T> packs[PACKS];
    METHOD T& operator[](u32 i) { return packs[i / Pack<T>::LEN].values[i % Pack<T>::LEN]; }
    METHOD T operator[](u32 i) const { return packs[i / Pack<T>::LEN].values[i % Pack<T>::LEN]; }
};

// The group from element i on; x must be aligned and i a multiple of GROUP.
template <class T>
DEVICE Group<typename Plain<T>::Type> load_group(Global<T> x, u64 i SITE) {
    using Value = typename Plain<T>::Type;
    Group<Value> group;
    UNROLL for (u32 p = 0; p < Group<Value>::PACKS; p++) {
        group.packs[p] = load_pack(x, i + p * Pack<Value>::LEN PASS_SITE);
    }
    return group;
}

template <class T>
DEVICE void store_group(Global<T> x, u64 i, Group<T> group SITE) {
    UNROLL for (u32 p = 0; p < Group<T>::PACKS; p++) {
        store_pack(x, i + p * Pack<T>::LEN, group.packs[p] PASS_SITE);
    }
}

// How a kernel moves the groups of a row: whole ones by packs, or element by element where an address does not allow
// it. Both give a thread the same elements, so that sums do not depend on addresses.
enum class By { Packs, Elements };

// The first `count` elements from i on, then zeros. By packs, `count` is GROUP and x[i] lies as load_group wants it.
template <class T>
DEVICE Group<typename Plain<T>::Type> load_group(By by, Global<T> x, u64 i, u32 count SITE) {
    if (by == By::Packs) {
        return load_group(x, i PASS_SITE);
    }
    using Value = typename Plain<T>::Type;
    Group<Value> group;
    UNROLL for (u32 j = 0; j < GROUP; j++) {
        group[j] = j < count ? load(x, i + j PASS_SITE) : Value{};
    }
    return group;
}

template <class T>
DEVICE void store_group(By by, Global<T> x, u64 i, u32 count, Group<T> group SITE) {
    if (by == By::Packs) {
        store_group(x, i, group PASS_SITE);
        return;
    }
    UNROLL for (u32 j = 0; j < GROUP; j++) {
        if (j < count) {
            store(x, i + j, group[j] PASS_SITE);
        }
    }
}

// Calls group(i) for the first element of each whole group of LEN and one(i) for every other element, all of them if
// `aligned` does not hold. The threads of the grid share the work, neighbours next to each other.
template <u32 LEN = GROUP, class One, class Whole>
DEVICE void for_each_group(bool aligned, u64 len, One one, Whole group) {
    const u64 thread = u64(block_x()) * num_threads() + thread_index();
    const u64 threads = u64(grid_x()) * num_threads();
    const u64 grouped = aligned ? len / LEN * LEN : 0;
    for (u64 i = thread * LEN; i < grouped; i += threads * LEN) {
        group(i);
    }
    for (u64 i = grouped + thread; i < len; i += threads) {
        one(i);
    }
}

// i / n. The hardware divides by software, and 64 bits cost several times as much as 32.
DEVICE u64 quotient(u64 i, u32 n) { return i >> 32 == 0 ? u32(i) / n : i / n; }
