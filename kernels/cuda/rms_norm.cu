// Root-mean-square norms of rows, alone and after an addition. x, residual, sum, out [rows, width]; weight [width];
// rstd [rows] f32.
//
//   rms_norm_forward       rstd = 1 / sqrt(mean(x²) + eps), out = x · rstd · weight           4 FLOPs per element
//   add_rms_norm_forward   sum = round(x + residual), then the same of sum                    5 FLOPs per element
//
// Bytes: 2 elements for each of x, or 4 with the addition, and 4 bytes per row. Floor: bytes / bandwidth.
//
// Geometry: a row is read once and stays in the registers of a team (rms_norm.cuh). A thread has one group of each of 4
// rows; in the kernels for wide rows, beyond 2048, up to 4 groups of one row: 4 groups in flight either way. Rows beyond
// 4 groups for each of 512 threads, and those of odd widths or addresses, are read again, from the second-level cache.
// Shared memory for every 32 threads: 4 f32; for wide rows 1.
#include "isa/isa.cuh"
#include "rms_norm.cuh"

constexpr u32 NARROW_ROWS = 4;
constexpr u32 WIDE_GROUPS = 4;

template <class X, class W>
struct Tensors {
    Global<const X> x, residual;
    Global<const W> weight;
    Global<X> sum, out;
    Global<f32> rstd;
};

struct Extents {
    u32 rows, width;
    f32 inverse_width, eps;
};

DEVICE Extents extents(u32 rows, u32 width, f32 eps) { return Extents{rows, width, reciprocal(f32(width)), eps}; }

// The group that is normalised: that of x, or of the rounded sum, which is written.
template <bool ADDS, class X, class W>
DEVICE Packed<X> read_group(const Tensors<X, W>& t, u64 i) {
    const Packed<X> x = load_packed(t.x, i);
    if constexpr (!ADDS) {
        return x;
    } else {
        const Packed<X> residual = load_packed(t.residual, i);
        f32 sums[GROUP];
        UNROLL for (u32 j = 0; j < GROUP; j++) { sums[j] = x[j] + residual[j]; }
        const Packed<X> rounded = round_group<X>(sums);
        store_packed(t.sum, i, rounded);
        return rounded;
    }
}

template <class X>
DEVICE f32 add_squares(f32 sum, const Packed<X>& group) {
    UNROLL for (u32 j = 0; j < GROUP; j++) { sum = fma(group[j], group[j], sum); }
    return sum;
}

template <class X, class W>
DEVICE void write_group(const Tensors<X, W>& t, Extents e, u32 row, u32 column, const Packed<X>& group,
                        const Packed<W>& weight, f32 rstd) {
    f32 out[GROUP];
    UNROLL for (u32 j = 0; j < GROUP; j++) { out[j] = group[j] * rstd * weight[j]; }
    store_packed(t.out, index_of(row, column, e.width), round_group<X>(out));
}

DEVICE f32 rstd_of(f32 sum_of_squares, f32 inverse_width, f32 eps) {
    return reciprocal(square_root(sum_of_squares * inverse_width + eps));
}

// ROWS rows of one team, of each of which its threads hold GROUPS groups. Rows have no more.
template <bool ADDS, u32 ROWS, u32 GROUPS, class X, class W>
DEVICE void normalize(const Tensors<X, W>& t, Extents e, Team team, Shared<f32> of_warps) {
    const u32 first_row = block_x() * ROWS * team.teams + team.index;
    const auto row_of = [&](u32 r) { return first_row + r * team.teams; };
    const u32 left = first_row < e.rows ? (e.rows - first_row + team.teams - 1) / team.teams : 0;
    Packed<X> groups[ROWS][GROUPS] = {};
    f32 sums[ROWS] = {};
    UNROLL for (u32 r = 0; r < ROWS; r++) {
        UNROLL for (u32 g = 0; g < GROUPS; g++) {
            const u32 column = team.column(g);
            if (r < left && column < e.width) {
                groups[r][g] = read_group<ADDS>(t, index_of(row_of(r), column, e.width));
            }
        }
    }
    UNROLL for (u32 r = 0; r < ROWS; r++) {
        UNROLL for (u32 g = 0; g < GROUPS; g++) { sums[r] = add_squares(sums[r], groups[r][g]); }
    }
    team_sums(sums, team, of_warps);
    UNROLL for (u32 r = 0; r < ROWS; r++) {
        UNROLL for (u32 g = 0; g < GROUPS; g++) { renew(groups[r][g]); }
        sums[r] = rstd_of(sums[r], e.inverse_width, e.eps);
        if (team.lane == 0 && r < left) {
            store(t.rstd, row_of(r), sums[r]);
        }
    }
    UNROLL for (u32 g = 0; g < GROUPS; g++) {
        const u32 column = team.column(g);
        if (column < e.width) {
            const Packed<W> weight = load_packed(t.weight, column);
            UNROLL for (u32 r = 0; r < ROWS; r++) {
                if (r < left) {
                    write_group(t, e, row_of(r), column, groups[r][g], weight, sums[r]);
                }
            }
        }
    }
}

// The element that is normalised; as read_group.
template <bool ADDS, class X, class W>
DEVICE f32 read_element(const Tensors<X, W>& t, u64 i) {
    const f32 x = to_f32(load(t.x, i));
    if constexpr (!ADDS) {
        return x;
    } else {
        const X rounded = round_to<X>(x + to_f32(load(t.residual, i)));
        store(t.sum, i, rounded);
        return to_f32(rounded);
    }
}

// A row of a team, of any width and address, by single elements. It is read twice; sums have the order of `normalize`.
template <bool ADDS, class X, class W>
DEVICE void normalize_any(const Tensors<X, W>& t, Extents e, Team team, u32 row, Shared<f32> of_warps) {
    const u32 width = row < e.rows ? e.width : 0;
    f32 sums[1] = {};
    for_each_column(team, width, [&](u32 column) {
        const f32 value = read_element<ADDS>(t, index_of(row, column, width));
        sums[0] = fma(value, value, sums[0]);
    });
    team_sums(sums, team, of_warps);
    const f32 rstd = rstd_of(sums[0], e.inverse_width, e.eps);
    if (team.lane == 0 && row < e.rows) {
        store(t.rstd, row, rstd);
    }
    for_each_column(team, width, [&](u32 column) {
        const u64 i = index_of(row, column, width);
        const f32 value = to_f32(ADDS ? load(t.sum, i) : load(t.x, i));
        store(t.out, i, round_to<X>(value * rstd * to_f32(load(t.weight, column))));
    });
}

template <bool ADDS, class X, class W>
DEVICE bool moves_packs(const Tensors<X, W>& t, u32 width) {
    const bool plain = width % GROUP == 0 && is_aligned(t.x) && is_aligned(t.weight) && is_aligned(t.out);
    return plain && (!ADDS || (is_aligned(t.residual) && is_aligned(t.sum)));
}

// What the rows of a block are given to: `normalize` if packs may be moved and rows fit into its groups.
template <bool ADDS, u32 ROWS, u32 GROUPS, class X, class W>
DEVICE void forward(const Tensors<X, W>& t, Extents e, u32 team_threads) {
    SharedMemory memory;
    const Shared<f32> of_warps = take_for_warps<ROWS>(memory);
    const Team team = team_of(team_threads);
    if (moves_packs<ADDS>(t, e.width) && e.width <= GROUPS * GROUP * team.threads) {
        normalize<ADDS, ROWS, GROUPS>(t, e, team, of_warps);
        return;
    }
    const u32 first_row = block_x() * ROWS * team.teams + team.index;
    for (u32 r = 0; r < ROWS; r++) {
        normalize_any<ADDS>(t, e, team, first_row + r * team.teams, of_warps);
    }
}

#define ENTRIES(suffix, ROWS, GROUPS, max_threads, X, W)                                                     \
    KERNEL(rms_norm_forward##suffix##_##X##_##W, max_threads, Global<const X> x, Global<const W> weight,       \
           Global<X> out, Global<f32> rstd, u32 rows, u32 width, f32 eps, u32 team) {                          \
        const Tensors<X, W> tensors{x, x, weight, out, out, rstd};                                             \
        forward<false, ROWS, GROUPS>(tensors, extents(rows, width, eps), team);                                \
    }                                                                                                          \
    KERNEL(add_rms_norm_forward##suffix##_##X##_##W, max_threads, Global<const X> x,                           \
           Global<const X> residual, Global<const W> weight, Global<X> sum, Global<X> out, Global<f32> rstd,   \
           u32 rows, u32 width, f32 eps, u32 team) {                                                           \
        const Tensors<X, W> tensors{x, residual, weight, sum, out, rstd};                                      \
        forward<true, ROWS, GROUPS>(tensors, extents(rows, width, eps), team);                                 \
    }
// Blocks of narrow rows have 256 threads. With that bound the compiler spills a register to make room for one more.
#define NARROW_AND_WIDE(X, W)                                                                                \
    ENTRIES(, NARROW_ROWS, 1, 384, X, W)                                                                       \
    ENTRIES(_wide, 1, WIDE_GROUPS, 512, X, W)
NARROW_AND_WIDE(f32, f32)
NARROW_AND_WIDE(f32, bf16)
NARROW_AND_WIDE(bf16, f32)
NARROW_AND_WIDE(bf16, bf16)
