// Rotary embedding in place. x [tokens, heads, head_dim]; positions [tokens] u32; table [max_positions, head_dim] f32, of
// which a row is cosines, then sines. Elements i of a head's two halves (a, b), with half = head_dim / 2:
//
//   a' = fma(a, cos, -(b · sin)), b' = fma(b, cos, a · sin)      `sign` is 1, or -1 for the gradient: sin · sign
//
// Bytes: 2 elements for each of x, and the rows of the table, which stay in the caches. 3 FLOPs per element.
// Floor: bytes / bandwidth.
// Geometry: 256 threads; a thread takes one group of a half and, to read the table once for them, HEADS heads of a token;
// neighbours take neighbouring groups, so 16-byte accesses fill sectors. No shared memory. At most 2^31 such parts.
#include "isa/isa.cuh"
#include "vector.cuh"

constexpr u32 HEADS = 4;

struct RopeShape {
    u32 tokens, heads, head_dim;
};

// The groups of both halves of a head, from element i of the head on, and half a head further.
template <class X>
struct Halves {
    Packed<X> first, second;
};

template <class X>
DEVICE Halves<X> turn(const Halves<X>& x, const Packed<f32>& cos, const Packed<f32>& sin, f32 sign) {
    f32 first[GROUP], second[GROUP];
    UNROLL for (u32 j = 0; j < GROUP; j++) {
        const f32 a = x.first[j], b = x.second[j], s = sin[j] * sign;
        first[j] = fma(a, cos[j], -(b * s));
        second[j] = fma(b, cos[j], a * s);
    }
    return Halves<X>{round_group<X>(first), round_group<X>(second)};
}

// One thread's part: `count` elements of both halves from element item · count on, which counts through tokens, bundles
// of HEADS heads, and the half. The count is GROUP by packs, else 1.
template <class X>
DEVICE void turn_item(By by, u32 count, u32 item, RopeShape shape, f32 sign, Global<const u32> positions,
                      Global<const f32> table, Global<X> x) {
    const u32 half = shape.head_dim / 2, per_half = half / count, bundles = (shape.heads + HEADS - 1) / HEADS;
    const u32 bundle = item / per_half, token = bundle / bundles;
    const u32 i = item % per_half * count, head = bundle % bundles * HEADS;
    const u64 row = u64(load(positions, token)) * shape.head_dim + i;
    const Packed<f32> cos = load_packed(by, table, row), sin = load_packed(by, table, row + half);
    const u64 first_at = (u64(token) * shape.heads + head) * shape.head_dim + i;
    Halves<X> heads[HEADS];
    UNROLL for (u32 h = 0; h < HEADS; h++) {
        const u64 at = first_at + h * shape.head_dim;
        if (head + h < shape.heads) {
            heads[h] = Halves<X>{load_packed(by, x, at), load_packed(by, x, at + half)};
        }
    }
    UNROLL for (u32 h = 0; h < HEADS; h++) {
        const u64 at = first_at + h * shape.head_dim;
        if (head + h < shape.heads) {
            const Halves<X> turned = turn(heads[h], cos, sin, sign);
            store_packed(by, x, at, turned.first);
            store_packed(by, x, at + half, turned.second);
        }
    }
}

template <class X>
DEVICE void rope(RopeShape shape, f32 sign, Global<const u32> positions, Global<const f32> table, Global<X> x) {
    const u32 half = shape.head_dim / 2, bundles = (shape.heads + HEADS - 1) / HEADS;
    const bool packs = half % GROUP == 0 && is_aligned(table) && is_aligned(x);
    const u32 items = shape.tokens * bundles * (packs ? half / GROUP : half);
    for (u32 item = block_x() * num_threads() + thread_index(); item < items; item += grid_x() * num_threads()) {
        if (packs) {
            turn_item(By::Packs, GROUP, item, shape, sign, positions, table, x);
        } else {
            turn_item(By::Elements, 1, item, shape, sign, positions, table, x);
        }
    }
}

#define ENTRY(X)                                                                                             \
    KERNEL(rope_##X, 256, Global<const u32> positions, Global<const f32> table, Global<X> x, u32 tokens,       \
           u32 heads, u32 head_dim, f32 sign) {                                                                \
        rope(RopeShape{tokens, heads, head_dim}, sign, positions, table, x);                                   \
    }
ENTRY(f32)
ENTRY(bf16)
