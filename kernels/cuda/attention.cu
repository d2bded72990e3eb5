// Causal grouped-query attention over packed documents.
//
//   forward    out[i] = sum_j P[i, j] v[j],  P = softmax(scale · q kᵀ) over the keys that query i sees
//   backward   dv = Pᵀ dout,  dP = dout vᵀ,  delta[i] = sum_j P[i, j] dP[i, j],  dS = P ∘ (dP - delta),
//              dk = scale · dSᵀ q,  dq = scale · dS k
//
// Shapes: q, out, dout, dq [tokens_q, num_heads, head_dim]; k, v, dk, dv [tokens_k, num_kv_heads, head_dim]; logsumexp,
// delta [num_heads, tokens_q] f32; cu_seqlens [num_bounds]. bf16 operands, f32 sums; P and dS are rounded to bf16 where
// they enter a product.
//
// With n visible pairs of a query and a key over all heads, one product is 2 n head_dim FLOPs. Forward: 2 products.
// Backward: 5 count, 8 are done. `queries` computes P and dP, and dq as two sums, so that it finds delta on the way
// (attention_backward_queries.cuh); `keys` computes P, dP, dk and dv. Whoever added to dq from `keys` would save three of
// them, for a pass that finds delta first (two) and an order between blocks.
// Floor: FLOPs / rate of mma.sync; bytes (q, k, v, out once) matter for short documents only.
//
// Geometry: blocks are (tile of rows, head). A tile is a range of the whole buffer: it may hold several documents, walks
// over all rows that any of its rows sees, and hides what a row does not see (attention_visible.cuh). So the grid is a
// function of the number of tokens alone. Tiles with the most to do come first.
//                       threads   own rows          others at a time   shared memory (d128)   fragment reads / product
//   forward             128       128; d256: 64     64                  69 KiB                160 bytes
//   backward_queries    256       128; d256: 64     64; d256: 32       137 KiB                224 bytes
//   backward_keys       256       128; d256: 64     64; d256: 32       138 KiB                288 bytes
// The last column is what a warp reads from shared memory for one m16n8k16: sm_80 has 256 bytes of it in the time of such
// a product. Forward warps have 32 own rows, so that a fragment of the others serves two products; the sums of backward
// leave registers for 16. Forward has one stage: keys arrive during softmax and P v, values during q kᵀ. Backward has two.
//
// No access to shared memory conflicts for d64, d128 and d256; for d80 and d96 some copies do.
// A head of another width that is a multiple of 8 runs as the next wider one, with zeros.
#include "attention_backward_keys.cuh"
#include "attention_backward_queries.cuh"
#include "attention_forward.cuh"
#include "attention_plain.cuh"

#define INPUTS(T) PROBLEM_PARAMETERS, Global<const T> q, Global<const T> k, Global<const T> v
#define GRADIENT_INPUTS(T) INPUTS(T), Global<const f32> logsumexp, Global<const T> dout

#define TENSOR_CORE_ENTRIES(D)                                                                               \
    KERNEL(attention_forward_bf16_d##D, 128, INPUTS(bf16), Global<bf16> out, Global<f32> logsumexp) {        \
        attention_forward<D>(PROBLEM, q, k, v, out, logsumexp);                                              \
    }                                                                                                        \
    KERNEL(attention_backward_queries_bf16_d##D, 256, GRADIENT_INPUTS(bf16), Global<bf16> dq,                \
           Global<f32> delta) {                                                                              \
        attention_backward_queries<D>(PROBLEM, q, k, v, logsumexp, dout, dq, delta);                         \
    }                                                                                                        \
    KERNEL(attention_backward_keys_bf16_d##D, 256, GRADIENT_INPUTS(bf16), Global<const f32> delta,           \
           Global<bf16> dk, Global<bf16> dv) {                                                               \
        attention_backward_keys<D>(PROBLEM, q, k, v, logsumexp, dout, delta, dk, dv);                        \
    }
TENSOR_CORE_ENTRIES(64)
TENSOR_CORE_ENTRIES(80)
TENSOR_CORE_ENTRIES(96)
TENSOR_CORE_ENTRIES(128)
TENSOR_CORE_ENTRIES(256)

#define PLAIN_ENTRIES(T)                                                                                     \
    KERNEL(attention_forward_plain_##T, 128, INPUTS(T), Global<T> out, Global<f32> logsumexp) {              \
        attention_forward_plain(PROBLEM, q, k, v, out, logsumexp);                                           \
    }                                                                                                        \
    KERNEL(attention_backward_queries_plain_##T, 128, GRADIENT_INPUTS(T), Global<T> dq, Global<f32> delta) { \
        attention_backward_queries_plain(PROBLEM, q, k, v, logsumexp, dout, dq, delta);                      \
    }                                                                                                        \
    KERNEL(attention_backward_keys_plain_##T, 128, GRADIENT_INPUTS(T), Global<const f32> delta,              \
           Global<T> dk, Global<T> dv) {                                                                     \
        attention_backward_keys_plain(PROBLEM, q, k, v, logsumexp, dout, delta, dk, dv);                     \
    }
PLAIN_ENTRIES(f32)
PLAIN_ENTRIES(bf16)
