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
    typename Geometry::Sums gradient, keys;  // sums of P (dP - delta) k, and of P k
    // Of rows g and g + 8: logsumexp in powers of two; the sums of P and of P dP, and their quotient.
    f32 log2_sum[2], weight[2], weighted[2], delta[2];

    METHOD QueryGradient(const Problem& problem, Global<const f32> logsumexp, u32 head, u32 token) {
        clear(gradient);
        clear(keys);
        UNROLL for (u32 half = 0; half < 2; half++) {
            const u32 valid = least(token + half * 8 + lane_index() / 4, problem.tokens_q - 1);
            log2_sum[half] = load(logsumexp, u64(head) * problem.tokens_q + valid) * LOG2_OF_E;
            weight[half] = 0.0f, weighted[half] = 0.0f, delta[half] = 0.0f;
        }
    }

    // Turns logits into probabilities, 0 where `sees(row, column)` does not hold.
    template <class Sees>
    METHOD void exponentiate(typename Geometry::Block& logits, f32 factor, Sees sees) const {
        for_each_element(logits[0], [&](f32& x, u32 row, u32 column) {
            const f32 probability = exp2_approximate(fma(x, factor, -log2_sum[row < 8 ? 0 : 1]));
            x = sees(row, column) ? probability : 0.0f;
        });
    }

    // Moves delta to that of all keys up to these, and gradients of probabilities become those of logits.
    METHOD void advance(const typename Geometry::Block& probabilities, typename Geometry::Block& gradients) {
        UNROLL for (u32 half = 0; half < 2; half++) {
            f32 sum = 0.0f, product = 0.0f;
            UNROLL for (u32 n = 0; n < Geometry::OTHERS / HALF; n++) {
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
            UNROLL for (u32 n = 0; n < Geometry::OTHERS / HALF; n++) {
                UNROLL for (u32 i = 2 * half; i < 2 * half + 2; i++) {
                    gradients[0][n][i] = probabilities[0][n][i] * (gradients[0][n][i] - now);
                }
            }
        }
    }
};

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
    constexpr u32 KEYS = Geometry::OTHERS;
    SharedMemory memory;
    const BackwardTiles<D> q_by_k(memory), dout_by_v(memory);
    const Spans spans(memory, Geometry::ROWS);

    // Late queries see the most keys: they come first.
    const u32 first = (grid_x() - 1 - block_x()) * Geometry::ROWS, head = block_y();
    const u32 head_dim = problem.head_dim, kv_start = head / problem.group() * head_dim;
    const auto load_keys = [&](u32 stage, u32 start) {
        q_by_k.load_others(stage, from(k, kv_start), start, problem.tokens_k, problem.k_row(), head_dim);
        dout_by_v.load_others(stage, from(v, kv_start), start, problem.tokens_k, problem.k_row(), head_dim);
        copy_async_commit();
    };
    q_by_k.load_own(from(q, head * head_dim), first, problem.tokens_q, problem.q_row(), head_dim);
    dout_by_v.load_own(from(dout, head * head_dim), first, problem.tokens_q, problem.q_row(), head_dim);
    copy_async_commit();
    spans.fill(first, problem.tokens_q, [&](u32 query) { return visible_keys(problem, query); });
    block_sync();
    const Span keys = spans.all();
    const u32 row = own_row<D>();
    const View view(spans, row, FRAGMENT, problem.tokens_q - first);
    const f32 factor = problem.scale * LOG2_OF_E;
    QueryGradient<D> sums(problem, logsumexp, head, first + row);
    if (keys.begin < keys.end) {
        load_keys(0, keys.begin);
    }
    u32 stage = 0;
    for (u32 start = keys.begin; start < keys.end; start += KEYS) {
        copy_async_wait<0>();
        block_sync();  // this stage is there, and nobody reads the other one any more
        if (start + KEYS < keys.end) {
            load_keys(1 - stage, start + KEYS);
        }
        if (view.meets(start, KEYS)) {
            typename Geometry::Block probabilities, gradients;
            q_by_k.multiply(probabilities, row, stage);
            dout_by_v.multiply(gradients, row, stage);
            if (view.covers(start, KEYS)) {
                sums.exponentiate(probabilities, factor, [](u32, u32) { return true; });
            } else {
                const Span upper = spans.of(row + lane_index() / 4), lower = spans.of(row + 8 + lane_index() / 4);
                sums.exponentiate(probabilities, factor, [&](u32 in_fragment, u32 column) {
                    return (in_fragment < 8 ? upper : lower).has(start + column);
                });
            }
            sums.advance(probabilities, gradients);
            Tile<D>::multiply_both(sums.gradient[0], gradients[0], sums.keys[0], probabilities[0], q_by_k.at(stage),
                                   own_column<D>());
        }
        stage = 1 - stage;
    }
    copy_async_wait<0>();
    block_sync();  // nobody reads or fills the tiles any more: the result leaves through one
    finish_queries(problem, sums, dq, delta, head, first, q_by_k.own);
}
