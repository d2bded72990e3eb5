//! One panel of query rows: which rows, which keys they see, and how they are packed into tiles.

use std::ops::Range;

use super::tile::Rows;
use super::{ALIGN, Document, LANES, is_staged, padded};
use crate::Float;
use crate::ops::attention::AttentionShape;

/// Up to [`LANES`] rows (query, head) of one key head, queries outermost.
pub(super) struct Panel {
    /// Number of rows.
    pub(super) rows: usize,
    /// Query, counted from the document's first, and head of each row; lanes without a row repeat the last one.
    pub(super) at: [(usize, usize); LANES],
    /// Keys of the document that each lane sees.
    begin: [u32; LANES],
    end: [u32; LANES],
}

impl Panel {
    /// The panel from row `start` of the rows of `queries`, for one key head.
    #[inline(always)]
    pub(super) fn new(
        shape: AttentionShape,
        document: &Document,
        queries: &Range<usize>,
        kv_head: usize,
        start: usize,
    ) -> Self {
        let group = shape.group();
        let rows = (queries.len() * group - start).min(LANES);
        let mut panel = Panel { rows, at: [(0, 0); LANES], begin: [0; LANES], end: [0; LANES] };
        let (mut query, mut head) = (queries.start + start / group, start % group);
        for lane in 0..LANES {
            let visible = document.visible(shape.window, query);
            panel.at[lane] = (query, kv_head * group + head);
            (panel.begin[lane], panel.end[lane]) = (visible.start as u32, visible.end as u32);
            if lane + 1 < rows {
                head += 1;
                (query, head) = if head == group { (query + 1, 0) } else { (query, head) };
            }
        }
        panel
    }

    /// Keys that any row sees.
    #[inline(always)]
    pub(super) fn keys(&self) -> Range<usize> {
        self.begin[0] as usize..self.end[self.rows - 1] as usize
    }

    /// Lanes to compute: whole vectors, one or two of the widest.
    #[inline(always)]
    pub(super) fn lanes(&self) -> usize {
        self.rows.next_multiple_of(ALIGN)
    }

    /// Sets the logits of keys that a row does not see to minus infinity; `logits` has a row of lanes for
    /// each of `keys`.
    #[inline(always)]
    pub(super) fn mask(&self, keys: Range<usize>, logits: &mut [f32]) {
        let all_visible =
            keys.end <= self.end[0] as usize && keys.start >= self.begin[self.rows - 1] as usize;
        if all_visible {
            return;
        }
        for (key, logits) in keys.zip(logits.chunks_exact_mut(LANES)) {
            let key = key as u32;
            for (logit, (begin, end)) in logits.iter_mut().zip(self.begin.iter().zip(&self.end)) {
                let visible = (*begin <= key) & (key < *end);
                *logit = if visible { *logit } else { f32::NEG_INFINITY };
            }
        }
    }

    /// Copies the panel's rows of `source` [queries, num_heads, head_dim], times `factor`, to `rows`
    /// [LANES, padded head_dim]; lanes without a row become 0.
    #[inline(always)]
    pub(super) fn pack<X: Float>(&self, shape: AttentionShape, source: &[X], factor: f32, rows: &mut [f32]) {
        let head_dim = shape.head_dim;
        for (row, packed) in rows.chunks_exact_mut(padded(head_dim)).enumerate() {
            if row >= self.rows {
                packed.fill(0.0);
                continue;
            }
            let (query, head) = self.at[row];
            let source = &source[(query * shape.num_heads + head) * head_dim..][..head_dim];
            widen(source, factor, packed);
        }
    }
}

/// The rows `keys` of one head of `source` [tokens, num_kv_heads, head_dim] as f32: in place where that is
/// possible, else copied to `tile` and padded with zeros.
#[inline(always)]
pub(super) fn key_rows<'a, X: Float>(
    shape: AttentionShape,
    source: &'a [X],
    keys: Range<usize>,
    kv_head: usize,
    tile: &'a mut [f32],
) -> Rows<'a> {
    let (head_dim, stride) = (shape.head_dim, shape.num_kv_heads * shape.head_dim);
    let first = keys.start * stride + kv_head * head_dim;
    if !is_staged::<X>(head_dim) {
        return Rows { data: bytemuck::cast_slice(&source[first..]), stride };
    }
    for (row, packed) in tile.chunks_exact_mut(padded(head_dim)).take(keys.len()).enumerate() {
        let source = &source[first + row * stride..][..head_dim];
        widen(source, 1.0, packed);
    }
    Rows { data: tile, stride: padded(head_dim) }
}

/// `target[i] = factor · source[i]`; `target` may be longer.
#[inline(always)]
fn widen<X: Float>(source: &[X], factor: f32, target: &mut [f32]) {
    let (chunks, rest) = source.as_chunks::<ALIGN>();
    let (target, last) = target.split_at_mut(chunks.len() * ALIGN);
    for (source, target) in chunks.iter().zip(target.as_chunks_mut::<ALIGN>().0) {
        for i in 0..ALIGN {
            target[i] = source[i].to_f32() * factor;
        }
    }
    for (source, target) in rest.iter().zip(last) {
        *target = source.to_f32() * factor;
    }
}
