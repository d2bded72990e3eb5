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

// A group in whole registers, as it lies in memory; elements are read as f32. The elements of a Group of bf16 that lives
// long take a register each, twice as many.
template <class T>
struct Packed;
template <>
struct Packed<f32> {
    static constexpr u32 WORDS = GROUP;
    u32 words[WORDS];
    METHOD f32 operator[](u32 j) const { return f32_of_bits(words[j]); }
    METHOD f32 first() const { return f32_of_bits(words[0]); }
    METHOD void set_first(f32 element) { words[0] = bits_of(element); }
};
template <>
struct Packed<bf16> {
    static constexpr u32 WORDS = GROUP / 2;
    u32 words[WORDS];
    METHOD f32 operator[](u32 j) const { return j % 2 == 0 ? low_bf16(words[j / 2]) : high_bf16(words[j / 2]); }
    METHOD bf16 first() const { return bf16{u16(words[0])}; }
    METHOD void set_first(bf16 element) { words[0] = element.bits; }
};

// Rounds GROUP numbers to the type of a tensor, two by one instruction where that is bf16.
template <class T>
DEVICE Packed<T> round_group(const f32 (&values)[GROUP]) {
    Packed<T> group;
    UNROLL for (u32 w = 0; w < Packed<T>::WORDS; w++) {
        if constexpr (sizeof(T) == 4) {
            group.words[w] = bits_of(values[w]);
        } else {
            group.words[w] = pack_bf16(values[2 * w], values[2 * w + 1]);
        }
    }
    return group;
}

// The group from element i on, which lies as load_pack wants it.
template <class T>
DEVICE Packed<typename Plain<T>::Type> load_packed(Global<T> x, u64 i SITE) {
    using Value = typename Plain<T>::Type;
    constexpr u32 LEN = Pack<Value>::LEN;
    Packed<Value> group;
    UNROLL for (u32 p = 0; p < GROUP / LEN; p++) {
        const Pack<Value> pack = load_pack(x, i + p * LEN PASS_SITE);
        UNROLL for (u32 w = 0; w < 4; w++) { group.words[4 * p + w] = reinterpret_cast<const u32*>(&pack)[w]; }
    }
    return group;
}

template <class T>
DEVICE void store_packed(Global<T> x, u64 i, const Packed<T>& group SITE) {
    constexpr u32 LEN = Pack<T>::LEN;
    UNROLL for (u32 p = 0; p < GROUP / LEN; p++) {
        Pack<T> pack;
        UNROLL for (u32 w = 0; w < 4; w++) { reinterpret_cast<u32*>(&pack)[w] = group.words[4 * p + w]; }
        store_pack(x, i + p * LEN, pack PASS_SITE);
    }
}

// To be called before a group is used again much later: else its elements stay widened, which takes twice the registers.
template <class T>
DEVICE void renew(Packed<T>& group) {
    if constexpr (sizeof(T) == 2) {
        UNROLL for (u32 w = 0; w < Packed<T>::WORDS; w++) { renew(group.words[w]); }
    }
}

// By packs, the group from element i on; else that element, and zeros.
template <class T>
DEVICE Packed<typename Plain<T>::Type> load_packed(By by, Global<T> x, u64 i SITE) {
    using Value = typename Plain<T>::Type;
    if (by == By::Packs) {
        return load_packed(x, i PASS_SITE);
    }
    Packed<Value> group{};
    group.set_first(load(x, i PASS_SITE));
    return group;
}

template <class T>
DEVICE void store_packed(By by, Global<T> x, u64 i, const Packed<T>& group SITE) {
    if (by == By::Packs) {
        store_packed(x, i, group PASS_SITE);
    } else {
        store(x, i, group.first() PASS_SITE);
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
