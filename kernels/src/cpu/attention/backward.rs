//! Backward pass: the square of (block of queries, block of keys) of a document, diagonal by diagonal.
//!
//! One visit of a pair of blocks needs the probabilities once and yields its terms of dq, dk and dv. The
//! pairs of one diagonal share neither queries nor keys, so they run in parallel and add to the gradients
//! in place; diagonals follow one another. Every sum thus has a fixed order without atomics, partial sums
//! or a second pass, and long documents are as parallel as many short ones.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::panel::{Panel, dot, key_rows};
use super::tile::{accumulate, logits, mix};
use super::transpose::transpose;
use super::{Document, KEY_BLOCK, LANES, for_each_document, is_staged, padded};
use crate::Float;
use crate::cpu::scratch::{take, with_scratch};
use crate::math::exp;
use crate::ops::attention::AttentionShape;

/// Queries, and keys, of a block: enough work per pair, short diagonals even for one document.
const BLOCK: usize = 128;

/// Inputs of the whole buffer.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a, X> {
    pub(super) q: &'a [X],
    pub(super) k: &'a [X],
    pub(super) v: &'a [X],
    pub(super) out: &'a [X],
    pub(super) dout: &'a [X],
    pub(super) logsumexp: &'a [f32],
}

/// See [`backward`](crate::ops::attention::backward): `gradients` are dq, dk, dv. Sums of bf16 gradients
/// are made in `accumulators`, all others in place.
pub(super) fn run<X: Float>(
    shape: AttentionShape,
    inputs: Inputs<'_, X>,
    cu_q: &[u32],
    cu_k: &[u32],
    mut gradients: [&mut [X]; 3],
    accumulators: &mut [f32],
) {
    if let [Some(dq), Some(dk), Some(dv)] = gradients.each_mut().map(|gradient| as_f32(gradient)) {
        return run_documents(shape, inputs, cu_q, cu_k, Sums { dq, dk, dv });
    }
    let (dq, rest) = accumulators.split_at_mut(gradients[0].len());
    let (dk, dv) = rest.split_at_mut(gradients[1].len());
    run_documents(shape, inputs, cu_q, cu_k, Sums { dq, dk, dv });
    for (gradient, sums) in gradients.into_iter().zip([dq, dk, dv]) {
        gradient.par_chunks_mut(PIECE).zip(sums.par_chunks(PIECE)).for_each(|(gradient, sums)| {
            for (gradient, sum) in gradient.iter_mut().zip(sums) {
                *gradient = X::from_f32(*sum);
            }
        });
    }
}

/// Elements per task of the last rounding.
const PIECE: usize = 1 << 14;

/// The same elements, if they are f32.
fn as_f32<X: Float>(values: &mut [X]) -> Option<&mut [f32]> {
    (X::DTYPE == crate::DType::F32).then(|| bytemuck::cast_slice_mut(values))
}

/// f32 gradients of some queries and keys: `dq` [queries, num_heads, head_dim], `dk` and `dv`
/// [keys, num_kv_heads, head_dim].
struct Sums<'a> {
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

impl Sums<'_> {
    /// The first elements of all three, and the others.
    fn split(self, q_len: usize, k_len: usize) -> (Self, Self) {
        let (first_dq, dq) = self.dq.split_at_mut(q_len);
        let (first_dk, dk) = self.dk.split_at_mut(k_len);
        let (first_dv, dv) = self.dv.split_at_mut(k_len);
        (Sums { dq: first_dq, dk: first_dk, dv: first_dv }, Sums { dq, dk, dv })
    }
}

fn run_documents<X: Float>(
    shape: AttentionShape,
    inputs: Inputs<'_, X>,
    cu_q: &[u32],
    cu_k: &[u32],
    sums: Sums<'_>,
) {
    let q_row = shape.num_heads * shape.head_dim;
    let k_row = shape.num_kv_heads * shape.head_dim;
    for_each_document(
        cu_q,
        cu_k,
        sums,
        &|sums, queries, keys| sums.split(queries * q_row, keys * k_row),
        &|document, sums| run_document(shape, inputs, &document, sums),
    );
}

fn run_document<X: Float>(shape: AttentionShape, inputs: Inputs<'_, X>, document: &Document, sums: Sums<'_>) {
    let Sums { dq, dk, dv } = sums;
    let q_piece = BLOCK * shape.num_heads * shape.head_dim;
    let k_piece = BLOCK * shape.num_kv_heads * shape.head_dim;
    let q_blocks = document.queries.len().div_ceil(BLOCK);
    let k_blocks = document.keys.len().div_ceil(BLOCK);
    // A block's gradients are zeroed when its pair on the main diagonal is visited; those of blocks that
    // the main diagonal misses are zeroed here.
    let square = q_blocks.min(k_blocks);
    for (gradient, piece) in [(&mut *dq, q_piece), (&mut *dk, k_piece), (&mut *dv, k_piece)] {
        if let Some(missed) = gradient.get_mut(square * piece..) {
            missed.fill(0.0);
        }
    }
    let diagonals = (0..q_blocks).map(|q| (q, 0)).chain((1..k_blocks).map(|k| (0, k)));
    for (first_q, first_k) in diagonals {
        let is_main = first_q == 0 && first_k == 0;
        let pair = |i| {
            let queries = block(first_q + i, document.queries.len());
            (queries, block(first_k + i, document.keys.len()))
        };
        let pairs = (q_blocks - first_q).min(k_blocks.saturating_sub(first_k));
        let is_visible = |i| sees_any(shape, document, pair(i));
        if !is_main && !(0..pairs).any(is_visible) {
            continue;
        }
        let dq = dq[first_q * q_piece..].par_chunks_mut(q_piece);
        let dk = dk[first_k * k_piece..].par_chunks_mut(k_piece);
        let dv = dv[first_k * k_piece..].par_chunks_mut(k_piece);
        dq.zip(dk.zip(dv)).enumerate().with_max_len(1).for_each(|(i, (dq, (dk, dv)))| {
            if is_main {
                for gradient in [&mut *dq, &mut *dk, &mut *dv] {
                    gradient.fill(0.0);
                }
            }
            if is_visible(i) {
                let (queries, keys) = pair(i);
                run_pair(shape, inputs, document, queries, keys, Sums { dq, dk, dv });
            }
        });
    }
}

fn block(index: usize, len: usize) -> Range<usize> {
    index * BLOCK..len.min((index + 1) * BLOCK)
}

/// Whether any of the queries sees any of the keys.
fn sees_any(
    shape: AttentionShape,
    document: &Document,
    (queries, keys): (Range<usize>, Range<usize>),
) -> bool {
    let first = document.visible(shape.window, queries.start).start;
    let end = document.visible(shape.window, queries.end - 1).end;
    keys.start < end && first < keys.end
}

fn run_pair<X: Float>(
    shape: AttentionShape,
    inputs: Inputs<'_, X>,
    document: &Document,
    queries: Range<usize>,
    keys: Range<usize>,
    sums: Sums<'_>,
) {
    let (head_dim, width) = (shape.head_dim, padded(shape.head_dim));
    let staged = if is_staged::<X>(head_dim) { 2 * KEY_BLOCK * width } else { 0 };
    let len = LANES * (5 * width + 2 * KEY_BLOCK) + staged;
    with_scratch(len, &mut |scratch| {
        let (queries, keys) = (queries.clone(), keys.clone());
        let sums = Sums { dq: &mut *sums.dq, dk: &mut *sums.dk, dv: &mut *sums.dv };
        pulp::Arch::new().dispatch(Pair { shape, inputs, document, queries, keys, sums, scratch });
    });
}

/// A block of queries with a block of keys, and the gradients of just those.
struct Pair<'a, X> {
    shape: AttentionShape,
    inputs: Inputs<'a, X>,
    document: &'a Document,
    queries: Range<usize>,
    keys: Range<usize>,
    sums: Sums<'a>,
    scratch: &'a mut [f32],
}

impl<X: Float> WithSimd for Pair<'_, X> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let shape = self.shape;
        let mut scratch = std::mem::take(&mut self.scratch);
        let rows = LANES * padded(shape.head_dim);
        let mut tiles = Tiles {
            q_columns: take(&mut scratch, rows),
            dout_columns: take(&mut scratch, rows),
            q: take(&mut scratch, rows),
            dout: take(&mut scratch, rows),
            dq: take(&mut scratch, rows),
            probabilities: take(&mut scratch, KEY_BLOCK * LANES),
            dlogits: take(&mut scratch, KEY_BLOCK * LANES),
            keys: scratch,
        };
        for kv_head in 0..shape.num_kv_heads {
            for start in (0..self.queries.len() * shape.group()).step_by(LANES) {
                let panel = Panel::new(shape, self.document, &self.queries, kv_head, start);
                self.run_panel(simd, kv_head, &panel, &mut tiles);
            }
        }
    }
}

/// Scratch of one panel. Rows are [LANES, padded head_dim], columns [padded head_dim, LANES].
struct Tiles<'a> {
    /// Queries times the scale of the logits.
    q: &'a mut [f32],
    q_columns: &'a mut [f32],
    dout: &'a mut [f32],
    dout_columns: &'a mut [f32],
    /// Gradient of the scaled queries.
    dq: &'a mut [f32],
    /// [KEY_BLOCK, LANES]; logits first.
    probabilities: &'a mut [f32],
    /// [KEY_BLOCK, LANES]; gradients of the probabilities first.
    dlogits: &'a mut [f32],
    /// Two tiles of keys and values, where they are not read in place.
    keys: &'a mut [f32],
}

impl<X: Float> Pair<'_, X> {
    #[inline(always)]
    fn run_panel<S: Simd>(&mut self, simd: S, kv_head: usize, panel: &Panel, tiles: &mut Tiles<'_>) {
        let Pair { shape, inputs, document, .. } = *self;
        let visible = panel.keys();
        let mut keys = visible.start.max(self.keys.start)..visible.end.min(self.keys.end);
        if keys.is_empty() {
            return;
        }
        let (head_dim, width) = (shape.head_dim, padded(shape.head_dim));
        let (logsumexp, delta) = self.pack(panel, tiles);
        tiles.dq.fill(0.0);
        while !keys.is_empty() {
            let block = keys.start..keys.end.min(keys.start + KEY_BLOCK);
            keys.start = block.end;
            let count = block.len();
            let rows = document.keys.start + block.start..document.keys.start + block.end;
            let (k_tile, v_tile) = tiles.keys.split_at_mut(tiles.keys.len() / 2);
            let k = key_rows(shape, inputs.k, rows.clone(), kv_head, k_tile);
            let v = key_rows(shape, inputs.v, rows, kv_head, v_tile);
            logits(simd, k, count, head_dim, tiles.q_columns, panel.lanes(), tiles.probabilities);
            logits(simd, v, count, head_dim, tiles.dout_columns, panel.lanes(), tiles.dlogits);
            panel.mask(block.clone(), tiles.probabilities);
            softmax_backward(count, &logsumexp, &delta, tiles.probabilities, tiles.dlogits);
            let stride = shape.num_kv_heads * head_dim;
            let at = (block.start - self.keys.start) * stride + kv_head * head_dim;
            let (dk, dv) = (&mut self.sums.dk[at..], &mut self.sums.dv[at..]);
            accumulate(simd, tiles.probabilities, count, panel.rows, tiles.dout, head_dim, dv, stride);
            accumulate(simd, tiles.dlogits, count, panel.rows, tiles.q, head_dim, dk, stride);
            mix(simd, tiles.dlogits, panel.rows, count, k, width, &[1.0; LANES], tiles.dq);
        }
        let scale = shape.scale();
        for row in 0..panel.rows {
            let (query, head) = panel.at[row];
            let at = ((query - self.queries.start) * shape.num_heads + head) * head_dim;
            for (sum, dq) in self.sums.dq[at..at + head_dim].iter_mut().zip(&tiles.dq[row * width..]) {
                *sum = scale.mul_add(*dq, *sum);
            }
        }
    }

    /// Packs the panel's queries and output gradients; returns logsumexp and `delta` of its rows.
    #[inline(always)]
    fn pack(&self, panel: &Panel, tiles: &mut Tiles<'_>) -> ([f32; LANES], [f32; LANES]) {
        let Pair { shape, inputs, document, .. } = *self;
        let (head_dim, width) = (shape.head_dim, padded(shape.head_dim));
        let (first, row_len) = (document.queries.start, shape.num_heads * head_dim);
        panel.pack(shape, &inputs.q[first * row_len..], shape.scale(), tiles.q);
        panel.pack(shape, &inputs.dout[first * row_len..], 1.0, tiles.dout);
        transpose(head_dim, tiles.q, tiles.q_columns);
        transpose(head_dim, tiles.dout, tiles.dout_columns);
        let tokens = inputs.logsumexp.len() / shape.num_heads;
        // Probabilities of lanes without a row, and of rows that see no key, become exp(-inf) = 0.
        let (mut logsumexp, mut delta) = ([f32::INFINITY; LANES], [0.0; LANES]);
        for row in 0..panel.rows {
            let (query, head) = panel.at[row];
            let out = &inputs.out[(first + query) * row_len + head * head_dim..][..head_dim];
            delta[row] = dot(&tiles.dout[row * width..][..head_dim], out);
            let log = inputs.logsumexp[head * tokens + first + query];
            logsumexp[row] = if log == f32::NEG_INFINITY { f32::INFINITY } else { log };
        }
        (logsumexp, delta)
    }
}

/// Replaces logits by probabilities and their gradients by those of the logits.
#[inline(always)]
fn softmax_backward(
    keys: usize,
    logsumexp: &[f32; LANES],
    delta: &[f32; LANES],
    probabilities: &mut [f32],
    gradients: &mut [f32],
) {
    let rows = probabilities.chunks_exact_mut(LANES).zip(gradients.chunks_exact_mut(LANES));
    for (probabilities, gradients) in rows.take(keys) {
        for lane in 0..LANES {
            let probability = exp(probabilities[lane] - logsumexp[lane]);
            probabilities[lane] = probability;
            gradients[lane] = probability * (gradients[lane] - delta[lane]);
        }
    }
}
