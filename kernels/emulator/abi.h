// What the host program calls: kernels by name, and the memory that they may touch.
#pragma once

#include <cstdint>

extern "C" {

// An argument of a launch. Kind 0, a buffer: `value` is its address, `bytes` what the kernel may touch, `size` 1 if it
// may be written and 0 if not. Kind 1, an integer, and 2, a floating-point number: `value` holds its bits, `size` is 4
// or 8.
struct EmulatorArg {
    uint32_t kind;
    uint32_t size;
    uint64_t value;
    uint64_t bytes;
};

// How threads are run. Results must not depend on it.
struct EmulatorSettings {
    uint32_t schedule;         // 0 round-robin, 1 random, 2 one warp as far ahead of the others as it gets
    uint32_t late;             // asynchronous copies: 0 at once, 1 when they are waited for
    uint64_t seed;             // of the random and the skewed schedule
    uint32_t live_blocks;      // blocks that run side by side
    uint32_t warp_size;        // 32 or 64: which of the two builds of the kernels
    uint32_t count_accesses;   // 1: fill in the counters
    uint32_t edge_blocks;      // only so many blocks at either end of each dimension of the grid are run; 0: all
};

// What a launch did. Accesses are those of warps; wavefronts and sectors are what the memories would spend on them.
struct EmulatorCounters {
    uint64_t shared_accesses;
    uint64_t shared_wavefronts;
    uint64_t shared_wavefronts_at_best;
    uint64_t global_accesses;
    uint64_t global_sectors;
    uint64_t global_sectors_at_best;
    uint64_t barriers;
    uint64_t switches;
};

// Runs a kernel to its end. 0: done. 1: a fault, told in one line (kernel, block, thread, file and line, what).
// 2: no such kernel, or arguments that do not fit its parameters. Several threads may launch at the same time.
int32_t emulator_launch(const char* kernel, const uint32_t grid[3], uint32_t threads, uint32_t shared_bytes,
                        const EmulatorArg* args, uint32_t num_args, const EmulatorSettings* settings,
                        EmulatorCounters* counters, char* message, uint64_t message_bytes);

// Whether there is such a kernel, for warps of this size.
int32_t emulator_has_kernel(const char* kernel, uint32_t warp_size);

// Zeroed memory in which every byte counts as written; null if there is not enough. With `sparse` it takes room only
// where it is touched, and may be far larger than the machine's.
void* emulator_allocate(uint64_t bytes, uint64_t alignment, uint32_t sparse);
void emulator_free(void* memory);

// Marks bytes as never written (and fills them with 0xFF); as written; copies bytes with their marks.
void emulator_poison(void* memory, uint64_t bytes);
void emulator_written(void* memory, uint64_t bytes);
void emulator_copy(void* dst, const void* src, uint64_t bytes);

// The first byte that nothing has written, or -1.
int64_t emulator_first_poisoned(const void* memory, uint64_t bytes);
}
