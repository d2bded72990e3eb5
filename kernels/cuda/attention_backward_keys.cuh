// Backward pass for keys: dk and dv, over all query heads that share the key head, one head after the other.
#pragma once

#include "attention_backward.cuh"

// logsumexp, in powers of two, and delta of the queries of one stage. Two queries are neighbours, with both of their
// numbers, so that a thread gets what its two columns of a block need by one access.
template <u32 D>
struct QueryNumbers {
    static constexpr u32 QUERIES = BackwardGeometry<D>::OTHERS;
    Shared<f32> pairs;

    METHOD QueryNumbers(SharedMemory& memory) : pairs(memory.take<f32>(BackwardGeometry<D>::STAGES * 2 * QUERIES)) {}

    // The number that this thread brings: thread 4 i + 2 j + l the one of kind j of query start + 2 i + l. Most bring none.
    static METHOD f32 read(const Problem& problem, Global<const f32> logsumexp, Global<const f32> delta, u32 head,
                           u32 start) {
        const u32 query = start + thread_index() / 4 * 2 + thread_index() % 2;
        if (thread_index() >= 2 * QUERIES || query >= problem.tokens_q) {
            return 0.0f;
        }
        const u64 at = u64(head) * problem.tokens_q + query;
        return thread_index() % 4 < 2 ? log2_sum_of(load(logsumexp, at)) : load(delta, at);
    }
    METHOD void write(u32 stage, f32 number) const {
        if (thread_index() < 2 * QUERIES) {
            store(pairs, stage * 2 * QUERIES + thread_index(), number);
        }
    }
    // Of this thread's two columns in fragment n: log2_sum, log2_sum, delta, delta.
    METHOD Pack<f32> of(u32 stage, u32 n) const {
        return load_pack(pairs, stage * 2 * QUERIES + (n * HALF / 2 + lane_index() % 4) * 4);
    }
};

// Logits become probabilities, and gradients of probabilities those of logits.
template <u32 D, u32 N>
DEVICE void differentiate(f32 (&logits)[1][N][4], f32 (&gradients)[1][N][4], const QueryNumbers<D>& numbers, u32 stage,
                          f32 log2_scale) {
    UNROLL for (u32 n = 0; n < N; n++) {
        const Pack<f32> of_columns = numbers.of(stage, n);
        UNROLL for (u32 i = 0; i < 4; i++) {
            logits[0][n][i] = exp2_approximate(fma(logits[0][n][i], log2_scale, -of_columns[i % 2]));
            gradients[0][n][i] = logits[0][n][i] * (gradients[0][n][i] - of_columns[2 + i % 2]);
        }
    }
}

template <u32 D>
DEVICE void attention_backward_keys(const Problem& problem, Global<const bf16> q, Global<const bf16> k,
                                    Global<const bf16> v, Global<const f32> logsumexp, Global<const bf16> dout,
                                    Global<const f32> delta, Global<bf16> dk, Global<bf16> dv) {
    using Geometry = BackwardGeometry<D>;
    constexpr u32 QUERIES = Geometry::OTHERS;
    SharedMemory memory;
    const BackwardTiles<D> k_by_q(memory), v_by_dout(memory);
    const Spans spans(memory, Geometry::ROWS);
    const QueryNumbers<D> numbers(memory);

    // Early keys are seen by the most queries: they come first.
    const u32 first = block_x() * Geometry::ROWS, kv_head = block_y();
    const u32 head_dim = problem.head_dim, kv_start = kv_head * head_dim;
    const auto load_queries = [&](u32 stage, u32 head, u32 start) {
        k_by_q.load_others(stage, q, start, problem.tokens_q, problem.q_row(), head * head_dim, head_dim);
        v_by_dout.load_others(stage, dout, start, problem.tokens_q, problem.q_row(), head * head_dim, head_dim);
        copy_async_commit();
    };
    k_by_q.load_own(k, first, problem.tokens_k, problem.k_row(), kv_start, head_dim);
    v_by_dout.load_own(v, first, problem.tokens_k, problem.k_row(), kv_start, head_dim);
    copy_async_commit();
    spans.fill(first, problem.tokens_k, [&](u32 key) { return visible_queries(problem, key); });
    block_sync();
    const Span queries = spans.all();
    const u32 row = own_row<D>(), column = own_column<D>();
    typename Geometry::Sums key_sums, value_sums;
    clear(key_sums);
    clear(value_sums);

    u32 stage = 0, head = kv_head * problem.group(), start = queries.begin;
    const u32 end_head = queries.begin < queries.end ? head + problem.group() : head;
    if (head < end_head) {
        load_queries(stage, head, start);
        numbers.write(stage, QueryNumbers<D>::read(problem, logsumexp, delta, head, start));
    }
    while (head < end_head) {
        const bool is_last = start + QUERIES >= queries.end;
        const u32 next_head = is_last ? head + 1 : head, next_start = is_last ? queries.begin : start + QUERIES;
        copy_async_wait<0>();
        block_sync();  // this stage is there, and nobody reads the other one any more
        f32 next = 0.0f;
        if (next_head < end_head) {
            load_queries(1 - stage, next_head, next_start);
            next = QueryNumbers<D>::read(problem, logsumexp, delta, next_head, next_start);
        }
        const View view(spans, row, FRAGMENT, problem.tokens_k - first, start, QUERIES);
        if (view.is_seen) {
            Block<QUERIES> probabilities, gradients;
            Tile<D>::multiply_transposed(probabilities, k_by_q.own, row, k_by_q.at(stage));
            Tile<D>::multiply_transposed(gradients, v_by_dout.own, row, v_by_dout.at(stage));
            if (!view.is_open) {
                hide(probabilities, spans, row, start);
            }
            differentiate(probabilities, gradients, numbers, stage, problem.log2_scale);
            LeftBlock<QUERIES> left_probabilities, left_gradients;
            as_left(left_probabilities[0], probabilities[0]);
            as_left(left_gradients[0], gradients[0]);
            Tile<D>::multiply(value_sums, left_probabilities, v_by_dout.at(stage), column);
            Tile<D>::multiply(key_sums, left_gradients, k_by_q.at(stage), column);
        }
        numbers.write(1 - stage, next);
        stage = 1 - stage, head = next_head, start = next_start;
    }
    copy_async_wait<0>();
    block_sync();  // nobody reads or fills the tiles any more: the results leave through them
    const auto finish = [&](Global<bf16> x, const typename Geometry::Sums& sums, f32 scale, Shared<bf16> tile) {
        Tile<D>::store(from(x, kv_start), first + row, problem.tokens_k, problem.k_row(), head_dim, sums[0], scale, scale,
                       tile, row, column);
    };
    finish(dk, key_sums, problem.scale, k_by_q.own);
    finish(dv, value_sums, 1.0f, v_by_dout.own);
}
