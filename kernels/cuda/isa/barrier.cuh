// Barriers of a block and fences. A barrier is executed by whole warps: all of a warp's threads must come to it, at the
// same line (barrier.sync.aligned, 9.7.13.1). What a thread wrote before it, every thread reads after it.
#pragma once

#include "platform.cuh"

// All threads of the block. bar.sync 0.
DEVICE void block_sync(SITE_ONLY) {
#if ON_GPU
    __syncthreads();
#else
    emulator::barrier(0, 0, true, site);
#endif
}

// `threads` threads of the block, a multiple of the warp, at barrier `id` (1 to 15; 0 is block_sync's). bar.sync id, n.
DEVICE void barrier_sync(u32 id, u32 threads SITE) {
#if ON_GPU
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
    emulator::barrier(id, threads, true, site);
#endif
}

// Counts as one of the `threads` threads of barrier `id` without waiting for the others. bar.arrive id, n.
DEVICE void barrier_arrive(u32 id, u32 threads SITE) {
#if ON_GPU
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
    emulator::barrier(id, threads, false, site);
#endif
}

// All threads of the warp; orders their accesses to memory. bar.warp.sync (9.7.13.2).
DEVICE void warp_sync(SITE_ONLY) {
#if ON_GPU
    __syncwarp();
#else
    emulator::warp_barrier(site);
#endif
}

// What this thread wrote before is seen by other blocks before what it writes after. fence.acq_rel.gpu (9.7.13.4);
// __threadfence would be the dearer fence.sc.
DEVICE void device_fence() {
#if ON_GPU
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
#endif
}
