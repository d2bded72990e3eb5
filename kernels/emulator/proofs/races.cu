// More broken kernels: shared memory without the barriers that it needs, and asynchronous copies used too early, too late
// or not at all. As in broken.cu.
#include "isa/isa.cuh"

constexpr u32 THREADS = 64;

// An array of shared memory that all threads have seen written.
DEVICE Shared<u32> zeros(SharedMemory& memory, u32 len) {
    const Shared<u32> values = memory.take<u32>(len);
    for (u32 i = thread_index(); i < len; i += num_threads()) {
        store(values, i, 0u);
    }
    block_sync();
    return values;
}

// --- races

KERNEL(broken_race_of_two_warps, THREADS, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = zeros(memory, THREADS);
    store(values, thread_index(), thread_index());  // caught: race_of_two_warps
    warp_sync();
    store(out, thread_index(), load(values, thread_index() ^ 32));  // caught: race_of_two_warps
}

KERNEL(broken_race_in_a_warp, THREADS, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = zeros(memory, THREADS);
    store(values, thread_index(), thread_index());  // caught: race_in_a_warp
    store(out, thread_index(), load(values, thread_index() ^ 1));  // caught: race_in_a_warp
}

// A shuffle lets the lanes meet, but orders no memory.
KERNEL(broken_race_past_a_shuffle, THREADS, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = zeros(memory, THREADS);
    store(values, thread_index(), thread_index());  // caught: race_past_a_shuffle
    const u32 other = shuffle_xor(thread_index(), 1);
    store(out, thread_index(), load(values, other));  // caught: race_past_a_shuffle
}

KERNEL(broken_race_of_writers, THREADS, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(THREADS);
    store(values, thread_index() / 2, thread_index());  // caught: race_of_writers
    store(out, thread_index(), 1u);
}

// The second use of the array begins before all have done with the first.
KERNEL(broken_race_with_readers, THREADS, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(THREADS);
    store(values, thread_index(), thread_index());
    block_sync();
    const u32 other = load(values, thread_index() ^ 32);  // caught: race_with_readers
    store(values, thread_index(), other);  // caught: race_with_readers
    block_sync();
    store(out, thread_index(), load(values, 0));
}

// The consumer arrives where it should wait.
KERNEL(broken_race_past_an_arrive, THREADS, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = zeros(memory, 32);
    if (warp_index() == 0) {
        store(values, lane_index(), lane_index());  // caught: race_past_an_arrive
        barrier_sync(1, 64);
    } else {
        barrier_arrive(1, 64);
        store(out, lane_index(), load(values, lane_index()));  // caught: race_past_an_arrive
    }
}

#if WARP_SIZE == 32
KERNEL(broken_race_of_matrices, THREADS, Global<u32> out) {
    SharedMemory memory;
    const Shared<bf16> values = memory.take<bf16>(THREADS * 8);
    store_pack(values, thread_index() * 8, Pack<bf16>{});
    shuffle(0u, 0);
    u32 r[4];
    load_matrices(r, values, (thread_index() ^ 1) * 8);  // caught: race_of_matrices
    store(out, thread_index(), r[0]);
}
#endif

// --- asynchronous copies

KERNEL(broken_copy_read_before_its_wait, THREADS, Global<const u32> x, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(4 * THREADS);
    copy_async(values, thread_index() * 4, x, thread_index() * 4);
    copy_async_commit();
    store(out, thread_index(), load(values, thread_index() * 4));  // caught: copy_read_before_its_wait
    copy_async_wait<0>();
}

KERNEL(broken_copy_read_before_a_barrier, THREADS, Global<const u32> x, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = zeros(memory, 4 * THREADS);
    copy_async(values, thread_index() * 4, x, thread_index() * 4);  // caught: copy_read_before_a_barrier
    copy_async_commit();
    copy_async_wait<0>();
    store(out, thread_index(), load(values, (thread_index() ^ 32) * 4));  // caught: copy_read_before_a_barrier
}

// A barrier that precedes the wait orders nothing.
KERNEL(broken_copy_waits_after_the_barrier, THREADS, Global<const u32> x, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(4 * THREADS);
    copy_async(values, thread_index() * 4, x, thread_index() * 4);
    copy_async_commit();
    block_sync();
    copy_async_wait<0>();
    store(out, thread_index(), load(values, (thread_index() ^ 32) * 4));  // caught: copy_waits_after_the_barrier
}

KERNEL(broken_copy_not_committed, THREADS, Global<const u32> x, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(4 * THREADS);
    copy_async(values, thread_index() * 4, x, thread_index() * 4);
    copy_async_wait<0>();
    store(out, thread_index(), load(values, thread_index() * 4));  // caught: copy_not_committed
}

KERNEL(broken_copy_waits_for_one_group_too_few, THREADS, Global<const u32> x, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(8 * THREADS);
    for (u32 stage = 0; stage < 2; stage++) {
        copy_async(values, (stage * THREADS + thread_index()) * 4, x, thread_index() * 4);
        copy_async_commit();
    }
    copy_async_wait<1>();
    store(out, thread_index(), load(values, (THREADS + thread_index()) * 4));  // caught: copy_waits_for_one_group_too_few
    copy_async_wait<0>();
}

// The next tile is fetched into the stage that other warps still read.
KERNEL(broken_copy_into_a_stage_in_use, THREADS, Global<const u32> x, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(4 * THREADS);
    u32 sum = 0;
    for (u32 tile = 0; tile < 2; tile++) {
        copy_async(values, thread_index() * 4, x, thread_index() * 4);  // caught: copy_into_a_stage_in_use
        copy_async_commit();
        copy_async_wait<0>();
        block_sync();
        sum += load(values, (thread_index() ^ 32) * 4);  // caught: copy_into_a_stage_in_use
    }
    store(out, thread_index(), sum);
}

KERNEL(broken_copy_over_a_copy, THREADS, Global<const u32> x, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(4 * THREADS);
    copy_async(values, thread_index() * 4, x, thread_index() * 4);
    copy_async(values, thread_index() * 4, x, thread_index() * 4);  // caught: copy_over_a_copy
    copy_async_commit();
    copy_async_wait<0>();
    store(out, thread_index(), load(values, thread_index() * 4));
}

KERNEL(broken_copy_under_way_at_the_end, THREADS, Global<const u32> x, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(4 * THREADS);
    copy_async(values, thread_index() * 4, x, thread_index() * 4);  // caught: copy_under_way_at_the_end
    copy_async_commit();
    store(out, thread_index(), 1u);
}

KERNEL(broken_copy_of_too_many_bytes, THREADS, Global<const u32> x, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(4 * THREADS);
    copy_async(values, thread_index() * 4, x, thread_index() * 4, 20);  // caught: copy_of_too_many_bytes
    copy_async_commit();
    copy_async_wait<0>();
    store(out, thread_index(), load(values, thread_index() * 4));
}

KERNEL(broken_copy_beyond_its_source, THREADS, Global<const u32> x, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(4 * THREADS);
    copy_async(values, thread_index() * 4, x, thread_index() * 4 + 4);  // caught: copy_beyond_its_source
    copy_async_commit();
    copy_async_wait<0>();
    store(out, thread_index(), load(values, thread_index() * 4));
}
