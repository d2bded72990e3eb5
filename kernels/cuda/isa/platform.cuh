// Compilers, numeric types, and the form of a kernel.
//
// KERNEL(name, max_threads, parameters...) { body } is an entry that the host launches by name with at most max_threads
// threads in a block. Parameters are `Global<T>` and scalars of 4 or 8 bytes, nothing else: both drivers pass these.
//
// DEVICE marks a free function, METHOD a member. On the host, SITE adds a last argument that holds the caller's file
// and line, so that the emulator's reports name the line of the kernel.
#pragma once

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)

#define ON_GPU 1
#define DEVICE static __device__ __forceinline__
#define METHOD __device__ __forceinline__
#define KERNEL(name, max_threads, ...) extern "C" __global__ void __launch_bounds__(max_threads) name(__VA_ARGS__)
#define SITE
#define SITE_ONLY
#define PASS_SITE
#define PASS_SITE_ONLY
#define UNROLL _Pragma("unroll")
#define PRAGMA(text) _Pragma(#text)
#define UNROLL_BY(times) PRAGMA(unroll times)

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;

#else

#include "../../emulator/emulator.h"

#define ON_GPU 0
#define DEVICE static inline
#define METHOD inline
#define KERNEL(name, max_threads, ...)                                                                       \
    static void name(__VA_ARGS__);                                                                           \
    static const ::emulator::Registration name##_registration(                                               \
        #name, WARP, max_threads, ::emulator::Entry<&name>::ARITY, ::emulator::Entry<&name>::writes(),       \
        ::emulator::Entry<&name>::mismatch, ::emulator::Entry<&name>::call);                                 \
    static void name(__VA_ARGS__)
#define SITE , ::EmulatorSite site = ::EmulatorSite::here()
#define SITE_ONLY ::EmulatorSite site = ::EmulatorSite::here()
#define PASS_SITE , site
#define PASS_SITE_ONLY site
#define UNROLL
#define UNROLL_BY(times)

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;

#endif

using f32 = float;
using f64 = double;

// Threads that execute one instruction together. The kernels of memory-bound families take it from here; those that
// use tensor cores need 32.
#ifndef WARP_SIZE
#define WARP_SIZE 32
#endif
constexpr u32 WARP = WARP_SIZE;

// The type without its const.
template <class T>
struct Plain {
    using Type = T;
};
template <class T>
struct Plain<const T> {
    using Type = T;
};
