//! Attention on the host.
//!
//! A *panel* is up to [`LANES`] query rows (token, head) of one key head; the panel's rows lie along the
//! lanes of vectors, so that the softmax of many rows proceeds at once and keys and values are read in
//! place, element by element, as the broadcast factors of [`tile`]'s products. Rows of the heads that share
//! a key head are neighbours in a panel: decoding one token fills a panel with its heads.
//!
//! Documents, blocks of queries and panels are functions of the shape and of the bounds alone. A document's
//! bits do not depend on what else lies in the buffer.

mod backward;
mod delta;
mod forward;
mod panel;
mod recompute;
mod tile;
mod transpose;
mod values;

use std::ops::Range;

use super::Cpu;
use crate::ops::attention::{AttentionKernels, AttentionShape};
use crate::{Float, Result, TensorMut, TensorRef, match_float};

/// Query rows per panel: two vectors of the widest registers.
const LANES: usize = 32;

/// Keys per block of the running softmax: a block of logits stays in the first-level cache.
const KEY_BLOCK: usize = 64;

/// Tile widths are padded to this many elements: one vector of the widest registers.
const ALIGN: usize = 16;

impl AttentionKernels for Cpu {
    fn attention_forward(
        &self,
        shape: AttentionShape,
        q: TensorRef<'_, Self>,
        k: TensorRef<'_, Self>,
        v: TensorRef<'_, Self>,
        cu_seqlens_q: TensorRef<'_, Self>,
        cu_seqlens_k: TensorRef<'_, Self>,
        out: TensorMut<'_, Self>,
        logsumexp: TensorMut<'_, Self>,
        by_token: TensorMut<'_, Self>,
    ) -> Result<()> {
        let (cu_q, cu_k) = (cu_seqlens_q.as_slice(), cu_seqlens_k.as_slice());
        check_bounds(cu_q, q.shape().dims()[0]);
        check_bounds(cu_k, k.shape().dims()[0]);
        match_float!(q.dtype(), X => {
            let inputs = forward::Inputs { q: q.as_slice::<X>(), k: k.as_slice(), v: v.as_slice() };
            let (out, logsumexp) = (out.into_slice::<X>(), logsumexp.into_slice());
            let by_token = by_token.into_slice();
            self.run(|| forward::run(shape, inputs, cu_q, cu_k, out, logsumexp, by_token));
        });
        Ok(())
    }

    fn attention_backward(
        &self,
        shape: AttentionShape,
        q: TensorRef<'_, Self>,
        k: TensorRef<'_, Self>,
        v: TensorRef<'_, Self>,
        cu_seqlens_q: TensorRef<'_, Self>,
        cu_seqlens_k: TensorRef<'_, Self>,
        logsumexp: TensorRef<'_, Self>,
        dout: TensorRef<'_, Self>,
        dq: TensorMut<'_, Self>,
        dk: TensorMut<'_, Self>,
        dv: TensorMut<'_, Self>,
        workspace: TensorMut<'_, Self>,
    ) -> Result<()> {
        let (cu_q, cu_k) = (cu_seqlens_q.as_slice(), cu_seqlens_k.as_slice());
        check_bounds(cu_q, q.shape().dims()[0]);
        check_bounds(cu_k, k.shape().dims()[0]);
        match_float!(q.dtype(), X => {
            let inputs = [q, k, v, dout].map(|input| input.as_slice::<X>());
            let gradients = [dq, dk, dv].map(|gradient| gradient.into_slice::<X>());
            let (logsumexp, workspace) = (logsumexp.as_slice(), workspace.into_slice());
            self.run(|| backward::run(shape, inputs, logsumexp, cu_q, cu_k, gradients, workspace));
        });
        Ok(())
    }
}

fn check_bounds(cu_seqlens: &[u32], tokens: usize) {
    let fits = cu_seqlens.first() == Some(&0)
        && cu_seqlens.last().is_some_and(|&last| last as usize == tokens)
        && cu_seqlens.is_sorted();
    assert!(fits, "bounds of documents start at 0, never decrease and end at {tokens}: {cu_seqlens:?}");
}

/// One document: its rows of `q` and of `k`.
#[derive(Clone)]
struct Document {
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Document {
    /// The keys that query `i` sees, counted from the document's first.
    fn visible(&self, window: Option<usize>, i: usize) -> Range<usize> {
        let end = (i + 1 + self.keys.len()).saturating_sub(self.queries.len());
        end.saturating_sub(window.unwrap_or(usize::MAX))..end
    }
}

/// Calls `each` for every document that is not empty, in parallel, with its share of `parts`;
/// `split(parts, queries, keys)` cuts after so many of both.
fn for_each_document<P: Send>(
    cu_q: &[u32],
    cu_k: &[u32],
    parts: P,
    split: &(impl Fn(P, usize, usize) -> (P, P) + Sync),
    each: &(impl Fn(Document, P) + Sync),
) {
    let documents = cu_q.len() - 1;
    let [queries, keys] = [cu_q, cu_k].map(|cu| cu[0] as usize..cu[documents] as usize);
    if queries.is_empty() && keys.is_empty() {
        return;
    }
    if documents == 1 {
        return each(Document { queries, keys }, parts);
    }
    let middle = documents / 2;
    let [first_queries, first_keys] = [cu_q, cu_k].map(|cu| (cu[middle] - cu[0]) as usize);
    let (first, second) = split(parts, first_queries, first_keys);
    rayon::join(
        || for_each_document(&cu_q[..=middle], &cu_k[..=middle], first, split, each),
        || for_each_document(&cu_q[middle..], &cu_k[middle..], second, split, each),
    );
}

/// Elements of a head in tiles: padded, so that whole vectors can be read.
fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(ALIGN)
}

/// Whether keys and values must be copied into f32 tiles, or are read in place.
fn is_staged<X: Float>(head_dim: usize) -> bool {
    X::DTYPE != crate::DType::F32 || !head_dim.is_multiple_of(ALIGN)
}
