// Gradients of RMS norms of rows wider than 4096: rms_norm_backward.cuh tells formula, bytes and floor. A block of 512 threads
// works on one row after the other. Up to a width of 8192 a thread has 2 groups of each; beyond, rows are read twice, the
// second time from the caches.
// Shared memory: 1 f32 for every 32 threads; from 8192 to 16384 also the sums over rows, 4 bytes per column, rounded up to
// whole groups of all threads. Beyond that they are in `partials`, and elements are moved one by one.
#include "isa/isa.cuh"
#include "rms_norm_backward.cuh"

constexpr u32 WIDE_TEAM = 512;
constexpr u32 MAX_SHARED_WIDTH = 16384;

// Where a thread's sums of its group number `group` lie: neighbours next to each other, pack by pack.
DEVICE u32 place_of(u32 group, u32 pack) {
    return ((group * (GROUP / Pack<f32>::LEN) + pack) * WIDE_TEAM + thread_index()) * Pack<f32>::LEN;
}

DEVICE void read_sums(f32 (&sums)[GROUP], Shared<f32> of_threads, u32 group) {
    UNROLL for (u32 p = 0; p < GROUP / Pack<f32>::LEN; p++) {
        const Pack<f32> pack = load_pack(of_threads, place_of(group, p));
        UNROLL for (u32 j = 0; j < Pack<f32>::LEN; j++) { sums[p * Pack<f32>::LEN + j] = pack[j]; }
    }
}

DEVICE void write_sums(const f32 (&sums)[GROUP], Shared<f32> of_threads, u32 group) {
    UNROLL for (u32 p = 0; p < GROUP / Pack<f32>::LEN; p++) {
        const u32 j = p * Pack<f32>::LEN;
        store_pack(of_threads, place_of(group, p), Pack<f32>{sums[j], sums[j + 1], sums[j + 2], sums[j + 3]});
    }
}

// Rows that registers do not hold: each is read twice, the second time from the caches, and sums over rows are in
// `of_threads`.
template <class X, class W>
DEVICE void backward_of_wide_part(const Tensors<X, W>& t, Extents e, Team team, Shared<f32> of_warps,
                                  Shared<f32> of_threads) {
    const u32 begin = block_x() * ROWS_PER_PARTIAL, end = least(begin + ROWS_PER_PARTIAL, e.rows);
    const Global<f32> partial = from(t.partials, i64(u64(block_x()) * e.width));
    for (u32 row = begin; row < end; row++) {
        const f32 rstd = load(t.rstd, row);
        f32 dots[1] = {};
        for (u32 g = 0; team.column(g) < e.width; g++) {
            const u64 i = index_of(row, team.column(g), e.width);
            const Packed<W> weight = load_packed(t.weight, team.column(g));
            dots[0] = add_products(dots[0], load_packed(t.dout, i), weight, load_packed(t.x, i));
        }
        team_sums(dots, team, of_warps);
        for (u32 g = 0; team.column(g) < e.width; g++) {
            const u32 column = team.column(g);
            const u64 i = index_of(row, column, e.width);
            const Packed<X> before = e.adds ? load_packed(t.dx, i) : Packed<X>{};
            f32 sums[GROUP] = {};
            if (row > begin) {
                read_sums(sums, of_threads, g);
            }
            finish_group(t, e, row, column, load_packed(t.dout, i), load_packed(t.x, i), load_packed(t.weight, column),
                         before, rstd, pull_of(rstd, dots[0], e), sums);
            if (row + 1 < end) {
                write_sums(sums, of_threads, g);
            } else {
                store_packed(partial, column, round_group<f32>(sums));
            }
        }
    }
}

// Rows of which a thread has several groups. The block is the team; its constant size spares registers for addresses.
template <class X, class W>
DEVICE void backward_wide(const Tensors<X, W>& t, Extents e) {
    constexpr bool IS_HALF = sizeof(X) == 2;
    constexpr u32 SPAN = WIDE_TEAM * GROUP;
    const Team team{WIDE_TEAM, thread_index(), 0, 1};
    SharedMemory memory;
    const Shared<f32> of_warps = take_for_warps<1>(memory);
    const bool packs = moves_packs(t, e.width), in_registers = e.width <= 2 * SPAN;
    const u32 groups = e.width <= MAX_SHARED_WIDTH && !in_registers ? (e.width + SPAN - 1) / SPAN : 0;
    const Shared<f32> of_threads = memory.take<f32>(groups * SPAN);
    if (packs && in_registers) {
        backward_of_part<1, 2, IS_HALF>(t, e, team, of_warps, of_threads);
    } else if (packs && groups > 0) {
        backward_of_wide_part(t, e, team, of_warps, of_threads);
    } else {
        backward_of_any_part(t, e, team, of_warps, of_threads);
    }
}

#define ENTRY(X, W)                                                                                         \
    KERNEL(rms_norm_backward_wide_##X##_##W, WIDE_TEAM, Global<const X> dout, Global<const X> x,            \
           Global<const W> weight, Global<const f32> rstd, Global<X> dx, Global<f32> partials, u32 rows,    \
           u32 width, u32 adds) {                                                                           \
        const Tensors<X, W> tensors{dout, x, weight, rstd, dx, partials};                                   \
        backward_wide(tensors, extents(rows, width, adds));                                                 \
    }
ENTRY(f32, f32)
ENTRY(f32, bf16)
ENTRY(bf16, f32)
ENTRY(bf16, bf16)
