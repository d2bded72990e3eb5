// Sums of squares of chunks, and the tree that adds them: a gradient norm with the same bits on any number of ranks.
//
//   sum_of_squares   partials[c] = sum of x[i]² over chunk c                    x [n] f32, partials [n / CHUNK, up] f32
//   tree_sum         out[0] (+)= ((p[0] + p[1]) + (p[2] + p[3])) + ...           partials [m] f32, used up; out [1] f32
//
// Bytes: 4 n, then 4 m. FLOPs: 2 n, then m. Floor: bytes / bandwidth; of the tree, a launch or two. Geometry of
// sum_of_squares: 256 threads, 16 for a chunk; no shared memory. Of the tree: a launch for each factor of 1024, blocks of
// 256 threads with 4 nodes each; shared memory: a number for each warp.
//
// An aligned range of a power of two of leaves is one node of the tree, so each launch makes 1024 nodes into one, in the
// place of the first: the next launch finds them at 1024 times the distance.
#include "isa/isa.cuh"
#include "reduce.cuh"

KERNEL(sum_of_squares, 256, Global<const f32> x, Global<f32> partials, u64 len) {
    sum_chunks(x, partials, len, [](f32 value) { return value * value; });
}

constexpr u32 TREE_THREADS = 256;
constexpr u32 NODES_PER_THREAD = 4;
constexpr u32 NODES_PER_BLOCK = TREE_THREADS * NODES_PER_THREAD;

// A node of two branches, of which the right one may not be there; then the left one is carried up as it is.
DEVICE f32 node(f32 left, f32 right, bool has_right) { return has_right ? left + right : left; }

// The node of all lanes. Lane l is the node of `width` leaves from `first` on; leaves end at `end`.
DEVICE f32 tree_of_warp(f32 value, u32 lanes, u32 first, u32 width, u32 end) {
    for (u32 distance = 1; distance < lanes; distance *= 2) {
        const f32 right = shuffle_down(value, distance);
        value = node(value, right, first + distance * width < end);
    }
    return value;
}

// The node of up to NODES_PER_THREAD adjacent leaves.
DEVICE f32 tree_of_thread(Global<f32> nodes, u64 first, u64 distance, u32 count) {
    f32 leaves[NODES_PER_THREAD];
    UNROLL for (u32 j = 0; j < NODES_PER_THREAD; j++) {
        leaves[j] = j < count ? load(nodes, (first + j) * distance) : 0.0f;
    }
    const f32 left = node(leaves[0], leaves[1], count > 1), right = node(leaves[2], leaves[3], count > 3);
    return node(left, right, count > 2);
}

// The node of the block's leaves, in thread 0: nodes NODES_PER_BLOCK · block and on of `count`, `distance` apart.
DEVICE f32 tree_of_block(Global<f32> nodes, u64 count, u64 distance, Shared<f32> of_warps) {
    const u64 first_of_block = u64(block_x()) * NODES_PER_BLOCK;
    const u32 end = u32(least(count - least(count, first_of_block), u64(NODES_PER_BLOCK)));
    const u32 first = thread_index() * NODES_PER_THREAD;
    const u32 own = least(end - least(end, first), NODES_PER_THREAD);
    const f32 thread = tree_of_thread(nodes, first_of_block + first, distance, own);
    const f32 warp = tree_of_warp(thread, WARP, first, NODES_PER_THREAD, end);
    if (lane_index() == 0) {
        store(of_warps, warp_index(), warp);
    }
    block_sync();
    if (warp_index() > 0) {
        return 0.0f;
    }
    constexpr u32 WARPS = TREE_THREADS / WARP, NODES_PER_WARP = WARP * NODES_PER_THREAD;
    const f32 of_lane = lane_index() < WARPS ? load(of_warps, lane_index()) : 0.0f;
    return tree_of_warp(of_lane, WARPS, lane_index() * NODES_PER_WARP, NODES_PER_WARP, end);
}

// A level of the tree that is not the last: each block's node in the place of its first.
KERNEL(tree_sum_level, 256, Global<f32> nodes, u64 count, u64 distance) {
    SharedMemory memory;
    const Shared<f32> of_warps = take_for_warps(memory);
    const f32 sum = tree_of_block(nodes, count, distance, of_warps);
    if (thread_index() == 0) {
        store(nodes, u64(block_x()) * NODES_PER_BLOCK * distance, sum);
    }
}

// The last level, of at most NODES_PER_BLOCK nodes; 0 for none.
KERNEL(tree_sum_root, 256, Global<f32> nodes, u64 count, u64 distance, Global<f32> out, u32 adds) {
    SharedMemory memory;
    const Shared<f32> of_warps = take_for_warps(memory);
    const f32 sum = tree_of_block(nodes, count, distance, of_warps);
    if (thread_index() == 0) {
        store(out, 0, adds ? load(out, 0) + sum : sum);
    }
}
