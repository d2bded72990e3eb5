// Elementwise ops: conversion, addition, filling. One pass, 16 bytes at a time where the addresses allow it.
//
//   cast        dst[i] = round(src[i])            bytes: src + dst
//   add_assign  y[i] = round(y[i] + x[i])         bytes: x + 2 y
//   fill        dst[i] = round(value)             bytes: dst
//
// Floor: bytes / bandwidth. Geometry: 256 threads, blocks in a grid-stride loop over groups of elements; no shared memory.
#include "isa/isa.cuh"
#include "vector.cuh"

template <class S, class T>
DEVICE void cast(Global<const S> src, Global<T> dst, u64 len) {
    const auto convert = [&](u64 i) { store(dst, i, round_to<T>(to_f32(load(src, i)))); };
    for_each_group(is_aligned(src) && is_aligned(dst), len, convert, [&](u64 i) {
        const Group<S> values = load_group(src, i);
        Group<T> rounded;
        UNROLL for (u32 j = 0; j < GROUP; j++) { rounded[j] = round_to<T>(to_f32(values[j])); }
        store_group(dst, i, rounded);
    });
}

template <class S, class T>
DEVICE void add_assign(Global<const S> x, Global<T> y, u64 len) {
    const auto add = [&](u64 i) { store(y, i, round_to<T>(to_f32(load(y, i)) + to_f32(load(x, i)))); };
    for_each_group(is_aligned(x) && is_aligned(y), len, add, [&](u64 i) {
        const Group<S> terms = load_group(x, i);
        Group<T> sums = load_group(y, i);
        UNROLL for (u32 j = 0; j < GROUP; j++) { sums[j] = round_to<T>(to_f32(sums[j]) + to_f32(terms[j])); }
        store_group(y, i, sums);
    });
}

template <class T>
DEVICE void fill(Global<T> dst, f32 value, u64 len) {
    const T rounded = round_to<T>(value);
    for_each_group(is_aligned(dst), len, [&](u64 i) { store(dst, i, rounded); }, [&](u64 i) {
        Group<T> group;
        UNROLL for (u32 j = 0; j < GROUP; j++) { group[j] = rounded; }
        store_group(dst, i, group);
    });
}

#define ENTRIES(S, T)                                                                                        \
    KERNEL(cast_##S##_##T, 256, Global<const S> src, Global<T> dst, u64 len) { cast(src, dst, len); }          \
    KERNEL(add_assign_##S##_##T, 256, Global<const S> x, Global<T> y, u64 len) { add_assign(x, y, len); }
ENTRIES(f32, f32)
ENTRIES(f32, bf16)
ENTRIES(bf16, f32)
ENTRIES(bf16, bf16)

KERNEL(fill_f32, 256, Global<f32> dst, f32 value, u64 len) { fill(dst, value, len); }
KERNEL(fill_bf16, 256, Global<bf16> dst, f32 value, u64 len) { fill(dst, value, len); }
