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

    // The place of the call for which this is a default argument. Compilers see it through a function's own default
    // arguments, as in std::source_location, but not through braces.
    static constexpr EmulatorSite here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return EmulatorSite{file, line};
    }
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
// The thread that runs now. In a variable of the host's thread, so that kernels read it without a call.
extern __thread const Position* running_position;
inline const Position& position() { return *running_position; }

// --- device memory
// A tensor passed to a kernel: exact bounds, and the marks of what nothing has written.
struct Buffer {
    uint64_t bytes;
    uint8_t* unwritten;  // one byte for each
};

// Accesses to device memory that a thread may still make before it waits for others; 0 sends each through the slow path.
extern __thread uint64_t quick_accesses;

// Check an access to `size` bytes at `offset` and give its address; with every report, and counted.
const void* read_bytes(const Buffer& buffer, const void* data, int64_t offset, uint32_t size, uint32_t alignment,
                       Site site);
void* write_bytes(const Buffer& buffer, void* data, int64_t offset, uint32_t size, Site site);

// Where element i begins; far outside of every tensor if it cannot be told.
template <class T>
int64_t offset_of(int64_t i) {
    int64_t offset;
    return __builtin_mul_overflow(i, int64_t(sizeof(T)), &offset) ? INT64_MIN : offset;
}

inline bool is_inside(const Buffer& buffer, int64_t offset, uint32_t size) {
    return offset >= 0 && uint64_t(offset) <= buffer.bytes && size <= buffer.bytes - uint64_t(offset);
}

// Whether no mark is set; quick for the sizes of instructions.
inline bool are_written(const uint8_t* unwritten, uint32_t size) {
    constexpr uint8_t NONE[16] = {};
    return std::memcmp(unwritten, NONE, size) == 0;
}

// `size` bytes, 1 to 16, from element i on, at a multiple of them.
template <class T, class Data>
const T* read(const Buffer& buffer, Data* data, int64_t i, uint32_t size, Site site) {
    const int64_t offset = offset_of<T>(i);
    const char* address = reinterpret_cast<const char*>(data) + offset;
    if (quick_accesses > 0 && is_inside(buffer, offset, size) && reinterpret_cast<uintptr_t>(address) % size == 0 &&
        are_written(buffer.unwritten + offset, size)) {
        quick_accesses--;
        return reinterpret_cast<const T*>(address);
    }
    return static_cast<const T*>(read_bytes(buffer, data, offset, size, size, site));
}
template <class T>
T* write(const Buffer& buffer, T* data, int64_t i, uint32_t size, Site site) {
    const int64_t offset = offset_of<T>(i);
    char* address = reinterpret_cast<char*>(data) + offset;
    if (quick_accesses > 0 && is_inside(buffer, offset, size) && reinterpret_cast<uintptr_t>(address) % size == 0) {
        quick_accesses--;
        std::memset(buffer.unwritten + offset, 0, size);
        return reinterpret_cast<T*>(address);
    }
    return static_cast<T*>(write_bytes(buffer, data, offset, size, site));
}

// Adds, and gives what was there before.
uint32_t atomic_add(const Buffer& buffer, uint32_t* data, int64_t i, uint32_t value, Site site);
// The value; a thread that asks again sleeps until some thread has released or added a value.
uint32_t load_acquire(const Buffer& buffer, const uint32_t* data, int64_t i, Site site);
void store_release(const Buffer& buffer, uint32_t* data, int64_t i, uint32_t value, Site site);

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
    if (size > 16) {
        fault(site, "asynchronous copy: of 16 bytes, %u valid ones", size);
    }
    return read_bytes(buffer, data, offset_of<T>(i), size, 16, site);
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
    uint8_t* unwritten;
};

// Gives a kernel its name. `mismatch` is the index of the first argument that does not fit, or -1.
struct Registration {
    const char* name;
    uint32_t warp, max_threads, arity;
    uint64_t writes;  // bit i: parameter i is a tensor that the kernel may write to
    int32_t (*mismatch)(const EmulatorArg* args);
    void (*call)(const Argument* args);
    const Registration* next;

    Registration(const char* name, uint32_t warp, uint32_t max_threads, uint32_t arity, uint64_t writes,
                 int32_t (*mismatch)(const EmulatorArg*), void (*call)(const Argument*));
};

// From the argument as the host passes it to the parameter as the kernel declares it.
template <class P>
struct Parameter {
    static constexpr bool WRITES = false;
    static constexpr uint32_t KIND = std::is_floating_point_v<P> ? 2 : 1;
    static bool fits(const EmulatorArg& arg) { return arg.kind == KIND && arg.size == sizeof(P); }
    static P from(const Argument& arg) {
        P value;
        std::memcpy(&value, &arg.given.value, sizeof(P));
        return value;
    }
};
template <template <class> class Tensor, class T>
struct Parameter<Tensor<T>> {
    static constexpr bool WRITES = !std::is_const_v<T>;
    // A tensor that is not there is none to write to, either.
    static bool fits(const EmulatorArg& arg) {
        const bool is_absent = arg.value == 0 && arg.bytes == 0;
        return arg.kind == 0 && (!WRITES || arg.size == 1 || is_absent);
    }
    static Tensor<T> from(const Argument& arg) {
        return Tensor<T>{reinterpret_cast<T*>(arg.given.value), Buffer{arg.given.bytes, arg.unwritten}, 0};
    }
};

template <auto Function>
struct Entry;
template <class... P, void (*Function)(P...)>
struct Entry<Function> {
    static constexpr uint32_t ARITY = sizeof...(P);
    static_assert(ARITY <= 64);

    static constexpr uint64_t writes() {
        uint64_t bits = 0, bit = 1;
        ((bits |= Parameter<P>::WRITES ? bit : 0, bit <<= 1), ...);
        return bits;
    }

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
