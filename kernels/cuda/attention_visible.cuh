// Which keys a query sees, and which queries see a key. Documents, causality and window make both of them ranges of rows.
// From one row of the buffer to the next, neither end of the range ever goes back: the first and the last row of a tile
// tell what any row of it can see, and what all of them see.
#pragma once

#include "attention_tile.cuh"

// What the host passes to every kernel of attention.
struct Problem {
    Global<const u32> cu_seqlens_q, cu_seqlens_k;
    u32 num_bounds, tokens_q, tokens_k, num_heads, num_kv_heads, head_dim;
    u32 window;  // all ones: none
    // Of the logits, and the same for powers of two: exp(scale · x) = 2^(log2_scale · x).
    f32 scale, log2_scale;

    METHOD u32 group() const { return num_heads / num_kv_heads; }
    METHOD u32 q_row() const { return num_heads * head_dim; }
    METHOD u32 k_row() const { return num_kv_heads * head_dim; }
};
#define PROBLEM_PARAMETERS                                                                                   \
    Global<const u32> cu_seqlens_q, Global<const u32> cu_seqlens_k, u32 num_bounds, u32 tokens_q,            \
        u32 tokens_k, u32 num_heads, u32 num_kv_heads, u32 head_dim, u32 window, f32 scale,    \
        f32 log2_scale
#define PROBLEM                                                                                              \
    Problem {                                                                                                \
        cu_seqlens_q, cu_seqlens_k, num_bounds, tokens_q, tokens_k, num_heads, num_kv_heads, head_dim, window, scale, \
            log2_scale                                                                                       \
    }

// Rows begin to end - 1.
struct Span {
    u32 begin, end;
    METHOD bool has(u32 row) const { return row - begin < end - begin; }
};

// Number of the document that holds a token: the last one whose bound is not beyond it. Bounds may be repeated.
DEVICE u32 document_of(Global<const u32> cu_seqlens, u32 num_bounds, u32 token) {
    u32 below = 0, above = num_bounds - 1;
    while (above - below > 1) {
        const u32 middle = (below + above) / 2;
        if (load(cu_seqlens, middle) <= token) {
            below = middle;
        } else {
            above = middle;
        }
    }
    return below;
}

struct Document {
    Span queries, keys;
    METHOD Document(const Problem& problem, u32 n)
        : queries{load(problem.cu_seqlens_q, n), load(problem.cu_seqlens_q, n + 1)},
          keys{load(problem.cu_seqlens_k, n), load(problem.cu_seqlens_k, n + 1)} {}
};

// Keys that a query sees. The last query of a document stands beside its last key.
DEVICE Span visible_keys(const Problem& problem, u32 query) {
    const Document document(problem, document_of(problem.cu_seqlens_q, problem.num_bounds, query));
    const u32 after = document.queries.end - query - 1;
    const u32 num_keys = document.keys.end - document.keys.begin;
    const u32 end = num_keys > after ? num_keys - after : 0;
    const u32 begin = end > problem.window ? end - problem.window : 0;
    return Span{document.keys.begin + begin, document.keys.begin + end};
}

// Queries that see a key: from the one that stands beside it, as many as the window has.
DEVICE Span visible_queries(const Problem& problem, u32 key) {
    const Document document(problem, document_of(problem.cu_seqlens_k, problem.num_bounds, key));
    const i64 first = i64(document.queries.end) - i64(document.keys.end - key);
    const i64 begin = first > i64(document.queries.begin) ? first : i64(document.queries.begin);
    const i64 end = least(first + i64(problem.window), i64(document.queries.end));
    return Span{u32(begin), u32(end > begin ? end : begin)};
}

// What the rows of a tile see, in shared memory: [rows] first ones, [rows] ends.
struct Spans {
    Shared<u32> begins, ends;
    u32 rows;

    METHOD Spans(SharedMemory& memory, u32 rows)
        : begins(memory.take<u32>(rows)), ends(memory.take<u32>(rows)), rows(rows) {}

    // Fills them in: row r is that of token first + r, or of the last token where there is none. `of` gives a token's span.
    template <class Of>
    METHOD void fill(u32 first, u32 tokens, Of of) const {
        for (u32 row = thread_index(); row < rows; row += num_threads()) {
            const Span span = of(least(first + row, tokens - 1));
            store(begins, row, span.begin);
            store(ends, row, span.end);
        }
    }
    METHOD Span of(u32 row) const { return Span{load(begins, row), load(ends, row)}; }
    // All that some row of the tile sees.
    METHOD Span all() const { return Span{load(begins, 0), load(ends, rows - 1)}; }
};

// How the rows of one warp see a tile of others, `len` rows from `start`. Asked for each tile from shared memory: it would
// hold registers meanwhile.
struct View {
    bool is_seen;  // by some row
    bool is_open;  // to every row, in full

    // Rows `row` to `row + rows - 1`; those from `valid_rows` on do not count.
    METHOD View(const Spans& spans, u32 row, u32 rows, u32 valid_rows, u32 start, u32 len) {
        const Span first = spans.of(row), last = spans.of(row + rows - 1);
        is_seen = row < valid_rows && start < last.end && start + len > first.begin;
        is_open = start >= last.begin && start + len <= first.end;
    }
};

// Makes the logits -infinity where a row does not see the other one; the first of the rows is `row`, of the others `start`.
template <u32 M, u32 N>
DEVICE void hide(f32 (&logits)[M][N][4], const Spans& spans, u32 row, u32 start) {
    UNROLL for (u32 m = 0; m < M; m++) {
        const u32 g = row + m * FRAGMENT + lane_index() / 4;
        const Span upper = spans.of(g), lower = spans.of(g + 8);
        UNROLL for (u32 n = 0; n < N; n++) {
            UNROLL for (u32 i = 0; i < 4; i++) {
                const u32 other = start + n * HALF + lane_index() % 4 * 2 + i % 2;
                logits[m][n][i] = (i < 2 ? upper : lower).has(other) ? logits[m][n][i] : -infinity();
            }
        }
    }
}
