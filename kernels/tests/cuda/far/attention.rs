//! Attention over so many tokens and heads that elements of queries are counted beyond 2^32.

use half::bf16;
use tisserand_kernels::ops::attention::{self, AttentionShape};
use tisserand_kernels::testing::upload;

use super::*;

/// A first document, a last one, and one that is far longer between them. The first and the last two query heads, which
/// share a key head each, have numbers. The documents at the ends are those rows that the tiles at the edges have.
#[derive(Clone, Copy)]
struct Documents {
    tokens: usize,
    first: usize,
    last: usize,
    heads: usize,
    head_dim: usize,
}

/// Of the tokens of both documents, in the heads that have numbers: out, dq, dk, dv.
type Results = [Vec<bf16>; 4];

impl Documents {
    /// Where the two pieces of a token's row are, in a tensor of so many heads of which `of_piece` are in a piece.
    fn pieces(self, heads: usize, of_piece: usize) -> impl Iterator<Item = Range<usize>> {
        let tokens = (0..self.first).chain(self.tokens - self.last..self.tokens);
        let starts = tokens.flat_map(move |token| [token * heads, (token + 1) * heads - of_piece]);
        starts.map(move |start| start * self.head_dim..(start + of_piece) * self.head_dim)
    }

    fn tensor(self, ctx: &Context<Dev>, heads: usize, of_piece: usize, seed: u64) -> Block<Dev> {
        let mut block = zeros(ctx, DType::Bf16, self.tokens * heads * self.head_dim);
        for (piece, seed) in self.pieces(heads, of_piece).zip(seed..) {
            put(ctx, &mut block, piece.start, &numbers::<bf16>(seed, piece.len()));
        }
        block
    }

    fn run(self, ctx: &Context<Dev>) -> Results {
        let Documents { tokens, first, last, heads, head_dim } = self;
        let num_kv_heads = heads / 2;
        let shape =
            AttentionShape { num_heads: heads, num_kv_heads, head_dim, window: None, longest: tokens };
        let (queries, keys) = ([tokens, heads, head_dim], [tokens, num_kv_heads, head_dim]);
        let bounds = upload(ctx, &[0, first, tokens - last, tokens].map(|bound| bound as u32));
        let bounds = bounds.view([4]);
        let [q, dout] = [10_000, 20_000].map(|seed| self.tensor(ctx, heads, 2, seed));
        let [k, v] = [30_000, 40_000].map(|seed| self.tensor(ctx, num_kv_heads, 1, seed));
        let [mut out, mut dq] = [(); 2].map(|()| zeros(ctx, DType::Bf16, q.len()));
        let [mut dk, mut dv] = [(); 2].map(|()| zeros(ctx, DType::Bf16, k.len()));
        let mut sums = zeros(ctx, DType::F32, heads * tokens);
        let (q, dout, k, v) = (q.view(queries), dout.view(queries), k.view(keys), v.view(keys));
        let logsumexp = sums.view_mut([heads, tokens]);
        attention::forward(ctx, shape, q, k, v, bounds, bounds, out.view_mut(queries), logsumexp).unwrap();
        let (logsumexp, of_q) = (sums.view([heads, tokens]), dq.view_mut(queries));
        let (of_k, of_v) = (dk.view_mut(keys), dv.view_mut(keys));
        attention::backward(ctx, shape, q, k, v, bounds, bounds, logsumexp, dout, of_q, of_k, of_v).unwrap();
        [(&out, heads, 2), (&dq, heads, 2), (&dk, num_kv_heads, 1), (&dv, num_kv_heads, 1)].map(
            |(block, heads, of_piece)| {
                self.pieces(heads, of_piece).flat_map(|piece| get::<_, bf16>(ctx, block, piece)).collect()
            },
        )
    }

    /// Compares with the two documents alone, in the heads that have numbers.
    fn check(self) {
        assert!(self.tokens * self.heads * self.head_dim > 1 << 32);
        let want = Documents { tokens: self.first + self.last, heads: 4, ..self }.run(&near());
        let got = self.run(&far());
        for (what, (got, want)) in ["out", "dq", "dk", "dv"].into_iter().zip(got.iter().zip(&want)) {
            assert!(got == want && want.iter().any(|x| x.to_f32() != 0.0), "{what}");
        }
    }
}

#[test]
fn attention_of_the_last_document_is_that_of_a_short_buffer() {
    const TILE: usize = 128;
    let (first, last) = (2 * TILE, TILE + 88);
    Documents { tokens: (1 << 17) + last, first, last, heads: 256, head_dim: 128 }.check();
}

#[test]
fn attention_without_tensor_cores_is_that_of_a_short_buffer_too() {
    const ROWS: usize = 4;
    let (first, last) = (2 * ROWS, ROWS + 3);
    Documents { tokens: (1 << 17) + last, first, last, heads: 512, head_dim: 90 }.check();
}
