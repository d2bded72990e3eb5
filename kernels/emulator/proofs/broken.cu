// Broken kernels, one for each way of being broken that the emulator knows. A line that ends with `// caught: NAME` is the
// one that its report must name when kernel broken_NAME runs; kernels/tests/cuda/faults.rs runs them. They are compiled
// into the emulator only.
#include "isa/isa.cuh"

constexpr u32 THREADS = 64;

// --- deadlock

KERNEL(broken_barrier_some_never_reach, THREADS, Global<u32> out) {
    if (warp_index() == 0) {
        block_sync();  // caught: barrier_some_never_reach
    }
    store(out, thread_index(), 1u);
}

KERNEL(broken_polls_in_vain, THREADS, Global<u32> out) {
    while (load_acquire(out, 0) != 7) {  // caught: polls_in_vain
    }
}

// The block that releases the value begins only when one of the others has ended.
KERNEL(broken_polls_for_a_later_block, THREADS, Global<u32> out) {
    if (block_x() == grid_x() - 1) {
        store_release(out, 0, 7);
    }
    while (load_acquire(out, 0) != 7) {  // caught: polls_for_a_later_block
    }
}

KERNEL(broken_spins_on_plain_loads, THREADS, Global<u32> out) {
    while (load(out, 0) != 7) {  // caught: spins_on_plain_loads
    }
}

// --- divergence

KERNEL(broken_shuffle_in_a_branch, THREADS, Global<u32> out) {
    u32 value = thread_index();
    if (lane_index() < 16) {
        value += shuffle_xor(value, 1);  // caught: shuffle_in_a_branch
    } else {
        value += shuffle_xor(value, 2);  // caught: shuffle_in_a_branch
    }
    store(out, thread_index(), value);
}

KERNEL(broken_shuffles_of_different_distance, THREADS, Global<u32> out) {
    const u32 distance = lane_index() < 16 ? 1 : 2;
    store(out, thread_index(), shuffle_xor(thread_index(), distance));  // caught: shuffles_of_different_distance
}

KERNEL(broken_barrier_in_a_branch, THREADS, Global<u32> out) {
    if (lane_index() != 3) {
        block_sync();  // caught: barrier_in_a_branch
    } else {
        block_sync();  // caught: barrier_in_a_branch
    }
    store(out, thread_index(), 1u);
}

KERNEL(broken_ends_before_a_shuffle, THREADS, Global<u32> out) {
    if (thread_index() == 40) {
        return;
    }
    store(out, thread_index(), shuffle(thread_index(), 0));  // caught: ends_before_a_shuffle
}

KERNEL(broken_ends_before_a_barrier, THREADS, Global<u32> out) {
    if (thread_index() >= 60) {
        return;
    }
    block_sync();  // caught: ends_before_a_barrier
    store(out, thread_index(), 1u);
}

KERNEL(broken_shuffle_from_no_lane, THREADS, Global<u32> out) {
    store(out, thread_index(), shuffle(thread_index(), WARP));  // caught: shuffle_from_no_lane
}

// --- barriers

KERNEL(broken_barrier_counts_differ, 128, Global<u32> out) {
    if (warp_index() == 0) {
        barrier_arrive(1, 64);  // caught: barrier_counts_differ
    } else if (warp_index() == 1) {
        barrier_sync(1, 96);  // caught: barrier_counts_differ
    }
    store(out, thread_index(), 1u);
}

KERNEL(broken_barrier_twice, THREADS, Global<u32> out) {
    if (warp_index() == 0) {
        barrier_arrive(1, 64);
        barrier_arrive(1, 64);  // caught: barrier_twice
    }
    store(out, thread_index(), 1u);
}

KERNEL(broken_barrier_incomplete_at_the_end, THREADS, Global<u32> out) {
    if (warp_index() == 0) {
        barrier_arrive(2, 64);  // caught: barrier_incomplete_at_the_end
    }
    store(out, thread_index(), 1u);
}

KERNEL(broken_barrier_of_no_whole_warps, THREADS, Global<u32> out) {
    barrier_sync(1, 48);  // caught: barrier_of_no_whole_warps
    store(out, thread_index(), 1u);
}

KERNEL(broken_barriers_differ_in_a_warp, THREADS, Global<u32> out) {
    barrier_sync(1 + lane_index() % 2, 64);  // caught: barriers_differ_in_a_warp
    store(out, thread_index(), 1u);
}

// --- what nothing has written

KERNEL(broken_reads_poisoned_memory, THREADS, Global<const u32> x, Global<u32> out) {
    store(out, thread_index(), load(x, thread_index()));  // caught: reads_poisoned_memory
}

KERNEL(broken_adds_to_poisoned_memory, THREADS, Global<u32> x, Global<u32> out) {
    store(out, thread_index(), atomic_add(x, thread_index(), 1));  // caught: adds_to_poisoned_memory
}

KERNEL(broken_reads_unwritten_shared, THREADS, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> values = memory.take<u32>(THREADS);
    if (thread_index() != 5) {
        store(values, thread_index(), 1u);
    }
    block_sync();
    store(out, thread_index(), load(values, thread_index()));  // caught: reads_unwritten_shared
}

// --- bounds

KERNEL(broken_reads_one_beyond, THREADS, Global<const f32> x, Global<f32> out, u64 len) {
    store(out, thread_index(), load(x, thread_index() + len - (THREADS - 1)));  // caught: reads_one_beyond
}

KERNEL(broken_reads_one_before, THREADS, Global<const f32> x, Global<f32> out) {
    store(out, thread_index(), load(from(x, -1), thread_index()));  // caught: reads_one_before
}

KERNEL(broken_writes_one_beyond, THREADS, Global<bf16> out, u64 len) {
    store(out, thread_index() + len - (THREADS - 1), bf16{1});  // caught: writes_one_beyond
}

KERNEL(broken_writes_one_before, THREADS, Global<bf16> out) {
    store(out, u64(thread_index()) - 1, bf16{1});  // caught: writes_one_before
}

KERNEL(broken_pack_ends_beyond, THREADS, Global<const bf16> x, Global<bf16> out) {
    store_pack(out, 0, load_pack(x, thread_index() * 8));  // caught: pack_ends_beyond
}

KERNEL(broken_writes_into_the_next_shared_array, THREADS, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> first = memory.take<u32>(THREADS - 4), second = memory.take<u32>(4);
    if (thread_index() < 4) {
        store(second, thread_index(), 1u);
    }
    store(first, thread_index(), 1u);  // caught: writes_into_the_next_shared_array
    store(out, 0, 1u);
}

KERNEL(broken_reads_the_shared_array_before, THREADS, Global<u32> out) {
    SharedMemory memory;
    const Shared<u32> first = memory.take<u32>(4), second = memory.take<u32>(THREADS);
    store(first, 0, 1u);
    store(out, 0, load(from(second, -1), 0));  // caught: reads_the_shared_array_before
}

KERNEL(broken_takes_more_than_it_has, THREADS, Global<u32> out) {
    SharedMemory memory;
    store(memory.take<u32>(65), thread_index(), 1u);  // caught: takes_more_than_it_has
    store(out, 0, 1u);
}

// --- alignment

KERNEL(broken_reads_misaligned, THREADS, Global<const f32> x, Global<f32> out) {
    store_pack(out, 0, load_pack(x, 1));  // caught: reads_misaligned
}

KERNEL(broken_writes_misaligned, THREADS, Global<const f32> x, Global<f32> out) {
    store_pack(out, 2, load_pack(x, 4));  // caught: writes_misaligned
}

KERNEL(broken_shared_misaligned, THREADS, Global<u32> out) {
    SharedMemory memory;
    const Shared<f32> values = memory.take<f32>(THREADS);
    store_pack(values, 1, Pack<f32>{});  // caught: shared_misaligned
    store(out, 0, 1u);
}

// A local array is beyond the emulator; AddressSanitizer sees it.
KERNEL(broken_leaves_a_local_array, THREADS, Global<u32> out, u32 len) {
    u32 values[8];
    for (u32 i = 0; i <= len; i++) {
        values[i] = i;  // caught: leaves_a_local_array
    }
    store(out, thread_index(), values[thread_index() % 8]);
}
