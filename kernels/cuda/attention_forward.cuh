// Forward pass on tensor cores: a block has some queries of one head, and walks over the keys that these see.
#pragma once

#include "attention_tile.cuh"
#include "attention_visible.cuh"
#include "math.cuh"

// The softmax of M · 16 rows of a warp, key by key (arXiv:1805.02867): for rows g and g + 8 of each fragment the
// largest logit so far, before scaling, and this thread's part of the sum of exp(scale · (logit - largest)).
template <u32 M, u32 W>
struct RunningSoftmax {
    f32 largest[M][2], sum[M][2];
    f32 out[M][W][4];

    METHOD RunningSoftmax() {
        UNROLL for (u32 m = 0; m < M; m++) {
            UNROLL for (u32 half = 0; half < 2; half++) { largest[m][half] = -infinity(), sum[m][half] = 0.0f; }
            UNROLL for (u32 w = 0; w < W; w++) {
                UNROLL for (u32 i = 0; i < 4; i++) { out[m][w][i] = 0.0f; }
            }
        }
    }

    // From logits to the terms exp(scale · (logit - largest)) as left operands, and what there was made relative to the
    // largest logit so far.
    template <u32 N>
    METHOD void advance(u32 (&terms)[M][N / 2][4], f32 (&logits)[M][N][4], f32 log2_scale) {
        UNROLL for (u32 m = 0; m < M; m++) {
            UNROLL for (u32 half = 0; half < 2; half++) {
                f32 now = largest[m][half];
                UNROLL for (u32 n = 0; n < N; n++) {
                    now = larger(now, larger(logits[m][n][2 * half], logits[m][n][2 * half + 1]));
                }
                now = largest_of_row(now);
                // A row that has seen no key yet: all its terms are 2^-infinity.
                const f32 base = now == -infinity() ? 0.0f : now * log2_scale;
                const f32 rescale = exp2_approximate(fma(largest[m][half], log2_scale, -base));
                largest[m][half] = now;
                sum[m][half] *= rescale;
                UNROLL for (u32 w = 0; w < W; w++) {
                    out[m][w][2 * half] *= rescale;
                    out[m][w][2 * half + 1] *= rescale;
                }
                UNROLL for (u32 n = 0; n < N; n++) {
                    const f32 left = exp2_approximate(fma(logits[m][n][2 * half], log2_scale, -base));
                    const f32 right = exp2_approximate(fma(logits[m][n][2 * half + 1], log2_scale, -base));
                    sum[m][half] += left + right;
                    terms[m][n / 2][n % 2 * 2 + half] = pack_bf16(left, right);
                }
            }
        }
    }
};

template <u32 D>
struct ForwardGeometry {
    static constexpr u32 THREADS = 128;
    static constexpr u32 M = D <= 128 ? 2 : 1;  // the sums of a wider head fill the registers of one fragment
    static constexpr u32 WARP_ROWS = M * FRAGMENT;
    static constexpr u32 ROWS = THREADS / WARP * WARP_ROWS;
    static constexpr u32 KEYS = 64;
};

// Writes a warp's rows: out and logsumexp.
template <u32 D, u32 M>
DEVICE void finish_forward(const Problem& problem, RunningSoftmax<M, D / HALF>& softmax, Global<bf16> out,
                           Global<f32> logsumexp, u32 head, u32 first, Shared<bf16> tile, u32 row) {
    UNROLL for (u32 m = 0; m < M; m++) {
        f32 inverse[2];
        UNROLL for (u32 half = 0; half < 2; half++) {
            const f32 sum = sum_of_row(softmax.sum[m][half]);
            inverse[half] = sum == 0.0f ? 0.0f : divide(1.0f, sum);
            const u32 token = first + row + m * FRAGMENT + half * 8 + lane_index() / 4;
            if (lane_index() % 4 == 0 && token < problem.tokens_q) {
                const f32 log = sum == 0.0f ? -infinity() : softmax.largest[m][half] * problem.scale + ln(sum);
                store(logsumexp, u64(head) * problem.tokens_q + token, log);
            }
        }
        const u32 at = row + m * FRAGMENT;
        Tile<D>::store(from(out, i64(head) * problem.head_dim), first + at, problem.tokens_q, problem.q_row(),
                       problem.head_dim, softmax.out[m], inverse[0], inverse[1], tile, at, 0);
    }
}

template <u32 D>
DEVICE void attention_forward(const Problem& problem, Global<const bf16> q, Global<const bf16> k, Global<const bf16> v,
                              Global<bf16> out, Global<f32> logsumexp) {
    using Geometry = ForwardGeometry<D>;
    constexpr u32 M = Geometry::M, KEYS = Geometry::KEYS, THREADS = Geometry::THREADS;
    SharedMemory memory;
    const Shared<bf16> q_tile = memory.take<bf16>(Geometry::ROWS * Tile<D>::STRIDE);
    const Shared<bf16> k_tile = memory.take<bf16>(KEYS * Tile<D>::STRIDE);
    const Shared<bf16> v_tile = memory.take<bf16>(KEYS * Tile<D>::STRIDE);
    const Spans spans(memory, Geometry::ROWS);

    // Late queries see the most keys: they come first, so that no long block is left to the end.
    const u32 first = (grid_x() - 1 - block_x()) * Geometry::ROWS, head = block_y();
    const u32 head_dim = problem.head_dim, kv_start = head / problem.group() * head_dim;
    const auto load_keys = [&](Shared<bf16> tile, Global<const bf16> x, u32 start) {
        Tile<D>::template load<KEYS, THREADS>(tile, x, start, problem.tokens_k, problem.k_row(), kv_start, head_dim);
    };
    Tile<D>::template load<Geometry::ROWS, THREADS>(q_tile, q, first, problem.tokens_q, problem.q_row(),
                                                    head * head_dim, head_dim);
    spans.fill(first, problem.tokens_q, [&](u32 query) { return visible_keys(problem, query); });
    block_sync();
    const Span keys = spans.all();
    const u32 row = warp_index() * Geometry::WARP_ROWS;
    if (keys.begin < keys.end) {
        load_keys(k_tile, k, keys.begin);
    }
    copy_async_commit();

    RunningSoftmax<M, D / HALF> softmax;
    for (u32 start = keys.begin; start < keys.end; start += KEYS) {
        const View view(spans, row, Geometry::WARP_ROWS, problem.tokens_q - first, start, KEYS);
        f32 logits[M][KEYS / HALF][4];
        copy_async_wait<0>();
        block_sync();  // the keys are there, and nobody reads the values before these any more
        load_keys(v_tile, v, start);
        copy_async_commit();
        if (view.is_seen) {
            Tile<D>::multiply_transposed(logits, q_tile, row, k_tile);
        }
        copy_async_wait<0>();
        block_sync();  // the values are there, and nobody reads the keys any more
        if (start + KEYS < keys.end) {
            load_keys(k_tile, k, start + KEYS);
        }
        copy_async_commit();
        // By a vote the compiler learns that the warp stays together; without it, ptxas runs out of registers for wide heads
        // on sm_80, and for others with it.
        if (D > 80 ? any_lane(view.is_seen) : view.is_seen) {
            if (!view.is_open) {
                hide(logits, spans, row, start);
            }
            u32 probabilities[M][KEYS / FRAGMENT][4];
            softmax.advance(probabilities, logits, problem.log2_scale);
            Tile<D>::multiply(softmax.out, probabilities, v_tile, 0);
        }
    }
    copy_async_wait<0>();
    block_sync();  // all copies into q_tile have ended, even if there was no key: out leaves through it
    finish_forward<D, M>(problem, softmax, out, logsumexp, head, first, q_tile, row);
}
