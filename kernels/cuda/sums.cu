// Plain sums of f32, each in an order that depends on shapes only.
//
//   chunk_sums           partials[c] = sum of the elements of chunk c of x (see sum_chunks)
//   column_sum_partials  partials[p, w] = sum of x[r, w] over the rows of part p, in their order: bits of the CPU
//   add_partials         sums[w] += sum of partials[p, w]: the second half of every sum over rows
//
// Bytes: x once, and partials, which are 1/1024 and 1/64 of it. 1 FLOP per element. Floor: bytes / bandwidth.
// Geometry of column_sum_partials: 256 threads; a thread adds a group of columns (one where packs cannot be moved) of the
// rows of a part, of which ROWS_AT_ONCE are in flight. No shared memory. rows / 64 · width is at most 2^31.
// Geometry of add_partials: a block adds COLUMNS columns, one sector of each partial; threads / COLUMNS threads share a
// column, as far apart as that, so that thousands of partials (rows of norms per head) do not wait for each other.
// Shared memory: COLUMNS f32 for every 32 threads.
#include "isa/isa.cuh"
#include "reduce.cuh"
#include "vector.cuh"

constexpr u32 ROWS_PER_PARTIAL = 64;
constexpr u32 ROWS_AT_ONCE = 8;
constexpr u32 COLUMNS = 8;

// One thread's part: `item` counts through parts and, in them, through pieces of LEN columns.
template <u32 LEN, class X>
DEVICE void add_rows(u32 item, u64 rows, u32 width, Global<const X> x, Global<f32> partials) {
    const By by = LEN == GROUP ? By::Packs : By::Elements;
    const u32 pieces = width / LEN;
    const u32 part = item / pieces, column = item % pieces * LEN;
    const u64 begin = u64(part) * ROWS_PER_PARTIAL, end = least(begin + ROWS_PER_PARTIAL, rows);
    f32 sums[GROUP] = {};
    for (u64 row = begin; row < end; row += ROWS_AT_ONCE) {
        Packed<X> terms[ROWS_AT_ONCE];
        UNROLL for (u32 r = 0; r < ROWS_AT_ONCE; r++) {
            if (row + r < end) {
                terms[r] = load_packed(by, x, (row + r) * width + column);
            }
        }
        UNROLL for (u32 r = 0; r < ROWS_AT_ONCE; r++) {
            if (row + r < end) {
                UNROLL for (u32 j = 0; j < LEN; j++) { sums[j] = sums[j] + terms[r][j]; }
            }
        }
    }
    store_packed(by, partials, u64(part) * width + column, round_group<f32>(sums));
}

template <class X>
DEVICE void column_sum_partials(u64 rows, u32 width, Global<const X> x, Global<f32> partials) {
    const bool packs = width % GROUP == 0 && is_aligned(x) && is_aligned(partials);
    const u32 parts = u32((rows + ROWS_PER_PARTIAL - 1) / ROWS_PER_PARTIAL);
    const u32 items = parts * (packs ? width / GROUP : width);
    for (u32 item = block_x() * num_threads() + thread_index(); item < items; item += grid_x() * num_threads()) {
        if (packs) {
            add_rows<GROUP>(item, rows, width, x, partials);
        } else {
            add_rows<1>(item, rows, width, x, partials);
        }
    }
}

// The partials of one column from `first` on, every `stride`-th, in order.
DEVICE f32 sum_of_partials(Global<const f32> partials, u32 column, u32 width, u32 first, u32 stride, u32 count) {
    constexpr u32 AT_ONCE = 8;
    f32 sum = 0.0f;
    for (u32 p = first; p < count; p += AT_ONCE * stride) {
        f32 terms[AT_ONCE];
        UNROLL for (u32 j = 0; j < AT_ONCE; j++) {
            const u32 at = p + j * stride;
            terms[j] = at < count ? load(partials, u64(at) * width + column) : 0.0f;
        }
        UNROLL for (u32 j = 0; j < AT_ONCE; j++) { sum = sum + terms[j]; }
    }
    return sum;
}

KERNEL(add_partials, 512, Global<const f32> partials, Global<f32> sums, u32 count, u32 width) {
    SharedMemory memory;
    const Shared<f32> of_warps = take_for_warps<COLUMNS>(memory);
    const u32 in_block = thread_index() % COLUMNS, column = block_x() * COLUMNS + in_block;
    const u32 sharers = num_threads() / COLUMNS, sharer = thread_index() / COLUMNS;
    f32 sum = column < width ? sum_of_partials(partials, column, width, sharer, sharers, count) : 0.0f;
    UNROLL for (u32 distance = WARP / 2; distance >= COLUMNS; distance /= 2) {
        sum = sum + shuffle_xor(sum, distance);
    }
    if (lane_index() < COLUMNS) {
        store(of_warps, warp_index() * COLUMNS + in_block, sum);
    }
    block_sync();
    if (thread_index() < COLUMNS && column < width) {
        f32 total = 0.0f;
        for (u32 warp = 0; warp < num_warps(); warp++) {
            total = total + load(of_warps, warp * COLUMNS + in_block);
        }
        store(sums, column, load(sums, column) + total);
    }
}

KERNEL(chunk_sums, 256, Global<const f32> x, Global<f32> partials, u64 len) {
    sum_chunks(x, partials, len, [](f32 value) { return value; });
}

#define ENTRY(X)                                                                                             \
    KERNEL(column_sum_partials_##X, 256, Global<const X> x, Global<f32> partials, u64 rows, u32 width) {       \
        column_sum_partials(rows, width, x, partials);                                                         \
    }
ENTRY(f32)
ENTRY(bf16)
