// Device memory. `Global<T>` is a tensor that the host passes to a kernel: a pointer on the GPU; on the host also its
// exact size, so that the emulator refuses an access outside, an unaligned one, a write to what is only read, and a read
// of what nothing has written.
//
// Of `Global<const T>` a kernel promises that nothing writes to it while it runs: loads may go through the read-only
// path. What a kernel changes in place is `Global<T>`.
#pragma once

#include "bf16.cuh"
#include "platform.cuh"

#if ON_GPU

template <class T>
struct Global {
    T* data;
};

#else

template <class T>
struct Global {
    T* data;
    emulator::Buffer buffer;
    i64 first;  // the element of the buffer that index 0 means
};

#endif

// 16 bytes, moved by one instruction.
template <class T>
struct alignas(16) Pack {
    static constexpr u32 LEN = 16 / sizeof(T);
    T values[LEN];
    METHOD T& operator[](u32 i) { return values[i]; }
    METHOD T operator[](u32 i) const { return values[i]; }
};

// 8 bytes, for a type that goes beside one twice as wide.
template <class T>
struct alignas(8) HalfPack {
    static constexpr u32 LEN = 8 / sizeof(T);
    T values[LEN];
};

// The same tensor, seen from element n on.
template <class T>
DEVICE Global<T> from(Global<T> x, i64 n) {
#if ON_GPU
    return Global<T>{x.data + n};
#else
    return Global<T>{x.data, x.buffer, x.first + n};
#endif
}

// The same tensor, only read.
template <class T>
DEVICE Global<const T> read_only(Global<T> x) {
#if ON_GPU
    return Global<const T>{x.data};
#else
    return Global<const T>{x.data, x.buffer, x.first};
#endif
}

// Whether the host passed a tensor here: some kernels have optional ones.
template <class T>
DEVICE bool is_present(Global<T> x) {
    return x.data != nullptr;
}

// Whether element 0 lies at a multiple of 16 bytes, so that packs may be moved.
template <class T>
DEVICE bool is_aligned(Global<T> x) {
#if ON_GPU
    return reinterpret_cast<u64>(x.data) % 16 == 0;
#else
    return reinterpret_cast<u64>(x.data + x.first) % 16 == 0;
#endif
}

// One element. ld.global (9.7.9.8), through the read-only path where T is const (ld.global.nc, 9.7.9.9).
template <class T>
DEVICE T load(Global<T> x, u64 i SITE) {
#if ON_GPU
    return x.data[i];
#else
    return *emulator::read<T>(x.buffer, x.data, x.first + i64(i), sizeof(T), site);
#endif
}
template <class T>
DEVICE T load(Global<const T> x, u64 i SITE) {
#if ON_GPU
    if constexpr (sizeof(T) == 2) {
        u16 bits;
        asm("ld.global.nc.u16 %0, [%1];" : "=h"(bits) : "l"(x.data + i));
        return reinterpret_cast<T&>(bits);
    } else {
        return __ldg(x.data + i);
    }
#else
    return *emulator::read<T>(x.buffer, x.data, x.first + i64(i), sizeof(T), site);
#endif
}

// One element. st.global (9.7.9.11).
template <class T>
DEVICE void store(Global<T> x, u64 i, T value SITE) {
#if ON_GPU
    x.data[i] = value;
#else
    *emulator::write<T>(x.buffer, x.data, x.first + i64(i), sizeof(T), site) = value;
#endif
}

// The 16 bytes from element i, whose address must be a multiple of 16. ld.global.v4 (9.7.9.8), .nc where T is const.
template <class T>
DEVICE Pack<T> load_pack(Global<T> x, u64 i SITE) {
#if ON_GPU
    Pack<T> pack;
    uint4 bits = *reinterpret_cast<const uint4*>(x.data + i);
    pack = reinterpret_cast<Pack<T>&>(bits);
    return pack;
#else
    return *reinterpret_cast<const Pack<T>*>(emulator::read<T>(x.buffer, x.data, x.first + i64(i), 16, site));
#endif
}
template <class T>
DEVICE Pack<T> load_pack(Global<const T> x, u64 i SITE) {
#if ON_GPU
    uint4 bits = __ldg(reinterpret_cast<const uint4*>(x.data + i));
    return reinterpret_cast<Pack<T>&>(bits);
#else
    return *reinterpret_cast<const Pack<T>*>(emulator::read<T>(x.buffer, x.data, x.first + i64(i), 16, site));
#endif
}

// As load_pack, for what is read once: first to leave the caches. ld.global.cs.v4 (9.7.9.1, cache operators).
template <class T>
DEVICE Pack<typename Plain<T>::Type> load_pack_once(Global<T> x, u64 i SITE) {
#if ON_GPU
    uint4 bits = __ldcs(reinterpret_cast<const uint4*>(x.data + i));
    return reinterpret_cast<Pack<typename Plain<T>::Type>&>(bits);
#else
    using Value = typename Plain<T>::Type;
    return *reinterpret_cast<const Pack<Value>*>(emulator::read<Value>(x.buffer, x.data, x.first + i64(i), 16, site));
#endif
}

// 16 bytes to element i, whose address must be a multiple of 16. st.global.v4 (9.7.9.11).
template <class T>
DEVICE void store_pack(Global<T> x, u64 i, Pack<T> pack SITE) {
#if ON_GPU
    // Written out, since the compiler makes four stores of an assignment whose values come from several branches.
    const uint4 bits = reinterpret_cast<uint4&>(pack);
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(x.data + i), "r"(bits.x), "r"(bits.y), "r"(bits.z),
                 "r"(bits.w)
                 : "memory");
#else
    *reinterpret_cast<Pack<T>*>(emulator::write<T>(x.buffer, x.data, x.first + i64(i), 16, site)) = pack;
#endif
}

// As store_pack, for what nobody reads soon. st.global.cs.v4.
template <class T>
DEVICE void store_pack_once(Global<T> x, u64 i, Pack<T> pack SITE) {
#if ON_GPU
    __stcs(reinterpret_cast<uint4*>(x.data + i), reinterpret_cast<uint4&>(pack));
#else
    *reinterpret_cast<Pack<T>*>(emulator::write<T>(x.buffer, x.data, x.first + i64(i), 16, site)) = pack;
#endif
}

// The 8 bytes from element i, whose address must be a multiple of 8. ld.global.v2 (9.7.9.8).
template <class T>
DEVICE HalfPack<typename Plain<T>::Type> load_half_pack(Global<T> x, u64 i SITE) {
    using Value = typename Plain<T>::Type;
#if ON_GPU
    uint2 bits = *reinterpret_cast<const uint2*>(x.data + i);
    return reinterpret_cast<HalfPack<Value>&>(bits);
#else
    return *reinterpret_cast<const HalfPack<Value>*>(emulator::read<Value>(x.buffer, x.data, x.first + i64(i), 8, site));
#endif
}

// 8 bytes to element i, whose address must be a multiple of 8. st.global.v2 (9.7.9.11).
template <class T>
DEVICE void store_half_pack(Global<T> x, u64 i, HalfPack<T> pack SITE) {
#if ON_GPU
    *reinterpret_cast<uint2*>(x.data + i) = reinterpret_cast<uint2&>(pack);
#else
    *reinterpret_cast<HalfPack<T>*>(emulator::write<T>(x.buffer, x.data, x.first + i64(i), 8, site)) = pack;
#endif
}
