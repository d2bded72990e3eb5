// Sound kernels, the counterparts of the broken ones: whatever the order of threads and the time of copies, the emulator
// must have no objection, and their results are known. kernels/tests/cuda/emulator/sound.rs runs them,
// with some of kernels/tests/cuda/instructions/order.cu.
#include "isa/isa.cuh"

constexpr u32 THREADS = 128;

// Tiles of 16 bytes for each thread go through a ring of stages, fetched ahead.
KERNEL(sound_copy_ring, THREADS, Global<const u32> x, Global<u32> out, u32 num_tiles, u32 valid_bytes) {
    constexpr u32 STAGES = 3;
    SharedMemory memory;
    const Shared<u32> ring = memory.take<u32>(STAGES * THREADS * 4);
    const u32 me = thread_index(), other = THREADS - 1 - me;
    const auto fetch = [&](u32 tile) {
        if (tile < num_tiles) {
            copy_async(ring, (tile % STAGES * THREADS + me) * 4, x, u64(tile * THREADS + me) * 4, valid_bytes);
        }
        copy_async_commit();
    };
    for (u32 tile = 0; tile < STAGES - 1; tile++) {
        fetch(tile);
    }
    u32 sum = 0;
    for (u32 tile = 0; tile < num_tiles; tile++) {
        copy_async_wait<STAGES - 2>();
        block_sync();
        fetch(tile + STAGES - 1);
        const Pack<u32> pack = load_pack(ring, (tile % STAGES * THREADS + other) * 4);
        sum += (tile + 1) * (pack[0] + 2 * pack[1] + 3 * pack[2] + 4 * pack[3]);
    }
    store(out, other, sum);
}

// Lanes of one warp hand values through shared memory.
KERNEL(sound_exchange_in_a_warp, THREADS, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(THREADS);
    u32 value = thread_index();
    for (u32 distance = 1; distance < WARP; distance *= 2) {
        store(values, thread_index(), value);
        warp_sync();
        value += load(values, thread_index() ^ distance);
        warp_sync();
    }
    store(out, thread_index(), value);
}

// Blocks take tiles from a counter until there are no more.
KERNEL(sound_tile_counter, THREADS, Global<u32> counter, Global<u32> out, u32 num_tiles) {
    SharedMemory memory;
    const Shared<u32> taken = memory.take<u32>(1);
    for (;;) {
        if (thread_index() == 0) {
            store(taken, 0, atomic_add(counter, 0, 1));
        }
        block_sync();
        const u32 tile = load(taken, 0);
        block_sync();
        if (tile >= num_tiles) {
            break;
        }
        store(out, tile * THREADS + thread_index(), tile + 1);
    }
}

// The last block to end adds up what the others have left.
KERNEL(sound_last_block, THREADS, Global<u32> counter, Global<u32> partials, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> is_last = memory.take<u32>(1);
    store(partials, block_x() * THREADS + thread_index(), block_x() + thread_index());
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
        sum += load(partials, block * THREADS + thread_index());
    }
    store(out, thread_index(), sum);
}

// Every kind of shuffle and vote; a row of `out` for each.
KERNEL(sound_shuffles, THREADS, Global<const u32> x, Global<u32> out) {
    const u32 me = thread_index();
    const u32 value = load(x, me);
    const auto put = [&](u32 row, u32 result) { store(out, row * THREADS + me, result); };
    for (u32 i = 0; (1u << i) < WARP; i++) {
        put(i, shuffle_xor(value, 1u << i));
    }
    put(6, shuffle_down(value, 5));
    put(7, shuffle(value, (lane_index() * 7 + 3) % WARP));
    const u64 votes = lanes_where(value % 3 == 0);
    put(8, u32(votes));
    put(9, u32(votes >> 32));
    put(10, u32(all_lanes(value < 1000000)) + 2 * u32(all_lanes(lane_index() != 9)));
    put(11, u32(any_lane(value > 1000000)) + 2 * u32(any_lane(lane_index() == 9)));
}
