//! Forward pass: a block of queries per task; each panel walks over the keys that it sees.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::panel::{Panel, key_rows};
use super::tile::{logits, mix};
use super::transpose::transpose;
use super::{Document, KEY_BLOCK, LANES, for_each_document, is_staged, padded};
use crate::Float;
use crate::cpu::scratch::{take, with_scratch};
use crate::math::exp;
use crate::ops::attention::AttentionShape;

/// Queries per task: whole panels for every group size.
const QUERY_BLOCK: usize = 32;

/// Inputs of the whole buffer.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a, X> {
    pub(super) q: &'a [X],
    pub(super) k: &'a [X],
    pub(super) v: &'a [X],
}

/// See [`forward`](crate::ops::attention::forward). Tasks own whole tokens, so they write logsumexp by
/// token first.
pub(super) fn run<X: Float>(
    shape: AttentionShape,
    inputs: Inputs<'_, X>,
    cu_q: &[u32],
    cu_k: &[u32],
    out: &mut [X],
    logsumexp: &mut [f32],
    by_token: &mut [f32],
) {
    let (row, heads) = (shape.num_heads * shape.head_dim, shape.num_heads);
    for_each_document(
        cu_q,
        cu_k,
        (out, &mut *by_token),
        &|(out, by_token), queries, _| {
            let (first_out, out) = out.split_at_mut(queries * row);
            let (first, by_token) = by_token.split_at_mut(queries * heads);
            ((first_out, first), (out, by_token))
        },
        &|document, (out, by_token)| run_document(shape, inputs, &document, out, by_token),
    );
    let tokens = by_token.len() / heads;
    if tokens > 0 {
        logsumexp.par_chunks_mut(tokens).enumerate().for_each(|(head, logsumexp)| {
            for (token, logsumexp) in logsumexp.iter_mut().enumerate() {
                *logsumexp = by_token[token * heads + head];
            }
        });
    }
}

/// `out` and `logsumexp` are rows of the document's queries.
fn run_document<X: Float>(
    shape: AttentionShape,
    inputs: Inputs<'_, X>,
    document: &Document,
    out: &mut [X],
    logsumexp: &mut [f32],
) {
    let AttentionShape { num_heads, num_kv_heads, head_dim, .. } = shape;
    if document.queries.len() == 1 {
        // Decoding: one token, hence one task per key head.
        let group = shape.group();
        let heads = out.par_chunks_mut(group * head_dim).zip(logsumexp.par_chunks_mut(group));
        heads.enumerate().with_max_len(1).for_each(|(kv_head, (out, logsumexp))| {
            run_task(shape, inputs, document, 0..1, kv_head..kv_head + 1, out, logsumexp);
        });
        return;
    }
    let outs = out.par_chunks_mut(QUERY_BLOCK * num_heads * head_dim);
    outs.zip(logsumexp.par_chunks_mut(QUERY_BLOCK * num_heads)).enumerate().with_max_len(1).for_each(
        |(block, (out, logsumexp))| {
            let start = block * QUERY_BLOCK;
            let queries = start..start + logsumexp.len() / num_heads;
            run_task(shape, inputs, document, queries, 0..num_kv_heads, out, logsumexp);
        },
    );
}

fn run_task<X: Float>(
    shape: AttentionShape,
    inputs: Inputs<'_, X>,
    document: &Document,
    queries: Range<usize>,
    kv_heads: Range<usize>,
    out: &mut [X],
    logsumexp: &mut [f32],
) {
    let staged = if is_staged::<X>(shape.head_dim) { 2 * KEY_BLOCK * padded(shape.head_dim) } else { 0 };
    let len = LANES * (2 * padded(shape.head_dim) + KEY_BLOCK) + staged;
    with_scratch(len, &mut |scratch| {
        let (queries, kv_heads) = (queries.clone(), kv_heads.clone());
        let task = Task { shape, inputs, document, queries, kv_heads, out, logsumexp, scratch };
        pulp::Arch::new().dispatch(task);
    });
}

/// The queries of one task for some key heads, and the outputs of just those.
struct Task<'a, X> {
    shape: AttentionShape,
    inputs: Inputs<'a, X>,
    document: &'a Document,
    queries: Range<usize>,
    kv_heads: Range<usize>,
    out: &'a mut [X],
    logsumexp: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl<X: Float> WithSimd for Task<'_, X> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let shape = self.shape;
        let mut scratch = std::mem::take(&mut self.scratch);
        let rows = LANES * padded(shape.head_dim);
        let mut tiles = Tiles {
            q_columns: take(&mut scratch, rows),
            sums: take(&mut scratch, rows),
            weights: take(&mut scratch, KEY_BLOCK * LANES),
            keys: scratch,
        };
        for kv_head in self.kv_heads.clone() {
            for start in (0..self.queries.len() * shape.group()).step_by(LANES) {
                let panel = Panel::new(shape, self.document, &self.queries, kv_head, start);
                let softmax = self.run_panel(simd, kv_head, &panel, &mut tiles);
                self.write(&panel, &softmax, tiles.sums);
            }
        }
    }
}

/// Scratch of one panel.
struct Tiles<'a> {
    /// Queries times the scale of the logits, [padded head_dim, LANES].
    q_columns: &'a mut [f32],
    /// Weighted sums of values, [LANES, padded head_dim].
    sums: &'a mut [f32],
    /// [KEY_BLOCK, LANES]; logits first.
    weights: &'a mut [f32],
    /// Two tiles of keys and values, where they are not read in place.
    keys: &'a mut [f32],
}

impl<X: Float> Task<'_, X> {
    /// Leaves the panel's weighted sums of values in `tiles.sums`.
    #[inline(always)]
    fn run_panel<S: Simd>(&self, simd: S, kv_head: usize, panel: &Panel, tiles: &mut Tiles<'_>) -> Softmax {
        let Task { shape, inputs, document, .. } = *self;
        let (head_dim, width) = (shape.head_dim, padded(shape.head_dim));
        let q = &inputs.q[document.queries.start * shape.num_heads * head_dim..];
        panel.pack(shape, q, shape.scale(), tiles.sums);
        transpose(head_dim, tiles.sums, tiles.q_columns);
        tiles.sums.fill(0.0);
        let mut softmax = Softmax::new();
        let mut keys = panel.keys();
        while !keys.is_empty() {
            let block = keys.start..keys.end.min(keys.start + KEY_BLOCK);
            keys.start = block.end;
            let count = block.len();
            let rows = document.keys.start + block.start..document.keys.start + block.end;
            let (k_tile, v_tile) = tiles.keys.split_at_mut(tiles.keys.len() / 2);
            let k = key_rows(shape, inputs.k, rows.clone(), kv_head, k_tile);
            let v = key_rows(shape, inputs.v, rows, kv_head, v_tile);
            logits(simd, k, count, head_dim, tiles.q_columns, panel.lanes(), tiles.weights);
            panel.mask(block, tiles.weights);
            let decay = softmax.exponentiate(&mut tiles.weights[..count * LANES]);
            mix(simd, tiles.weights, panel.rows, count, v, width, &decay, tiles.sums);
        }
        softmax
    }

    /// Divides the sums by those of the weights, and stores them and logsumexp.
    #[inline(always)]
    fn write(&mut self, panel: &Panel, softmax: &Softmax, sums: &[f32]) {
        let head_dim = self.shape.head_dim;
        let group = self.shape.group();
        let heads = self.kv_heads.start * group..self.kv_heads.end * group;
        for (row, sums) in sums.chunks_exact(padded(head_dim)).take(panel.rows).enumerate() {
            let (query, head) = panel.at[row];
            let at = (query - self.queries.start) * heads.len() + head - heads.start;
            let (inverse, logsumexp) = softmax.finish(row);
            self.logsumexp[at] = logsumexp;
            for (out, sum) in self.out[at * head_dim..][..head_dim].iter_mut().zip(sums) {
                *out = X::from_f32(sum * inverse);
            }
        }
    }
}

/// Running maximum and sum of exponentials of every row of a panel.
struct Softmax {
    max: [f32; LANES],
    sum: [f32; LANES],
}

impl Softmax {
    #[inline(always)]
    fn new() -> Self {
        Softmax { max: [f32::NEG_INFINITY; LANES], sum: [0.0; LANES] }
    }

    /// Replaces a block of logits [keys, LANES] by `exp(logit - max)`, for the new maximum, and returns
    /// the factor by which earlier sums shrink.
    #[inline(always)]
    fn exponentiate(&mut self, logits: &mut [f32]) -> [f32; LANES] {
        let mut max = self.max;
        for logits in logits.chunks_exact(LANES) {
            for lane in 0..LANES {
                max[lane] = if logits[lane] > max[lane] { logits[lane] } else { max[lane] };
            }
        }
        // Before a row's first visible key the maximum is -inf, and -inf - -inf no number.
        let base = max.map(|max| if max == f32::NEG_INFINITY { 0.0 } else { max });
        let mut decay = [0.0; LANES];
        for lane in 0..LANES {
            decay[lane] = exp(self.max[lane] - base[lane]);
        }
        let mut sum = [0.0; LANES];
        for logits in logits.chunks_exact_mut(LANES) {
            for lane in 0..LANES {
                logits[lane] = exp(logits[lane] - base[lane]);
                sum[lane] += logits[lane];
            }
        }
        for lane in 0..LANES {
            self.sum[lane] = self.sum[lane].mul_add(decay[lane], sum[lane]);
        }
        self.max = max;
        decay
    }

    /// The reciprocal of a row's sum, 0 for a row that saw no key, and its logsumexp.
    #[inline(always)]
    fn finish(&self, row: usize) -> (f32, f32) {
        let (max, sum) = (self.max[row], self.sum[row]);
        if max == f32::NEG_INFINITY {
            return (0.0, f32::NEG_INFINITY);
        }
        // In f64, so that the rounded logarithm does not depend on the C library.
        (1.0 / sum, (f64::from(max) + f64::from(sum).ln()) as f32)
    }
}
