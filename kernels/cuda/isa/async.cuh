// Copies of 16 bytes from device to shared memory that run beside the thread (9.7.9.25.3, sm_80). A thread's copies
// since its last commit are one group; it waits for groups in the order of their commits. Copies are not ordered among
// themselves. After its wait a thread sees its own copies; others see them after a barrier that follows the wait.
#pragma once

#include "global.cuh"
#include "platform.cuh"
#include "shared.cuh"

// dst[i ..] = src[j ..], 16 bytes, both addresses multiples of 16; the bytes from `valid_bytes` on become zero and are
// not read. cp.async.cg.shared.global: past the first-level cache.
template <class T>
DEVICE void copy_async(Shared<T> dst, u32 i, Global<const T> src, u64 j, u32 valid_bytes = 16 SITE) {
#if ON_GPU
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst, i)), "l"(src.data + j),
                 "r"(valid_bytes)
                 : "memory");
#else
    const void* from = valid_bytes == 0 ? nullptr
                                        : emulator::read_async<T>(src.buffer, src.data, src.first + i64(j), valid_bytes, site);
    emulator::copy_async(dst.range, (i64(dst.first) + i64(i)) * i64(sizeof(T)), from, valid_bytes, site);
#endif
}

// Ends a group; it may be empty. cp.async.commit_group.
DEVICE void copy_async_commit() {
#if ON_GPU
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emulator::copy_async_commit();
#endif
}

// Waits until at most the `NEWEST` newest groups of this thread are under way. cp.async.wait_group.
template <u32 NEWEST>
DEVICE void copy_async_wait(SITE_ONLY) {
#if ON_GPU
    asm volatile("cp.async.wait_group %0;" ::"n"(NEWEST) : "memory");
#else
    emulator::copy_async_wait(NEWEST, site);
#endif
}
