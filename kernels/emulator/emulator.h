// What the host bodies of kernels/cuda/isa/ call. Every function is executed by one thread of a kernel, which is a fiber;
// those that a warp or a block executes together return when all have come.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "abi.h"

// Where a kernel calls: for reports, and to tell one call from another. Not in the namespace, so that a call with such an
// argument is not looked up there.
struct EmulatorSite {
    const char* file;
    int line;
};

namespace emulator {

using Site = EmulatorSite;

// Ends the launch with a report. Does not return.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fault(Site site, const char* format, ...);

// --- who a thread is
struct Position {
    uint32_t thread, threads;
    uint32_t block[3], grid[3];
};
const Position& position();

// --- device memory
// A tensor passed to a kernel: exact bounds, and the marks of what has been written.
struct Buffer {
    uint64_t bytes;
    uint8_t* written;  // one byte for each
};
// Check an access to `size` bytes at `offset` and give its address.
const void* read_bytes(const Buffer& buffer, const void* data, int64_t offset, uint32_t size, uint32_t alignment,
                       Site site);
void* write_bytes(const Buffer& buffer, void* data, int64_t offset, uint32_t size, Site site);

template <class T, class Data>
const T* read(const Buffer& buffer, Data* data, int64_t i, uint32_t size, Site site) {
    return static_cast<const T*>(read_bytes(buffer, data, i * int64_t(sizeof(T)), size, size, site));
}
template <class T>
T* write(const Buffer& buffer, T* data, int64_t i, uint32_t size, Site site) {
    return static_cast<T*>(write_bytes(buffer, data, i * int64_t(sizeof(T)), size, site));
}
uint32_t atomic_add(uint32_t* address, uint32_t value);
// The value at the address; the thread then sleeps until some thread has written to device memory.
uint32_t poll(const uint32_t* address, Site site);
void note_progress();

template <class T>
T* write_atomic(const Buffer& buffer, T* data, int64_t i, Site site) {
    note_progress();
    return write(buffer, data, i, sizeof(T), site);
}

// --- shared memory
// Bytes of the block's shared memory that a kernel has taken.
struct Range {
    uint32_t start, bytes;
};
Range take_shared(uint32_t start, uint32_t bytes, Site site);
void read_shared(Range range, int64_t offset, uint32_t size, void* value, Site site);
void write_shared(Range range, int64_t offset, uint32_t size, const void* value, Site site);

// --- asynchronous copies
template <class T, class Data>
const void* read_async(const Buffer& buffer, Data* data, int64_t i, uint32_t size, Site site) {
    return read_bytes(buffer, data, i * int64_t(sizeof(T)), size, 16, site);
}
void copy_async(Range range, int64_t offset, const void* src, uint32_t valid_bytes, Site site);
void copy_async_commit();
void copy_async_wait(uint32_t newest, Site site);

// --- barriers
// Threads 0: the whole block.
void barrier(uint32_t id, uint32_t threads, bool wait, Site site);
void warp_barrier(Site site);

// --- warps
uint32_t shuffle_xor(uint32_t value, uint32_t mask, Site site);
uint32_t shuffle_down(uint32_t value, uint32_t distance, Site site);
uint32_t shuffle(uint32_t value, uint32_t source, Site site);
uint64_t ballot(bool condition, Site site);
void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site);
void load_matrices(uint32_t (&r)[4], Range range, int64_t offset, bool transposed, Site site);
void store_matrices(const uint32_t (&r)[4], Range range, int64_t offset, Site site);

// --- numbers
template <class To, class From>
To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

// To nearest, ties to even; NaN stays NaN, made quiet.
inline uint16_t round_bf16(float x) {
    const uint32_t bits = bit_cast<uint32_t>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return uint16_t((bits >> 16) | 0x40);
    }
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float exp2_flushed(float x) {
    const float value = std::exp2(x);
    return value < 0x1p-126f ? 0.0f : value;
}

// --- kernels
// An argument of the host, and the marks of its bytes.
struct Argument {
    EmulatorArg given;
    uint8_t* written;
};

// Gives a kernel its name. `mismatch` is the index of the first argument that does not fit, or -1.
struct Registration {
    const char* name;
    uint32_t warp, max_threads, arity;
    int32_t (*mismatch)(const EmulatorArg* args);
    void (*call)(const Argument* args);
    const Registration* next;

    Registration(const char* name, uint32_t warp, uint32_t max_threads, uint32_t arity,
                 int32_t (*mismatch)(const EmulatorArg*), void (*call)(const Argument*));
};

// From the argument as the host passes it to the parameter as the kernel declares it.
template <class P>
struct Parameter {
    static bool fits(const EmulatorArg& arg) { return arg.kind == 1 && arg.size == sizeof(P); }
    static P from(const Argument& arg) {
        P value;
        std::memcpy(&value, &arg.given.value, sizeof(P));
        return value;
    }
};
template <template <class> class Tensor, class T>
struct Parameter<Tensor<T>> {
    static constexpr bool WRITES = !std::is_const_v<T>;
    static bool fits(const EmulatorArg& arg) { return arg.kind == 0 && (!WRITES || arg.size == 1); }
    static Tensor<T> from(const Argument& arg) {
        return Tensor<T>{reinterpret_cast<T*>(arg.given.value), Buffer{arg.given.bytes, arg.written}, 0};
    }
};

template <auto Function>
struct Entry;
template <class... P, void (*Function)(P...)>
struct Entry<Function> {
    static constexpr uint32_t ARITY = sizeof...(P);

    static int32_t mismatch(const EmulatorArg* args) {
        const EmulatorArg* arg = args;
        int32_t index = -1, at = 0;
        ((index = index < 0 && !Parameter<P>::fits(*arg) ? at : index, arg++, at++), ...);
        return index;
    }

    static void call(const Argument* args) { call_with(args, std::index_sequence_for<P...>{}); }

    template <std::size_t... I>
    static void call_with(const Argument* args, std::index_sequence<I...>) {
        Function(Parameter<P>::from(args[I])...);
    }
};

}  // namespace emulator
