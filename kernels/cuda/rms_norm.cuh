// What the forward and the backward kernels of RMS norms share: rows are worked on by teams of threads.
//
// A team is a power of two of at most 32 lanes, or a multiple of 64 threads; a block consists of whole teams. Thread l of
// a team has groups l, l + team, l + 2 team, ... of its rows. So what a thread adds, and the order in which teams add,
// depend on the width of rows only.
#pragma once

#include "reduce.cuh"
#include "vector.cuh"

struct Team {
    u32 threads;
    u32 lane;   // the place of this thread in its team
    u32 index;  // of its team in the block
    u32 teams;  // in the block

    // The first element of the thread's group number `group`.
    METHOD u32 column(u32 group) const { return (lane + group * threads) * GROUP; }
};

DEVICE Team team_of(u32 threads) {
    return Team{threads, thread_index() % threads, thread_index() / threads, num_threads() / threads};
}

DEVICE u64 index_of(u32 row, u32 column, u32 width) { return u64(row) * width + column; }

// Calls visit(column) for the elements of a thread's groups, in their order.
template <class Visit>
DEVICE void for_each_column(Team team, u32 width, Visit visit) {
    for (u32 first = team.column(0); first < width; first += team.threads * GROUP) {
        for (u32 column = first; column < least(first + GROUP, width); column++) {
            visit(column);
        }
    }
}

// Sums over each team, for all its threads: the tree of each warp, then the team's warps in order. All threads of the
// block take part. `of_warps` comes from take_for_warps<N> and may be used again at once.
template <u32 N>
DEVICE void team_sums(f32 (&sums)[N], Team team, Shared<f32> of_warps SITE) {
    for (u32 distance = least(team.threads, WARP) / 2; distance > 0; distance /= 2) {
        UNROLL for (u32 n = 0; n < N; n++) { sums[n] = sums[n] + shuffle_xor(sums[n], distance PASS_SITE); }
    }
    if (team.threads <= WARP) {
        return;
    }
    if (lane_index() == 0) {
        UNROLL for (u32 n = 0; n < N; n++) { store(of_warps, warp_index() * N + n, sums[n] PASS_SITE); }
    }
    block_sync(PASS_SITE_ONLY);
    UNROLL for (u32 n = 0; n < N; n++) { sums[n] = 0.0f; }
    const u32 warps = team.threads / WARP, first = team.index * warps;
    for (u32 warp = first; warp < first + warps; warp++) {
        UNROLL for (u32 n = 0; n < N; n++) { sums[n] = sums[n] + load(of_warps, warp * N + n PASS_SITE); }
    }
    block_sync(PASS_SITE_ONLY);
}
