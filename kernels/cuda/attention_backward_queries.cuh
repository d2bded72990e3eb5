// Backward pass for queries: dq, and delta for the pass over keys.
#pragma once

#include "attention_backward.cuh"

// The gradient of a warp's 16 queries, one block of keys after the other.
//
// dq = scale · sum_j P[j] (dP[j] - delta) k[j] needs delta = sum_j P[j] dP[j] / sum_j P[j], which is known after the last
// key only. As the softmax has a running maximum, so this has a running delta, that of the keys so far: when it moves,
// what has been summed moves by as much times the sum of P[j] k[j]. That saves a pass over the keys, two products for
// one; and what is rounded is never larger than with the final delta by more than delta's own way.
template <u32 D>
struct QueryGradient {
    using Geometry = BackwardGeometry<D>;
    static constexpr u32 KEYS = Geometry::OTHERS;

    typename Geometry::Sums gradient, keys;  // sums of P (dP - delta) k, and of P k
    // Of rows g and g + 8: logsumexp for powers of two, the sum of P, and delta so far.
    f32 log2_sum[2], weight[2], weighted[2], delta[2];

    METHOD QueryGradient(const Problem& problem, Global<const f32> logsumexp, u32 head, u32 token) {
        clear(gradient);
        clear(keys);
        UNROLL for (u32 half = 0; half < 2; half++) {
            const u32 valid = least(token + half * 8 + lane_index() / 4, problem.tokens_q - 1);
            log2_sum[half] = log2_sum_of(load(logsumexp, u64(head) * problem.tokens_q + valid));
            weight[half] = 0.0f, weighted[half] = 0.0f, delta[half] = 0.0f;
        }
    }

    // Turns logits into probabilities.
    METHOD void exponentiate(Block<KEYS>& logits, f32 log2_scale) const {
        UNROLL for (u32 n = 0; n < KEYS / HALF; n++) {
            UNROLL for (u32 i = 0; i < 4; i++) {
                logits[0][n][i] = exp2_approximate(fma(logits[0][n][i], log2_scale, -log2_sum[i / 2]));
            }
        }
    }

    // Moves delta to that of all keys up to these, and gradients of probabilities become those of logits.
    METHOD void advance(const Block<KEYS>& probabilities, Block<KEYS>& gradients) {
        UNROLL for (u32 half = 0; half < 2; half++) {
            f32 sum = 0.0f, product = 0.0f;
            UNROLL for (u32 n = 0; n < KEYS / HALF; n++) {
                UNROLL for (u32 i = 2 * half; i < 2 * half + 2; i++) {
                    sum += probabilities[0][n][i];
                    product = fma(probabilities[0][n][i], gradients[0][n][i], product);
                }
            }
            weight[half] += sum_of_row(sum);
            weighted[half] += sum_of_row(product);
            const f32 now = weight[half] == 0.0f ? 0.0f : divide(weighted[half], weight[half]);
            const f32 step = now - delta[half];
            delta[half] = now;
            UNROLL for (u32 w = 0; w < Geometry::WIDTH / HALF; w++) {
                UNROLL for (u32 i = 2 * half; i < 2 * half + 2; i++) {
                    gradient[0][w][i] = fma(-step, keys[0][w][i], gradient[0][w][i]);
                }
            }
            UNROLL for (u32 n = 0; n < KEYS / HALF; n++) {
                UNROLL for (u32 i = 2 * half; i < 2 * half + 2; i++) {
                    gradients[0][n][i] = probabilities[0][n][i] * (gradients[0][n][i] - delta[half]);
                }
            }
        }
    }
};

// Adds what the keys from `start` on, whose tiles are k and v, are to the warp's queries, whose tiles are q and dout.
template <u32 D>
DEVICE void visit_keys(const Problem& problem, QueryGradient<D>& sums, const Spans& spans, u32 first, u32 start,
                       Shared<bf16> q, Shared<bf16> k, Shared<bf16> dout, Shared<bf16> v) {
    constexpr u32 KEYS = QueryGradient<D>::KEYS;
    const u32 row = own_row<D>();
    const View view(spans, row, FRAGMENT, problem.tokens_q - first, start, KEYS);
    if (!view.is_seen) {
        return;
    }
    Block<KEYS> probabilities, gradients;
    Tile<D>::multiply_transposed(probabilities, q, row, k);
    Tile<D>::multiply_transposed(gradients, dout, row, v);
    if (!view.is_open) {
        hide(probabilities, spans, row, start);
    }
    sums.exponentiate(probabilities, problem.log2_scale);
    sums.advance(probabilities, gradients);
    LeftBlock<KEYS> left_probabilities, left_gradients;
    as_left(left_probabilities[0], probabilities[0]);
    as_left(left_gradients[0], gradients[0]);
    Tile<D>::multiply_both(sums.gradient, left_gradients, sums.keys, left_probabilities, k, own_column<D>());
}

// Writes a warp's rows of dq and delta; by way of its rows of `tile`.
template <u32 D>
DEVICE void finish_queries(const Problem& problem, const QueryGradient<D>& sums, Global<bf16> dq, Global<f32> delta,
                           u32 head, u32 first, Shared<bf16> tile) {
    const u32 row = own_row<D>(), column = own_column<D>(), head_dim = problem.head_dim;
    if (lane_index() % 4 == 0 && column == 0) {
        UNROLL for (u32 half = 0; half < 2; half++) {
            const u32 token = first + row + half * 8 + lane_index() / 4;
            if (token < problem.tokens_q) {
                store(delta, u64(head) * problem.tokens_q + token, sums.delta[half]);
            }
        }
    }
    Tile<D>::store(from(dq, i64(head) * head_dim), first + row, problem.tokens_q, problem.q_row(), head_dim,
                   sums.gradient[0], problem.scale, problem.scale, tile, row, column);
}

template <u32 D>
DEVICE void attention_backward_queries(const Problem& problem, Global<const bf16> q, Global<const bf16> k,
                                       Global<const bf16> v, Global<const f32> logsumexp, Global<const bf16> dout,
                                       Global<bf16> dq, Global<f32> delta) {
    using Geometry = BackwardGeometry<D>;
    SharedMemory memory;
    const BackwardTiles<D> q_by_k(memory), dout_by_v(memory);
    const Spans spans(memory, Geometry::ROWS);

    // Late queries see the most keys: they come first.
    const u32 first = (grid_x() - 1 - block_x()) * Geometry::ROWS, head = block_y();
    const u32 head_dim = problem.head_dim, kv_start = head / problem.group() * head_dim;
    const auto load_keys = [&](u32 stage, u32 start) {
        q_by_k.load_others(stage, k, start, problem.tokens_k, problem.k_row(), kv_start, head_dim);
        dout_by_v.load_others(stage, v, start, problem.tokens_k, problem.k_row(), kv_start, head_dim);
        copy_async_commit();
    };
    q_by_k.load_own(q, first, problem.tokens_q, problem.q_row(), head * head_dim, head_dim);
    dout_by_v.load_own(dout, first, problem.tokens_q, problem.q_row(), head * head_dim, head_dim);
    copy_async_commit();
    spans.fill(first, problem.tokens_q, [&](u32 query) { return visible_keys(problem, query); });
    block_sync();
    const Span keys = spans.all();
    QueryGradient<D> sums(problem, logsumexp, head, first + own_row<D>());
    if (keys.begin < keys.end) {
        load_keys(0, keys.begin);
    }
    u32 stage = 0;
    for (u32 start = keys.begin; start < keys.end; start += Geometry::OTHERS) {
        copy_async_wait<0>();
        block_sync();  // this stage is there, and nobody reads the other one any more
        if (start + Geometry::OTHERS < keys.end) {
            load_keys(1 - stage, start + Geometry::OTHERS);
        }
        visit_keys(problem, sums, spans, first, start, q_by_k.own, q_by_k.at(stage), dout_by_v.own, dout_by_v.at(stage));
        stage = 1 - stage;
    }
    copy_async_wait<0>();
    block_sync();  // nobody reads or fills the tiles any more: the result leaves through one
    finish_queries(problem, sums, dq, delta, head, first, q_by_k.own);
}
