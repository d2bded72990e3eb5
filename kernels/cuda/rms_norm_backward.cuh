// Gradients of RMS norms, the part that rows of all widths share. dout, x, dx [rows, width]; weight, dweight [width];
// rstd [rows] f32; partials [rows / 64, rounded up; width] f32. With g = dout · weight:
//
//   dx = rstd · g - x · pull, pull = rstd³ · sum(g · x) / width; replaced, or added to (`adds` is 1)
//   partials[p, w] = sum of dout · x · rstd over the 64 rows of part p; add_partials adds these to dweight
//
// Bytes: 3 elements for each of x, 4 if dx is added to, and partials, 1/16 element of f32. 10 FLOPs per element.
// Floor: bytes / bandwidth.
//
// Geometry: a block has one part of 64 rows. Its teams (rms_norm.cuh) take ROWS rows each at once; a thread has the same
// columns of all its rows, so sums over rows stay in registers until the part is done. There are few blocks (a part for
// every 64 tokens), so each hides its latency alone: rows are read while those before them are worked on, except where
// registers do not suffice. Rows of odd widths or addresses are read twice, the second time from the caches.
#pragma once

#include "rms_norm.cuh"

constexpr u32 ROWS_PER_PARTIAL = 64;

template <class X, class W>
struct Tensors {
    Global<const X> dout, x;
    Global<const W> weight;
    Global<const f32> rstd;
    Global<X> dx;
    Global<f32> partials;
};

struct Extents {
    u32 rows, width;
    f32 inverse_width;
    bool adds;
};

DEVICE Extents extents(u32 rows, u32 width, u32 adds) {
    return Extents{rows, width, reciprocal(f32(width)), adds != 0};
}

// Groups of the rows that a team takes at once, as they are stored; zeros outside of the part.
template <class X, u32 ROWS, u32 GROUPS>
struct Rows {
    Packed<X> dout[ROWS][GROUPS], x[ROWS][GROUPS];
    f32 rstd[ROWS];
};

// Where a thread is in its part: row r of a team is `first + r · teams`, below `end`.
struct Place {
    u32 first, end;
};

template <u32 ROWS, u32 GROUPS, class X, class W>
DEVICE Rows<X, ROWS, GROUPS> read_rows(const Tensors<X, W>& t, Extents e, Team team, Place place) {
    Rows<X, ROWS, GROUPS> rows{};
    UNROLL for (u32 r = 0; r < ROWS; r++) {
        const u32 row = place.first + r * team.teams;
        if (row < place.end) {
            rows.rstd[r] = load(t.rstd, row);
            UNROLL for (u32 g = 0; g < GROUPS; g++) {
                const u32 column = team.column(g);
                if (column < e.width) {
                    rows.dout[r][g] = load_packed(t.dout, index_of(row, column, e.width));
                    rows.x[r][g] = load_packed(t.x, index_of(row, column, e.width));
                }
            }
        }
    }
    return rows;
}

template <class X, class W>
DEVICE f32 add_products(f32 sum, const Packed<X>& dout, const Packed<W>& weight, const Packed<X>& x) {
    UNROLL for (u32 j = 0; j < GROUP; j++) { sum = fma(dout[j] * weight[j], x[j], sum); }
    return sum;
}

// One element of dx.
DEVICE f32 gradient(f32 dout, f32 x, f32 weight, f32 before, f32 rstd, f32 pull) {
    return before + (rstd * (dout * weight) - x * pull);
}

// The groups of dx, written, and their terms of dweight, added to `sums`.
template <class X, class W>
DEVICE void finish_group(const Tensors<X, W>& t, Extents e, u32 row, u32 column, const Packed<X>& dout, const Packed<X>& x,
                         const Packed<W>& weight, const Packed<X>& before, f32 rstd, f32 pull, f32 (&sums)[GROUP]) {
    f32 dx[GROUP];
    UNROLL for (u32 j = 0; j < GROUP; j++) {
        dx[j] = gradient(dout[j], x[j], weight[j], before[j], rstd, pull);
        sums[j] = fma(dout[j] * x[j], rstd, sums[j]);
    }
    store_packed(t.dx, index_of(row, column, e.width), round_group<X>(dx));
}

DEVICE f32 pull_of(f32 rstd, f32 dot, Extents e) { return rstd * rstd * rstd * dot * e.inverse_width; }

template <u32 ROWS, u32 GROUPS, class X, class W>
DEVICE void work_on_rows(const Tensors<X, W>& t, Extents e, Team team, Place place, Rows<X, ROWS, GROUPS>& rows,
                         Shared<f32> of_warps, f32 (&sums)[GROUPS][GROUP]) {
    Packed<W> weight[GROUPS] = {};
    Packed<X> before[ROWS][GROUPS] = {};
    f32 dots[ROWS] = {};
    UNROLL for (u32 g = 0; g < GROUPS; g++) {
        const u32 column = team.column(g);
        if (column < e.width) {
            weight[g] = load_packed(t.weight, column);
        }
        UNROLL for (u32 r = 0; r < ROWS; r++) {
            const u32 row = place.first + r * team.teams;
            if (e.adds && column < e.width && row < place.end) {
                before[r][g] = load_packed(t.dx, index_of(row, column, e.width));
            }
            dots[r] = add_products(dots[r], rows.dout[r][g], weight[g], rows.x[r][g]);
        }
    }
    team_sums(dots, team, of_warps);
    UNROLL for (u32 g = 0; g < GROUPS; g++) {
        renew(weight[g]);
        UNROLL for (u32 r = 0; r < ROWS; r++) {
            renew(rows.dout[r][g]);
            renew(rows.x[r][g]);
        }
    }
    UNROLL for (u32 r = 0; r < ROWS; r++) {
        const u32 row = place.first + r * team.teams;
        const f32 pull = pull_of(rows.rstd[r], dots[r], e);
        UNROLL for (u32 g = 0; g < GROUPS; g++) {
            const u32 column = team.column(g);
            if (column < e.width && row < place.end) {
                finish_group(t, e, row, column, rows.dout[r][g], rows.x[r][g], weight[g], before[r][g], rows.rstd[r],
                             pull, sums[g]);
            }
        }
    }
}

// The place of this thread.
DEVICE Shared<f32> own_place(Shared<f32> of_threads) { return from(of_threads, i32(thread_index() * GROUP)); }

DEVICE void keep(Shared<f32> of_threads, const f32 (&sums)[GROUP]) {
    UNROLL for (u32 j = 0; j < GROUP; j++) { store(own_place(of_threads), j, sums[j]); }
}

// Sums of several teams, which each thread has left in its place of `of_threads`, in the order of the teams.
DEVICE void add_teams(Team team, Shared<f32> of_threads, Global<f32> partial, u32 width) {
    const u32 columns = team.threads * GROUP;
    block_sync();
    for (u32 column = thread_index(); column < width; column += num_threads()) {
        f32 sum = 0.0f;
        for (u32 other = 0; other < team.teams; other++) {
            sum = sum + load(of_threads, other * columns + column);
        }
        store(partial, column, sum);
    }
}

template <u32 ROWS, u32 GROUPS, bool READS_AHEAD, class X, class W>
DEVICE void backward_of_part(const Tensors<X, W>& t, Extents e, Team team, Shared<f32> of_warps,
                             Shared<f32> of_threads) {
    const u32 begin = block_x() * ROWS_PER_PARTIAL, end = least(begin + ROWS_PER_PARTIAL, e.rows);
    const u32 rows_at_once = ROWS * team.teams;
    f32 sums[GROUPS][GROUP] = {};
    Place place{begin + team.index, end};
    Rows<X, ROWS, GROUPS> next;
    if (READS_AHEAD) {
        next = read_rows<ROWS, GROUPS>(t, e, team, place);
    }
    for (u32 row = begin; row < end; row += rows_at_once) {
        Rows<X, ROWS, GROUPS> rows = READS_AHEAD ? next : read_rows<ROWS, GROUPS>(t, e, team, place);
        const Place after{place.first + rows_at_once, end};
        if (READS_AHEAD) {
            next = read_rows<ROWS, GROUPS>(t, e, team, after);
        }
        work_on_rows<ROWS, GROUPS>(t, e, team, place, rows, of_warps, sums);
        place = after;
    }
    const Global<f32> partial = from(t.partials, i64(u64(block_x()) * e.width));
    if (team.teams > 1) {
        keep(of_threads, sums[0]);
        add_teams(team, of_threads, partial, e.width);
        return;
    }
    UNROLL for (u32 g = 0; g < GROUPS; g++) {
        if (team.column(g) < e.width) {
            store_packed(partial, team.column(g), round_group<f32>(sums[g]));
        }
    }
}

// Rows of any width and address, by single elements: each is read twice. Sums have the order of backward_of_part. Those
// over rows are kept in `of_threads` if a thread has only one group, else in the partial.
template <class X, class W>
DEVICE void backward_of_any_part(const Tensors<X, W>& t, Extents e, Team team, Shared<f32> of_warps,
                                 Shared<f32> of_threads) {
    const u32 begin = block_x() * ROWS_PER_PARTIAL, end = least(begin + ROWS_PER_PARTIAL, e.rows);
    const Global<f32> partial = from(t.partials, i64(u64(block_x()) * e.width));
    const bool one_group = team.teams > 1;
    const f32 zeros[GROUP] = {};
    if (one_group) {
        keep(of_threads, zeros);
    }
    for (u32 first = begin; first < end; first += team.teams) {
        const u32 row = first + team.index, width = row < end ? e.width : 0;
        f32 dots[1] = {};
        for_each_column(team, width, [&](u32 column) {
            const u64 i = index_of(row, column, width);
            const f32 product = to_f32(load(t.dout, i)) * to_f32(load(t.weight, column));
            dots[0] = fma(product, to_f32(load(t.x, i)), dots[0]);
        });
        team_sums(dots, team, of_warps);
        for_each_column(team, width, [&](u32 column) {
            const u64 i = index_of(row, column, width);
            const f32 dout = to_f32(load(t.dout, i)), x = to_f32(load(t.x, i)), rstd = load(t.rstd, row);
            const f32 before = e.adds ? to_f32(load(t.dx, i)) : 0.0f;
            const f32 pull = pull_of(rstd, dots[0], e);
            store(t.dx, i, round_to<X>(gradient(dout, x, to_f32(load(t.weight, column)), before, rstd, pull)));
            if (one_group) {
                const u32 j = column % GROUP;
                store(own_place(of_threads), j, fma(dout * x, rstd, load(own_place(of_threads), j)));
            } else {
                store(partial, column, fma(dout * x, rstd, row > begin ? load(partial, column) : 0.0f));
            }
        });
    }
    if (one_group) {
        add_teams(team, of_threads, partial, e.width);
    }
}

template <class X, class W>
DEVICE bool moves_packs(const Tensors<X, W>& t, u32 width) {
    return width % GROUP == 0 && is_aligned(t.dout) && is_aligned(t.x) && is_aligned(t.weight) && is_aligned(t.dx) &&
           is_aligned(t.partials);
}
