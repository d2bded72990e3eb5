//! `delta[i] = sum_j P[i, j] · dout[i] · v[j]`, which the softmax takes away from the gradients of row i.
//!
//! It equals `dout[i] · out[i]`, at a fraction of the cost. But `out` has been rounded, to bf16 perhaps, and
//! what a row's `delta` is off by does not cancel over its keys: it would drown small gradients, those of
//! biases and norms of queries and keys above all. Hence a pass of its own, over the very products that the
//! gradients are then made of.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::panel::Panel;
use super::recompute::{Inputs, Keys, Tiles};
use super::{Document, KEY_BLOCK, LANES, for_each_document};
use crate::Float;
use crate::cpu::scratch::with_scratch;
use crate::ops::attention::AttentionShape;

/// Queries per task.
const QUERY_BLOCK: usize = 32;

/// Writes `delta` [tokens, num_heads].
pub(super) fn run<X: Float>(
    shape: AttentionShape,
    inputs: Inputs<'_, X>,
    cu_q: &[u32],
    cu_k: &[u32],
    delta: &mut [f32],
) {
    let heads = shape.num_heads;
    for_each_document(
        cu_q,
        cu_k,
        delta,
        &|delta, queries, _| delta.split_at_mut(queries * heads),
        &|document, delta| {
            let blocks = delta.par_chunks_mut(QUERY_BLOCK * heads).enumerate().with_max_len(1);
            blocks.for_each(|(block, delta)| {
                let start = block * QUERY_BLOCK;
                let queries = start..start + delta.len() / heads;
                run_task(shape, inputs, &document, queries, delta);
            });
        },
    );
}

fn run_task<X: Float>(
    shape: AttentionShape,
    inputs: Inputs<'_, X>,
    document: &Document,
    queries: Range<usize>,
    delta: &mut [f32],
) {
    let len = Tiles::scratch_len(shape.head_dim) + Keys::scratch_len::<X>(shape.head_dim);
    with_scratch(len, &mut |scratch| {
        let (queries, delta) = (queries.clone(), &mut *delta);
        pulp::Arch::new().dispatch(Task { shape, inputs, document, queries, delta, scratch });
    });
}

/// Some queries of a document, and their rows of `delta`.
struct Task<'a, X> {
    shape: AttentionShape,
    inputs: Inputs<'a, X>,
    document: &'a Document,
    queries: Range<usize>,
    delta: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl<X: Float> WithSimd for Task<'_, X> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let shape = self.shape;
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut tiles = Tiles::new(shape.head_dim, &mut scratch);
        for kv_head in 0..shape.num_kv_heads {
            for start in (0..self.queries.len() * shape.group()).step_by(LANES) {
                let panel = Panel::new(shape, self.document, &self.queries, kv_head, start);
                let delta = self.run_panel(simd, kv_head, &panel, &mut tiles, scratch);
                for (&(query, head), delta) in panel.at.iter().zip(delta).take(panel.rows) {
                    self.delta[(query - self.queries.start) * shape.num_heads + head] = delta;
                }
            }
        }
    }
}

impl<X: Float> Task<'_, X> {
    #[inline(always)]
    fn run_panel<S: Simd>(
        &self,
        simd: S,
        kv_head: usize,
        panel: &Panel,
        tiles: &mut Tiles<'_>,
        scratch: &mut [f32],
    ) -> [f32; LANES] {
        let Task { shape, inputs, document, .. } = *self;
        tiles.pack(shape, inputs, document, panel);
        let (mut sums, mut weights) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let visible = panel.keys();
        for start in visible.clone().step_by(KEY_BLOCK) {
            let range = start..visible.end.min(start + KEY_BLOCK);
            let keys = Keys::read(shape, inputs, document, kv_head, range, scratch);
            tiles.recompute(simd, shape.head_dim, panel, &keys);
            let rows = tiles.probabilities.chunks_exact(LANES).zip(tiles.gradients.chunks_exact(LANES));
            for (probabilities, gradients) in rows.take(keys.range.len()) {
                for lane in 0..LANES {
                    sums[lane] = probabilities[lane].mul_add(gradients[lane], sums[lane]);
                    weights[lane] += probabilities[lane];
                }
            }
        }
        // Their sum is 1 but for the rounding of logsumexp, which all gradients of the row share.
        let mut delta = [0.0; LANES];
        for lane in 0..LANES {
            delta[lane] = if weights[lane] > 0.0 { sums[lane] / weights[lane] } else { 0.0 };
        }
        delta
    }
}
