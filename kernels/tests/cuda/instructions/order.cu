// Barriers, fences, atomic operations: kernels whose results are right only if these order what they must (order.rs).
#include "isa/isa.cuh"

constexpr u32 THREADS = 128;

// Lanes hand values through shared memory, ordered by warp_sync; then all threads, by block_sync. Every thread ends with the sum
// over its block.
KERNEL(instruction_syncs, 128, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(THREADS);
    const u32 me = thread_index();
    u32 value = block_x() + me;
    for (u32 distance = 1; distance < THREADS; distance *= 2) {
        store(values, me, value);
        if (distance < WARP) {
            warp_sync();
        } else {
            block_sync();
        }
        value += load(values, me ^ distance);
        if (distance < WARP) {
            warp_sync();
        } else {
            block_sync();
        }
    }
    store(out, block_x() * THREADS + me, value);
}

// The first warp fills two stages in turn, the others add them up: each stage has a named barrier for "full" and one for
// "empty", at which who need not wait only arrives.
KERNEL(instruction_named_barriers, 128, Global<const u32> x, Global<u32> out, u32 num_tiles) {
    SharedMemory memory;
    const Shared<u32> stages = memory.take<u32>(2 * WARP);
    constexpr u32 FULL = 1, EMPTY = 3;
    if (warp_index() == 0) {
        for (u32 tile = 0; tile < num_tiles; tile++) {
            const u32 stage = tile % 2;
            if (tile >= 2) {
                barrier_sync(EMPTY + stage, num_threads());
            }
            store(stages, stage * WARP + lane_index(), load(x, tile * WARP + lane_index()));
            barrier_arrive(FULL + stage, num_threads());
        }
        return;
    }
    u32 sum = 0;
    for (u32 tile = 0; tile < num_tiles; tile++) {
        const u32 stage = tile % 2;
        barrier_sync(FULL + stage, num_threads());
        for (u32 i = 0; i < WARP; i++) {
            sum += load(stages, stage * WARP + i) * (i + 1);
        }
        if (tile + 2 < num_tiles) {
            barrier_arrive(EMPTY + stage, num_threads());
        }
    }
    store(out, thread_index() - WARP, sum);
}

// Blocks change words one after the other, each when it is released by the one before.
KERNEL(instruction_release_acquire, 128, Global<u32> turn, Global<u32> words) {
    if (thread_index() == 0) {
        while (load_acquire(turn, 0) != block_x()) {
        }
    }
    block_sync();
    store(words, thread_index(), load(words, thread_index()) * 3 + block_x());
    device_fence();
    block_sync();
    if (thread_index() == 0) {
        store_release(turn, 0, block_x() + 1);
    }
}

// Every block leaves words; the last to count itself adds them up.
KERNEL(instruction_atomic_add, 128, Global<u32> counter, Global<u32> left, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> is_last = memory.take<u32>(1);
    store(left, block_x() * THREADS + thread_index(), block_x() * thread_index());
    device_fence();
    block_sync();
    if (thread_index() == 0) {
        store(is_last, 0, u32(atomic_add(counter, 0, 1) == grid_x() - 1));
    }
    block_sync();
    if (load(is_last, 0) == 0) {
        return;
    }
    device_fence();
    u32 sum = 0;
    for (u32 block = 0; block < grid_x(); block++) {
        sum += load(left, block * THREADS + thread_index());
    }
    store(out, thread_index(), sum);
}
