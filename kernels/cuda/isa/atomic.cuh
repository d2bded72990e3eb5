// Atomic operations on device memory, and the pair by which one block tells another that its data is there. There is no
// atomic addition of floating-point numbers: its order, hence its bits, would change from run to run.
#pragma once

#include "global.cuh"
#include "platform.cuh"

// x[i] += value; what it was before. atom.global.add.u32 (9.7.13.5).
DEVICE u32 atomic_add(Global<u32> x, u64 i, u32 value SITE) {
#if ON_GPU
    return atomicAdd(x.data + i, value);
#else
    return emulator::atomic_add(x.buffer, x.data, x.first + i64(i), value, site);
#endif
}

// A value that another block may have written with store_release; what that block wrote before is then seen too.
// ld.acquire.gpu (9.7.9.8). A loop that waits for a value calls this and nothing that a thread must wait for.
DEVICE u32 load_acquire(Global<u32> x, u64 i SITE) {
#if ON_GPU
    u32 value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(x.data + i) : "memory");
    return value;
#else
    return emulator::load_acquire(x.buffer, x.data, x.first + i64(i), site);
#endif
}

// x[i] = value, after everything that this thread wrote before. st.release.gpu (9.7.9.11).
DEVICE void store_release(Global<u32> x, u64 i, u32 value SITE) {
#if ON_GPU
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(x.data + i), "r"(value) : "memory");
#else
    emulator::store_release(x.buffer, x.data, x.first + i64(i), value, site);
#endif
}
