// Rows of a table by token, and the scatter of gradients back into the table.
//
//   embedding_forward    out[t, h] = table[tokens[t] - first_row, h]     0 for tokens without a row here
//   embedding_links      links[t]: whether t is the first token of its row, and the next one of that row
//   embedding_backward   dtable[tokens[t] - first_row, h] += dout[t, h]  the tokens of a row in their order
//
// tokens [tokens] u32; table [rows, hidden] f32 or bf16; out, dout [tokens, hidden] f32 or bf16; dtable [rows, hidden]
// f32; links [tokens] u32, workspace.
//
// Bytes: forward tokens · hidden · (table + out); backward tokens · hidden · dout + 8 · hidden · rows touched. FLOPs: one
// per element of dout. Floor: bytes / bandwidth. Geometry: 256 threads; forward and backward have a warp for a token and
// some of its columns; no shared memory.
//
// The backward adds without atomics, hence with the same bits every time, those of the CPU device: the warp of the first
// token of a row walks over all tokens of that row and adds their gradients in order. To know them, `links` has a warp for
// each token, which looks for the nearest token of the same row on both sides, 4 tokens by each lane at a time: tokens² /
// (4 · warp) steps if no row comes twice: by a count of instructions 15 µs of an H100 for 16k tokens and a millisecond for
// 128k, a thousandth of a step that has so many.
#include "elements.cuh"
#include "isa/isa.cuh"
#include "vector.cuh"

// The rows of a table that are here: those of the tokens [first_row, first_row + rows).
struct TableRows {
    u64 first_row, rows;

    METHOD bool has(u32 token) const { return token >= first_row && token - first_row < rows; }
    METHOD u64 row(u32 token) const { return token - first_row; }
};

// Calls visit(t) for the tokens of this warp, one where warps are as narrow as the host thinks.
template <class Visit>
DEVICE void for_each_token(u64 num_tokens, Visit visit) {
    const u64 warps = u64(grid_x()) * num_warps();
    for (u64 t = u64(block_x()) * num_warps() + warp_index(); t < num_tokens; t += warps) {
        visit(t);
    }
}

// Columns of a row for one warp, by which the rows of few tokens still fill a GPU.
constexpr u32 FORWARD_COLUMNS = 1024;

template <class W, class X>
DEVICE void copy_row(Global<const u32> tokens, Global<const W> table, Global<X> out, TableRows rows, u64 hidden, u64 t) {
    const u32 token = load(tokens, t);
    const bool has_row = rows.has(token);
    const u64 from_row = has_row ? rows.row(token) * hidden : 0, to_row = t * hidden;
    const u64 start = u64(block_y()) * FORWARD_COLUMNS, end = least(start + FORWARD_COLUMNS, hidden);
    if (hidden % GROUP != 0 || !is_aligned(table) || !is_aligned(out)) {
        for (u64 h = start + lane_index(); h < end; h += WARP) {
            store(out, to_row + h, round_to<X>(has_row ? to_f32(load(table, from_row + h)) : 0.0f));
        }
        return;
    }
    for (u64 h = start + lane_index() * GROUP; h < end; h += WARP * GROUP) {
        Group<X> values{};
        if (has_row) {
            const Group<W> row = load_group(table, from_row + h);
            UNROLL for (u32 j = 0; j < GROUP; j++) { values[j] = round_to<X>(to_f32(row[j])); }
        }
        store_group(out, to_row + h, values);
    }
}

#define FORWARD(W, X)                                                                                        \
    KERNEL(embedding_forward_##W##_##X, 256, Global<const u32> tokens, Global<const W> table, Global<X> out, \
           u64 first_row, u64 rows, u64 num_tokens, u64 hidden) {                                            \
        for_each_token(num_tokens, [&](u64 t) {                                                              \
            copy_row(tokens, table, out, TableRows{first_row, rows}, hidden, t);                             \
        });                                                                                                  \
    }
FORWARD(f32, f32)
FORWARD(f32, bf16)
FORWARD(bf16, f32)
FORWARD(bf16, bf16)

// A link: the next token of the same row, all ones but the highest bit if there is none; the highest bit is set unless
// the token is the first of a row that is here.
constexpr u32 NOT_FIRST = 1u << 31;
constexpr u32 NO_NEXT = NOT_FIRST - 1;

// Tokens that a lane compares at a time.
constexpr u32 TOKENS_PER_LANE = Pack<u32>::LEN;
constexpr u32 TOKENS_PER_WARP = WARP * TOKENS_PER_LANE;

// Bit j is whether tokens[first + j] is `token` and lies in [begin, end).
DEVICE u32 matches(Global<const u32> tokens, u32 token, u64 first, u64 begin, u64 end, bool aligned) {
    u32 found = 0;
    if (aligned && first >= begin && first + TOKENS_PER_LANE <= end) {
        const Pack<u32> four = load_pack(tokens, first);
        UNROLL for (u32 j = 0; j < TOKENS_PER_LANE; j++) { found |= u32(four[j] == token) << j; }
        return found;
    }
    UNROLL for (u32 j = 0; j < TOKENS_PER_LANE; j++) {
        const u64 at = first + j;
        found |= u32(at >= begin && at < end && load(tokens, at) == token) << j;
    }
    return found;
}

// The first token after t that is `token`, NO_NEXT if there is none.
DEVICE u32 next_of(Global<const u32> tokens, u32 token, u64 t, u64 num_tokens, bool aligned) {
    const u64 begin = t + 1;
    for (u64 at = begin / TOKENS_PER_LANE * TOKENS_PER_LANE; at < num_tokens; at += TOKENS_PER_WARP) {
        const u64 first = at + lane_index() * TOKENS_PER_LANE;
        const u32 found = matches(tokens, token, first, begin, num_tokens, aligned);
        const u64 lanes = lanes_where(found != 0);
        if (lanes != 0) {
            const u32 lane = lowest_set_bit(lanes);
            return u32(at) + lane * TOKENS_PER_LANE + lowest_set_bit(shuffle(found, lane));
        }
    }
    return NO_NEXT;
}

// Whether a token before t is `token`: the nearest ones are asked first.
DEVICE bool has_previous(Global<const u32> tokens, u32 token, u64 t, bool aligned) {
    u64 end = t;
    while (end > 0) {
        const u64 last = (end - 1) / TOKENS_PER_WARP * TOKENS_PER_WARP;
        const u64 first = last + lane_index() * TOKENS_PER_LANE;
        if (any_lane(matches(tokens, token, first, 0, end, aligned) != 0)) {
            return true;
        }
        end = last;
    }
    return false;
}

DEVICE u32 link_of(Global<const u32> tokens, TableRows rows, u64 num_tokens, u64 t) {
    const u32 token = load(tokens, t);
    if (!rows.has(token)) {
        return NOT_FIRST | NO_NEXT;
    }
    const bool aligned = is_aligned(tokens);
    const u32 next = next_of(tokens, token, t, num_tokens, aligned);
    return has_previous(tokens, token, t, aligned) ? NOT_FIRST | next : next;
}

KERNEL(embedding_links, 256, Global<const u32> tokens, Global<u32> links, u64 first_row, u64 rows, u64 num_tokens) {
    for_each_token(num_tokens, [&](u64 t) {
        const u32 link = link_of(tokens, TableRows{first_row, rows}, num_tokens, t);
        if (lane_index() == 0) {
            store(links, t, link);
        }
    });
}

// Tokens of a row whose gradients are read at a time: enough to hide the time that one takes.
constexpr u32 BATCH = 4;

// The next tokens of a row: `count` of them, at least one, then the last one again; steps over them.
struct TokenBatch {
    u32 at[BATCH];
    u32 count;
};
DEVICE TokenBatch next_batch(Global<const u32> links, u32& next) {
    TokenBatch batch{{next}, 1};
    next = load(links, next) & ~NOT_FIRST;
    UNROLL for (u32 k = 1; k < BATCH; k++) {
        const bool is_there = next != NO_NEXT;
        batch.at[k] = is_there ? next : batch.at[k - 1];
        if (is_there) {
            batch.count = k + 1;
            next = load(links, next) & ~NOT_FIRST;
        }
    }
    return batch;
}

// Columns that a lane adds: 16 bytes of sums.
constexpr u32 COLUMNS = Pack<f32>::LEN;

template <class X>
DEVICE Pack<f32> plus(Pack<f32> sum, const Elements<X, COLUMNS>& terms) {
    UNROLL for (u32 j = 0; j < COLUMNS; j++) { sum[j] = sum[j] + to_f32(terms[j]); }
    return sum;
}

// Adds the gradients of a row's tokens, from token t on, to adjacent sums.
template <class X>
DEVICE void add_columns(Global<const u32> links, Global<const X> dout, Global<f32> sums, u32 t, u64 hidden, u64 h) {
    Pack<f32> sum = load_pack(sums, h);
    u32 next = t;
    while (next != NO_NEXT) {
        const TokenBatch batch = next_batch(links, next);
        // All loads before the first sum. Where there are no more tokens the last one is read again, from the cache.
        Elements<X, COLUMNS> terms[BATCH];
        UNROLL for (u32 k = 0; k < BATCH; k++) { terms[k] = load_elements<COLUMNS>(dout, batch.at[k] * hidden + h); }
        UNROLL for (u32 k = 0; k < BATCH; k++) { sum = k < batch.count ? plus(sum, terms[k]) : sum; }
    }
    store_pack(sums, h, sum);
}

template <class X>
DEVICE void add_one(Global<const u32> links, Global<const X> dout, Global<f32> sums, u32 t, u64 hidden, u64 h) {
    f32 sum = load(sums, h);
    for (u32 next = t; next != NO_NEXT; next = load(links, next) & ~NOT_FIRST) {
        sum = sum + to_f32(load(dout, next * hidden + h));
    }
    store(sums, h, sum);
}

// Columns of a row for one warp of the backward: those of the lanes of the smaller kind of warps, so that a row whose
// tokens are many is divided among many.
constexpr u32 BACKWARD_COLUMNS = 32 * COLUMNS;

template <class X>
DEVICE void add_row(Global<const u32> tokens, Global<const u32> links, Global<const X> dout, Global<f32> dtable,
                    TableRows rows, u64 hidden, u64 t) {
    if ((load(links, t) & NOT_FIRST) != 0) {
        return;
    }
    const Global<f32> sums = from(dtable, i64(rows.row(load(tokens, t)) * hidden));
    const u64 start = u64(block_y()) * BACKWARD_COLUMNS, end = least(start + BACKWARD_COLUMNS, hidden);
    if (hidden % COLUMNS == 0 && is_aligned(dout) && is_aligned(dtable)) {
        const u64 h = start + lane_index() * COLUMNS;
        if (h < end) {
            add_columns(links, dout, sums, u32(t), hidden, h);
        }
    } else {
        for (u64 h = start + lane_index(); h < end; h += WARP) {
            add_one(links, dout, sums, u32(t), hidden, h);
        }
    }
}

#define BACKWARD(X)                                                                                          \
    KERNEL(embedding_backward_##X, 256, Global<const u32> tokens, Global<const u32> links, Global<const X> dout, \
           Global<f32> dtable, u64 first_row, u64 rows, u64 num_tokens, u64 hidden) {                        \
        for_each_token(num_tokens, [&](u64 t) {                                                              \
            add_row(tokens, links, dout, dtable, TableRows{first_row, rows}, hidden, t);                     \
        });                                                                                                  \
    }
BACKWARD(f32)
BACKWARD(bf16)
