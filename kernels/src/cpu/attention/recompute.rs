//! What the backward pass computes again instead of keeping it: the probabilities of a panel for a block of
//! keys, and with them the gradients of these probabilities.

use std::ops::Range;

use pulp::Simd;

use super::panel::{Panel, key_rows};
use super::tile::{Rows, logits};
use super::transpose::transpose;
use super::{Document, KEY_BLOCK, LANES, is_staged, padded};
use crate::Float;
use crate::cpu::scratch::take;
use crate::math::exp;
use crate::ops::attention::AttentionShape;

/// Inputs of the backward pass, of the whole buffer.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a, X> {
    pub(super) q: &'a [X],
    pub(super) k: &'a [X],
    pub(super) dout: &'a [X],
    /// See [`super::values`].
    pub(super) values: &'a [f32],
    pub(super) logsumexp: &'a [f32],
}

/// Some keys of a document, for one head.
pub(super) struct Keys<'a> {
    /// Counted from the document's first.
    pub(super) range: Range<usize>,
    pub(super) k: Rows<'a>,
    pub(super) values: Rows<'a>,
}

impl<'a> Keys<'a> {
    /// Elements of the scratch of [`Keys::read`].
    pub(super) fn scratch_len<X: Float>(head_dim: usize) -> usize {
        if is_staged::<X>(head_dim) { 2 * KEY_BLOCK * padded(head_dim) } else { 0 }
    }

    /// The keys `range`, in place or by way of `scratch`.
    #[inline(always)]
    pub(super) fn read<X: Float>(
        shape: AttentionShape,
        inputs: Inputs<'a, X>,
        document: &Document,
        kv_head: usize,
        range: Range<usize>,
        scratch: &'a mut [f32],
    ) -> Self {
        let rows = document.keys.start + range.start..document.keys.start + range.end;
        let (k_tile, v_tile) = scratch.split_at_mut(scratch.len() / 2);
        Keys {
            range,
            k: key_rows(shape, inputs.k, rows.clone(), kv_head, k_tile),
            values: key_rows(shape, inputs.values, rows, kv_head, v_tile),
        }
    }
}

/// Tiles of one panel. Rows are [LANES, padded head_dim], columns [padded head_dim, LANES].
pub(super) struct Tiles<'a> {
    /// Queries times the scale of the logits.
    pub(super) q: &'a mut [f32],
    q_columns: &'a mut [f32],
    pub(super) dout: &'a mut [f32],
    dout_columns: &'a mut [f32],
    /// [KEY_BLOCK, LANES]
    pub(super) probabilities: &'a mut [f32],
    /// [KEY_BLOCK, LANES]; `dout · values`.
    pub(super) gradients: &'a mut [f32],
    logsumexp: [f32; LANES],
}

impl<'a> Tiles<'a> {
    /// Elements of the scratch of [`Tiles::new`].
    pub(super) fn scratch_len(head_dim: usize) -> usize {
        LANES * (4 * padded(head_dim) + 2 * KEY_BLOCK)
    }

    /// Cuts the tiles off `scratch`.
    #[inline(always)]
    pub(super) fn new(head_dim: usize, scratch: &mut &'a mut [f32]) -> Self {
        let rows = LANES * padded(head_dim);
        Tiles {
            q: take(scratch, rows),
            q_columns: take(scratch, rows),
            dout: take(scratch, rows),
            dout_columns: take(scratch, rows),
            probabilities: take(scratch, KEY_BLOCK * LANES),
            gradients: take(scratch, KEY_BLOCK * LANES),
            logsumexp: [f32::INFINITY; LANES],
        }
    }

    /// Packs a panel's queries, output gradients and logsumexp.
    #[inline(always)]
    pub(super) fn pack<X: Float>(
        &mut self,
        shape: AttentionShape,
        inputs: Inputs<'_, X>,
        document: &Document,
        panel: &Panel,
    ) {
        let (first, row_len) = (document.queries.start, shape.num_heads * shape.head_dim);
        panel.pack(shape, &inputs.q[first * row_len..], shape.scale(), self.q);
        panel.pack(shape, &inputs.dout[first * row_len..], 1.0, self.dout);
        transpose(shape.head_dim, self.q, self.q_columns);
        transpose(shape.head_dim, self.dout, self.dout_columns);
        let tokens = inputs.logsumexp.len() / shape.num_heads;
        // Probabilities of lanes without a row, and of rows that see no key, become exp(-inf) = 0.
        self.logsumexp = [f32::INFINITY; LANES];
        for (logsumexp, (query, head)) in self.logsumexp.iter_mut().zip(panel.at).take(panel.rows) {
            let log = inputs.logsumexp[head * tokens + first + query];
            *logsumexp = if log == f32::NEG_INFINITY { f32::INFINITY } else { log };
        }
    }

    /// The packed panel's probabilities for `keys`, and their gradients.
    #[inline(always)]
    pub(super) fn recompute<S: Simd>(&mut self, simd: S, head_dim: usize, panel: &Panel, keys: &Keys<'_>) {
        let (count, lanes) = (keys.range.len(), panel.lanes());
        logits(simd, keys.k, count, head_dim, self.q_columns, lanes, self.probabilities);
        logits(simd, keys.values, count, head_dim, self.dout_columns, lanes, self.gradients);
        panel.mask(keys.range.clone(), self.probabilities);
        for logits in self.probabilities.chunks_exact_mut(LANES).take(count) {
            for (logit, logsumexp) in logits.iter_mut().zip(&self.logsumexp) {
                *logit = exp(*logit - logsumexp);
            }
        }
    }
}
