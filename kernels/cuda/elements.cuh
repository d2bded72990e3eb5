// Few adjacent elements in registers, moved by 8 or 16 bytes.
#pragma once

#include "isa/isa.cuh"

// Adjacent elements, as many as the kernel wants: 8 bytes of a narrow type beside 16 of a wide one, say, so that the
// lanes of a warp move whole sectors of both.
template <class T, u32 LEN>
struct Elements {
    static constexpr u32 BYTES = LEN * sizeof(T);
    static_assert(BYTES == 8 || BYTES % 16 == 0, "no instruction moves them");
    T values[LEN];
    METHOD T& operator[](u32 i) { return values[i]; }
    METHOD T operator[](u32 i) const { return values[i]; }
};

// From element i on, whose address must be a multiple of their bytes, or of 16 if they are more.
template <u32 LEN, class T>
DEVICE Elements<typename Plain<T>::Type, LEN> load_elements(Global<T> x, u64 i SITE) {
    using Value = typename Plain<T>::Type;
    Elements<Value, LEN> elements;
    if constexpr (Elements<Value, LEN>::BYTES == 8) {
        const HalfPack<Value> half = load_half_pack(x, i PASS_SITE);
        UNROLL for (u32 j = 0; j < LEN; j++) { elements[j] = half.values[j]; }
    } else {
        UNROLL for (u32 p = 0; p < LEN; p += Pack<Value>::LEN) {
            const Pack<Value> pack = load_pack(x, i + p PASS_SITE);
            UNROLL for (u32 j = 0; j < Pack<Value>::LEN; j++) { elements[p + j] = pack[j]; }
        }
    }
    return elements;
}

template <class T, u32 LEN>
DEVICE void store_elements(Global<T> x, u64 i, const Elements<T, LEN>& elements SITE) {
    if constexpr (Elements<T, LEN>::BYTES == 8) {
        HalfPack<T> half;
        UNROLL for (u32 j = 0; j < LEN; j++) { half.values[j] = elements[j]; }
        store_half_pack(x, i, half PASS_SITE);
    } else {
        UNROLL for (u32 p = 0; p < LEN; p += Pack<T>::LEN) {
            Pack<T> pack;
            UNROLL for (u32 j = 0; j < Pack<T>::LEN; j++) { pack[j] = elements[p + j]; }
            store_pack(x, i + p, pack PASS_SITE);
        }
    }
}
