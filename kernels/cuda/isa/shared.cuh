// Memory of a block. All of it is dynamic: a kernel takes its arrays one after the other from `SharedMemory`, in the same
// order in every thread, and the host launches it with exactly the bytes that they add up to.
//
//   SharedMemory memory;
//   Shared<f32> sums = memory.take<f32>(num_warps());
//
// Its contents are undefined when a block begins.
#pragma once

#include "bf16.cuh"
#include "global.cuh"
#include "platform.cuh"

#if ON_GPU

template <class T>
struct Shared {
    T* data;
};

extern __shared__ __align__(1024) u8 shared_bytes_of_block[];

#else

template <class T>
struct Shared {
    emulator::Range range;
    i32 first;  // the element of the range that index 0 means
};

#endif

struct SharedMemory {
    u32 taken_bytes = 0;

    // The next `len` elements, from the next multiple of `alignment` bytes on (a power of two, at most 1024).
    template <class T>
    METHOD Shared<T> take(u32 len, u32 alignment = 16 SITE) {
        taken_bytes = (taken_bytes + alignment - 1) / alignment * alignment;
        const u32 start = taken_bytes;
        taken_bytes += len * u32(sizeof(T));
#if ON_GPU
        return Shared<T>{reinterpret_cast<T*>(shared_bytes_of_block + start)};
#else
        return Shared<T>{emulator::take_shared(start, len * u32(sizeof(T)), site), 0};
#endif
    }
};

// The same array, seen from element n on.
template <class T>
DEVICE Shared<T> from(Shared<T> x, i32 n) {
#if ON_GPU
    return Shared<T>{x.data + n};
#else
    return Shared<T>{x.range, x.first + n};
#endif
}

// The same bytes as elements of another type, for an array whose first use is over: after a barrier.
template <class To, class T>
DEVICE Shared<To> view_as(Shared<T> x) {
#if ON_GPU
    return Shared<To>{reinterpret_cast<To*>(x.data)};
#else
    return Shared<To>{x.range, i32(i64(x.first) * i64(sizeof(T)) / i64(sizeof(To)))};
#endif
}

// One element. ld.shared (9.7.9.8).
template <class T>
DEVICE T load(Shared<T> x, u32 i SITE) {
#if ON_GPU
    return x.data[i];
#else
    T value;
    emulator::read_shared(x.range, (i64(x.first) + i64(i)) * i64(sizeof(T)), sizeof(T), &value, site);
    return value;
#endif
}

// One element. st.shared (9.7.9.11).
template <class T>
DEVICE void store(Shared<T> x, u32 i, T value SITE) {
#if ON_GPU
    x.data[i] = value;
#else
    emulator::write_shared(x.range, (i64(x.first) + i64(i)) * i64(sizeof(T)), sizeof(T), &value, site);
#endif
}

// The 16 bytes from element i, whose address must be a multiple of 16. ld.shared.v4.
template <class T>
DEVICE Pack<T> load_pack(Shared<T> x, u32 i SITE) {
#if ON_GPU
    uint4 bits = *reinterpret_cast<const uint4*>(x.data + i);
    return reinterpret_cast<Pack<T>&>(bits);
#else
    Pack<T> pack;
    emulator::read_shared(x.range, (i64(x.first) + i64(i)) * i64(sizeof(T)), 16, &pack, site);
    return pack;
#endif
}

// 16 bytes to element i, whose address must be a multiple of 16. st.shared.v4.
template <class T>
DEVICE void store_pack(Shared<T> x, u32 i, Pack<T> pack SITE) {
#if ON_GPU
    *reinterpret_cast<uint4*>(x.data + i) = reinterpret_cast<uint4&>(pack);
#else
    emulator::write_shared(x.range, (i64(x.first) + i64(i)) * i64(sizeof(T)), 16, &pack, site);
#endif
}

// A register of two bf16, at element i, which must be even. ld.shared.b32, st.shared.b32.
DEVICE u32 load_pair(Shared<bf16> x, u32 i SITE) {
#if ON_GPU
    return *reinterpret_cast<const u32*>(x.data + i);
#else
    u32 pair;
    emulator::read_shared(x.range, (i64(x.first) + i64(i)) * 2, 4, &pair, site);
    return pair;
#endif
}
DEVICE void store_pair(Shared<bf16> x, u32 i, u32 pair SITE) {
#if ON_GPU
    *reinterpret_cast<u32*>(x.data + i) = pair;
#else
    emulator::write_shared(x.range, (i64(x.first) + i64(i)) * 2, 4, &pair, site);
#endif
}

// Two f32 from element i on, which must be even. st.shared.v2.f32.
DEVICE void store_pair(Shared<f32> x, u32 i, f32 first, f32 second SITE) {
#if ON_GPU
    *reinterpret_cast<float2*>(x.data + i) = make_float2(first, second);
#else
    const f32 pair[2] = {first, second};
    emulator::write_shared(x.range, (i64(x.first) + i64(i)) * 4, 8, pair, site);
#endif
}

#if ON_GPU
// The address of element i in the window of shared memory, as instructions on shared memory take it: in 32 bits from the
// array's start on, so that what is constant in i goes into the instruction.
template <class T>
DEVICE u32 shared_address(Shared<T> x, u32 i) {
    return u32(__cvta_generic_to_shared(x.data)) + i * u32(sizeof(T));
}
#endif
