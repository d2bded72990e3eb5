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
        return thread_index() % 4 < 2 ? load(logsumexp, at) * LOG2_OF_E : load(delta, at);
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

// Logits become probabilities, 0 where `sees(row, column)` does not hold; gradients of probabilities those of logits.
template <u32 D, class Sees>
DEVICE void differentiate(typename BackwardGeometry<D>::Block& logits, typename BackwardGeometry<D>::Block& gradients,
                          const QueryNumbers<D>& numbers, u32 stage, f32 factor, Sees sees) {
    UNROLL for (u32 n = 0; n < BackwardGeometry<D>::OTHERS / HALF; n++) {
        const Pack<f32> of_columns = numbers.of(stage, n);
        UNROLL for (u32 i = 0; i < 4; i++) {
            const u32 row = lane_index() / 4 + i / 2 * 8, column = n * HALF + lane_index() % 4 * 2 + i % 2;
            const f32 probability = exp2_approximate(fma(logits[0][n][i], factor, -of_columns[i % 2]));
            logits[0][n][i] = sees(row, column) ? probability : 0.0f;
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
        k_by_q.load_others(stage, from(q, head * head_dim), start, problem.tokens_q, problem.q_row(), head_dim);
        v_by_dout.load_others(stage, from(dout, head * head_dim), start, problem.tokens_q, problem.q_row(), head_dim);
        copy_async_commit();
    };
    k_by_q.load_own(from(k, kv_start), first, problem.tokens_k, problem.k_row(), head_dim);
    v_by_dout.load_own(from(v, kv_start), first, problem.tokens_k, problem.k_row(), head_dim);
    copy_async_commit();
    spans.fill(first, problem.tokens_k, [&](u32 key) { return visible_queries(problem, key); });
    block_sync();
    const Span queries = spans.all();
    const u32 row = own_row<D>(), column = own_column<D>();
    const View view(spans, row, FRAGMENT, problem.tokens_k - first);
    const f32 factor = problem.scale * LOG2_OF_E;
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
        if (view.meets(start, QUERIES)) {
            typename Geometry::Block probabilities, gradients;
            k_by_q.multiply(probabilities, row, stage);
            v_by_dout.multiply(gradients, row, stage);
            if (view.covers(start, QUERIES)) {
                differentiate<D>(probabilities, gradients, numbers, stage, factor, [](u32, u32) { return true; });
            } else {
                const Span upper = spans.of(row + lane_index() / 4), lower = spans.of(row + 8 + lane_index() / 4);
                differentiate<D>(probabilities, gradients, numbers, stage, factor, [&](u32 in_fragment, u32 query) {
                    return (in_fragment < 8 ? upper : lower).has(start + query);
                });
            }
            Tile<D>::multiply(value_sums, probabilities, v_by_dout.at(stage), column);
            Tile<D>::multiply(key_sums, gradients, k_by_q.at(stage), column);
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
