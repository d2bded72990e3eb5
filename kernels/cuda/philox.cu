// Normal numbers as functions of (seed, tensor, global index): initial weights.
//
//   philox_normal   out[i] = fma(normal(seed, tensor_key, index(i)), std, mean)   out [n] f32
//
// Bytes: 4 per element; FLOPs: 72, beside a quarter of Philox's 20 products. Floor: bytes / bandwidth or FLOPs / rate, near
// each other on every GPU. Geometry: 256 threads, each with 4 adjacent elements in a grid-stride loop, which share one
// counter where the index of the first is a multiple of 4; no shared memory.
#include "isa/isa.cuh"
#include "math.cuh"
#include "philox.cuh"

// The lowest bit is the sign, the others the probability (k + 1/2) / 2^32 of the tail beyond the number.
DEVICE f32 normal_from_word(u32 word) {
    constexpr f32 TWO_TO_MINUS_32 = 1.0f / 4294967296.0f;
    const f32 tail = (f32(i32(word >> 1)) + 0.5f) * TWO_TO_MINUS_32;
    return f32_of_bits(bits_of(inverse_normal(tail)) ^ (word << 31));
}

// Which numbers a call writes.
struct Normal {
    PhiloxKey seed;
    u64 tensor_key;
    f32 std, mean;

    METHOD f32 from(u32 word) const { return fma(normal_from_word(word), std, mean); }
    METHOD PhiloxWords block(u64 index) const { return philox_block(index / NORMALS_PER_BLOCK, tensor_key, seed); }
};

// Elements [first, first + 4) whose indices are one block.
DEVICE void write_block(const Normal& normal, u64 index, Global<f32> out, u64 first, bool aligned) {
    const PhiloxWords block = normal.block(index);
    Pack<f32> values;
    UNROLL for (u32 j = 0; j < NORMALS_PER_BLOCK; j++) { values[j] = normal.from(block.words[j]); }
    if (aligned) {
        store_pack(out, first, values);
    } else {
        UNROLL for (u32 j = 0; j < NORMALS_PER_BLOCK; j++) { store(out, first + j, values[j]); }
    }
}

KERNEL(philox_normal, 256, Global<f32> out, u64 seed, u64 tensor_key, f32 std, f32 mean, u64 row_start, u64 column,
       u64 row_len, u64 row_stride, u64 len) {
    const GlobalIndex indices{row_start, column, row_len, row_stride};
    const Normal normal{philox_key(seed), tensor_key, std, mean};
    const bool blocks_are_whole = indices.keeps_groups_of(NORMALS_PER_BLOCK), aligned = is_aligned(out);
    const u64 thread = u64(block_x()) * num_threads() + thread_index();
    const u64 threads = u64(grid_x()) * num_threads();
    for (u64 first = thread * NORMALS_PER_BLOCK; first < len; first += threads * NORMALS_PER_BLOCK) {
        if (blocks_are_whole && first + NORMALS_PER_BLOCK <= len) {
            write_block(normal, indices.at(first), out, first, aligned);
            continue;
        }
        const u64 end = least(first + NORMALS_PER_BLOCK, len);
        for (u64 i = first; i < end; i++) {
            const u64 index = indices.at(i);
            store(out, i, normal.from(word_of(normal.block(index), u32(index % NORMALS_PER_BLOCK))));
        }
    }
}
