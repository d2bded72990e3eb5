// Attention without tensor cores: a warp per row, its elements spread over the lanes. For f32, and for bf16 whose rows
// cannot be moved 16 bytes at a time. Right for every shape, and slow.
#pragma once

#include "attention_visible.cuh"
#include "math.cuh"

constexpr u32 PLAIN_THREADS = 128;
constexpr u32 MAX_HEAD_DIM = 256;

// A row's elements lane, lane + WARP, …; zero beyond the head.
struct Row {
    static constexpr u32 LEN = MAX_HEAD_DIM / WARP;
    f32 x[LEN];

    METHOD Row() {
        UNROLL for (u32 i = 0; i < LEN; i++) { x[i] = 0.0f; }
    }
    template <class T>
    METHOD Row(Global<const T> tensor, u64 start, u32 head_dim) {
        UNROLL for (u32 i = 0; i < LEN; i++) {
            const u32 at = i * WARP + lane_index();
            x[i] = at < head_dim ? to_f32(load(tensor, start + at)) : 0.0f;
        }
    }
    template <class T>
    METHOD void write(Global<T> tensor, u64 start, u32 head_dim, f32 factor) const {
        UNROLL for (u32 i = 0; i < LEN; i++) {
            const u32 at = i * WARP + lane_index();
            if (at < head_dim) {
                store(tensor, start + at, round_to<T>(x[i] * factor));
            }
        }
    }
    METHOD void add(f32 factor, const Row& row) {
        UNROLL for (u32 i = 0; i < LEN; i++) { x[i] = fma(factor, row.x[i], x[i]); }
    }
    METHOD void scale(f32 factor) {
        UNROLL for (u32 i = 0; i < LEN; i++) { x[i] *= factor; }
    }
};

// In every lane.
DEVICE f32 dot(const Row& a, const Row& b) {
    f32 sum = 0.0f;
    UNROLL for (u32 i = 0; i < Row::LEN; i++) { sum = fma(a.x[i], b.x[i], sum); }
    UNROLL for (u32 mask = WARP / 2; mask > 0; mask /= 2) { sum += shuffle_xor(sum, mask); }
    return sum;
}

// Rows of one head of a tensor, [tokens, row_len].
template <class T>
struct Rows {
    Global<const T> tensor;
    u32 row_len, head_dim, column;
    METHOD Row of(u32 token) const { return Row(tensor, u64(token) * row_len + column, head_dim); }
};
template <class T>
DEVICE Rows<T> q_rows(const Problem& problem, Global<const T> x, u32 head) {
    return Rows<T>{x, problem.q_row(), problem.head_dim, head * problem.head_dim};
}
template <class T>
DEVICE Rows<T> k_rows(const Problem& problem, Global<const T> x, u32 kv_head) {
    return Rows<T>{x, problem.k_row(), problem.head_dim, kv_head * problem.head_dim};
}

// The row of this warp.
DEVICE u32 own_token() { return block_x() * num_warps() + warp_index(); }

template <class T>
DEVICE void attention_forward_plain(const Problem& problem, Global<const T> q, Global<const T> k, Global<const T> v,
                                    Global<T> out, Global<f32> logsumexp) {
    const u32 query = own_token(), head = block_y(), kv_head = head / problem.group();
    if (query >= problem.tokens_q) {
        return;
    }
    const Row own = q_rows(problem, q, head).of(query);
    const Rows<T> keys = k_rows(problem, k, kv_head), values = k_rows(problem, v, kv_head);
    Row mean;
    f32 largest = -infinity(), sum = 0.0f;
    const Span visible = visible_keys(problem, query);
    for (u32 key = visible.begin; key < visible.end; key++) {
        const f32 logit = dot(own, keys.of(key)) * problem.scale;
        const f32 now = larger(largest, logit);
        const f32 rescale = exp(largest - now), term = exp(logit - now);
        largest = now;
        sum = fma(sum, rescale, term);
        mean.scale(rescale);
        mean.add(term, values.of(key));
    }
    mean.write(out, (u64(query) * problem.num_heads + head) * problem.head_dim, problem.head_dim,
               sum == 0.0f ? 0.0f : divide(1.0f, sum));
    if (lane_index() == 0) {
        store(logsumexp, u64(head) * problem.tokens_q + query, sum == 0.0f ? -infinity() : largest + ln(sum));
    }
}

template <class T>
DEVICE void attention_backward_queries_plain(const Problem& problem, Global<const T> q, Global<const T> k,
                                             Global<const T> v, Global<const f32> logsumexp, Global<const T> dout,
                                             Global<T> dq, Global<f32> delta) {
    const u32 query = own_token(), head = block_y(), kv_head = head / problem.group();
    if (query >= problem.tokens_q) {
        return;
    }
    const Row own = q_rows(problem, q, head).of(query), gradient = q_rows(problem, dout, head).of(query);
    const Rows<T> keys = k_rows(problem, k, kv_head), values = k_rows(problem, v, kv_head);
    const u64 number = u64(head) * problem.tokens_q + query;
    const f32 log = load(logsumexp, number);
    const Span visible = visible_keys(problem, query);
    f32 weight = 0.0f, weighted = 0.0f;
    for (u32 key = visible.begin; key < visible.end; key++) {
        const f32 probability = exp(dot(own, keys.of(key)) * problem.scale - log);
        weight += probability;
        weighted = fma(probability, dot(gradient, values.of(key)), weighted);
    }
    const f32 mean = weight == 0.0f ? 0.0f : divide(weighted, weight);
    Row sum;
    for (u32 key = visible.begin; key < visible.end; key++) {
        const Row row = keys.of(key);
        const f32 probability = exp(dot(own, row) * problem.scale - log);
        sum.add(probability * (dot(gradient, values.of(key)) - mean), row);
    }
    sum.write(dq, (u64(query) * problem.num_heads + head) * problem.head_dim, problem.head_dim, problem.scale);
    if (lane_index() == 0) {
        store(delta, number, mean);
    }
}

template <class T>
DEVICE void attention_backward_keys_plain(const Problem& problem, Global<const T> q, Global<const T> k,
                                          Global<const T> v, Global<const f32> logsumexp, Global<const T> dout,
                                          Global<const f32> delta, Global<T> dk, Global<T> dv) {
    const u32 key = own_token(), kv_head = block_y();
    if (key >= problem.tokens_k) {
        return;
    }
    const Row own = k_rows(problem, k, kv_head).of(key), value = k_rows(problem, v, kv_head).of(key);
    const Span visible = visible_queries(problem, key);
    Row key_sum, value_sum;
    for (u32 head = kv_head * problem.group(); head < (kv_head + 1) * problem.group(); head++) {
        const Rows<T> queries = q_rows(problem, q, head), gradients = q_rows(problem, dout, head);
        for (u32 query = visible.begin; query < visible.end; query++) {
            const u64 number = u64(head) * problem.tokens_q + query;
            const Row row = queries.of(query);
            const f32 probability = exp(dot(own, row) * problem.scale - load(logsumexp, number));
            const Row gradient = gradients.of(query);
            value_sum.add(probability, gradient);
            key_sum.add(probability * (dot(gradient, value) - load(delta, number)), row);
        }
    }
    const u64 at = (u64(key) * problem.num_kv_heads + kv_head) * problem.head_dim;
    key_sum.write(dk, at, problem.head_dim, problem.scale);
    value_sum.write(dv, at, problem.head_dim, 1.0f);
}
