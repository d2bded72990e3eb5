//! Backward pass: the square of (block of queries, block of keys) of a document, diagonal by diagonal.
//!
//! One visit of a pair of blocks needs the probabilities once and yields its terms of dq, dk and dv. The
//! pairs of one diagonal share neither queries nor keys, so they run in parallel and add to the gradients
//! in place; diagonals follow one another. Every sum thus has a fixed order without atomics, partial sums
//! or a second pass, and long documents are as parallel as many short ones.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::panel::Panel;
use super::recompute::{Inputs, Keys, Tiles};
use super::tile::{accumulate, mix};
use super::{Document, KEY_BLOCK, LANES, delta, for_each_document, padded, values};
use crate::Float;
use crate::cpu::scratch::{take, with_scratch};
use crate::ops::attention::AttentionShape;

/// Queries, and keys, of a block: enough work per pair, short diagonals even for one document.
const BLOCK: usize = 128;

/// See [`backward`](crate::ops::attention::backward): `gradients` are dq, dk, dv. `workspace` holds centred
/// values, `delta` and, where the gradients are bf16, their f32 sums.
pub(super) fn run<X: Float>(
    shape: AttentionShape,
    [q, k, v, dout]: [&[X]; 4],
    logsumexp: &[f32],
    cu_q: &[u32],
    cu_k: &[u32],
    mut gradients: [&mut [X]; 3],
    workspace: &mut [f32],
) {
    let (centred, rest) = workspace.split_at_mut(v.len());
    let (delta, sums) = rest.split_at_mut(logsumexp.len());
    values::centre(shape, v, cu_q, cu_k, centred);
    let inputs = Inputs { q, k, dout, values: centred, logsumexp };
    delta::run(shape, inputs, cu_q, cu_k, delta);
    if let [Some(dq), Some(dk), Some(dv)] = gradients.each_mut().map(|gradient| as_f32(gradient)) {
        return run_documents(shape, inputs, delta, cu_q, cu_k, Sums { dq, dk, dv });
    }
    let (dq, rest) = sums.split_at_mut(gradients[0].len());
    let (dk, dv) = rest.split_at_mut(gradients[1].len());
    run_documents(shape, inputs, delta, cu_q, cu_k, Sums { dq, dk, dv });
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
    delta: &[f32],
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
        &|document, sums| run_document(shape, inputs, delta, &document, sums),
    );
}

fn run_document<X: Float>(
    shape: AttentionShape,
    inputs: Inputs<'_, X>,
    delta: &[f32],
    document: &Document,
    sums: Sums<'_>,
) {
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
                run_pair(shape, inputs, delta, document, queries, keys, Sums { dq, dk, dv });
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
    delta: &[f32],
    document: &Document,
    queries: Range<usize>,
    keys: Range<usize>,
    sums: Sums<'_>,
) {
    let head_dim = shape.head_dim;
    let len = Tiles::scratch_len(head_dim) + LANES * padded(head_dim) + Keys::scratch_len::<X>(head_dim);
    with_scratch(len, &mut |scratch| {
        let (queries, keys) = (queries.clone(), keys.clone());
        let sums = Sums { dq: &mut *sums.dq, dk: &mut *sums.dk, dv: &mut *sums.dv };
        pulp::Arch::new().dispatch(Pair { shape, inputs, delta, document, queries, keys, sums, scratch });
    });
}

/// A block of queries with a block of keys, and the gradients of just those.
struct Pair<'a, X> {
    shape: AttentionShape,
    inputs: Inputs<'a, X>,
    /// [tokens, num_heads]
    delta: &'a [f32],
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
        let mut tiles = Tiles::new(shape.head_dim, &mut scratch);
        let dq = take(&mut scratch, LANES * padded(shape.head_dim));
        for kv_head in 0..shape.num_kv_heads {
            for start in (0..self.queries.len() * shape.group()).step_by(LANES) {
                let panel = Panel::new(shape, self.document, &self.queries, kv_head, start);
                self.run_panel(simd, kv_head, &panel, &mut tiles, dq, scratch);
            }
        }
    }
}

impl<X: Float> Pair<'_, X> {
    /// `dq` [LANES, padded head_dim] is room for the gradients of the scaled queries.
    #[inline(always)]
    fn run_panel<S: Simd>(
        &mut self,
        simd: S,
        kv_head: usize,
        panel: &Panel,
        tiles: &mut Tiles<'_>,
        dq: &mut [f32],
        scratch: &mut [f32],
    ) {
        let Pair { shape, inputs, document, .. } = *self;
        let visible = panel.keys();
        let visible = visible.start.max(self.keys.start)..visible.end.min(self.keys.end);
        if visible.is_empty() {
            return;
        }
        let (head_dim, width) = (shape.head_dim, padded(shape.head_dim));
        tiles.pack(shape, inputs, document, panel);
        let delta = self.delta(panel);
        dq.fill(0.0);
        for start in visible.clone().step_by(KEY_BLOCK) {
            let range = start..visible.end.min(start + KEY_BLOCK);
            let count = range.len();
            let keys = Keys::read(shape, inputs, document, kv_head, range, scratch);
            tiles.recompute(simd, head_dim, panel, &keys);
            softmax_backward(count, &delta, tiles.probabilities, tiles.gradients);
            let stride = shape.num_kv_heads * head_dim;
            let at = (start - self.keys.start) * stride + kv_head * head_dim;
            let (dk, dv) = (&mut self.sums.dk[at..], &mut self.sums.dv[at..]);
            accumulate(simd, tiles.probabilities, count, panel.rows, tiles.dout, head_dim, dv, stride);
            accumulate(simd, tiles.gradients, count, panel.rows, tiles.q, head_dim, dk, stride);
            mix(simd, tiles.gradients, panel.rows, count, keys.k, width, &[1.0; LANES], dq);
        }
        let scale = shape.scale();
        for (&(query, head), dq) in panel.at.iter().zip(dq.chunks_exact(width)).take(panel.rows) {
            let at = ((query - self.queries.start) * shape.num_heads + head) * head_dim;
            for (sum, dq) in self.sums.dq[at..at + head_dim].iter_mut().zip(dq) {
                *sum = scale.mul_add(*dq, *sum);
            }
        }
    }

    /// The panel's rows of `delta`.
    #[inline(always)]
    fn delta(&self, panel: &Panel) -> [f32; LANES] {
        let mut delta = [0.0; LANES];
        for (delta, (query, head)) in delta.iter_mut().zip(panel.at).take(panel.rows) {
            *delta = self.delta[(self.document.queries.start + query) * self.shape.num_heads + head];
        }
        delta
    }
}

/// Replaces the gradients of probabilities by those of the logits.
#[inline(always)]
fn softmax_backward(keys: usize, delta: &[f32; LANES], probabilities: &[f32], gradients: &mut [f32]) {
    let rows = probabilities.chunks_exact(LANES).zip(gradients.chunks_exact_mut(LANES));
    for (probabilities, gradients) in rows.take(keys) {
        for lane in 0..LANES {
            gradients[lane] = probabilities[lane] * (gradients[lane] - delta[lane]);
        }
    }
}
