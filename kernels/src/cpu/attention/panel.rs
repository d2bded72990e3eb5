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
    /// Query of the first row's token and index of its head in the group.
    first: (usize, usize),
    group: usize,
    first_head: usize,
    /// Per lane, the keys of the document that it sees; lanes without a row repeat the last one.
    begin: [u32; LANES],
    end: [u32; LANES],
}

impl Panel {
    /// The panel from row `start` of the rows of `queries`, for one key head.
    #[inline(always)]
    pub(super) fn new(
        shape: AttentionShape,
        document: &Document,
        queries: Range<usize>,
        kv_head: usize,
        start: usize,
    ) -> Self {
        let group = shape.group();
        let rows = (queries.len() * group - start).min(LANES);
        let first = (queries.start + start / group, start % group);
        let mut panel =
            Panel { rows, first, group, first_head: kv_head * group, begin: [0; LANES], end: [0; LANES] };
        for lane in 0..LANES {
            let (query, _) = panel.query_and_head(lane.min(rows - 1));
            let visible = document.visible(shape.window, query);
            (panel.begin[lane], panel.end[lane]) = (visible.start as u32, visible.end as u32);
        }
        panel
    }

    /// Query, counted from the document's first, and head of a row.
    #[inline(always)]
    pub(super) fn query_and_head(&self, row: usize) -> (usize, usize) {
        let (query, head) = self.first;
        let at = head + row;
        (query + at / self.group, self.first_head + at % self.group)
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
            for lane in 0..LANES {
                let visible = (self.begin[lane] <= key) & (key < self.end[lane]);
                logits[lane] = if visible { logits[lane] } else { f32::NEG_INFINITY };
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
            let (query, head) = self.query_and_head(row);
            let source = &source[(query * shape.num_heads + head) * head_dim..][..head_dim];
            for (packed, x) in packed.iter_mut().zip(source) {
                *packed = x.to_f32() * factor;
            }
        }
    }
}

/// `columns[d, lane] = rows[lane, d]`, from rows of the padded `head_dim` to rows of [`LANES`].
#[inline(always)]
pub(super) fn transpose(head_dim: usize, rows: &[f32], columns: &mut [f32]) {
    let width = padded(head_dim);
    for (d, column) in columns.chunks_exact_mut(LANES).take(head_dim).enumerate() {
        for lane in 0..LANES {
            column[lane] = rows[lane * width + d];
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
        for (packed, x) in packed.iter_mut().zip(source) {
            *packed = x.to_f32();
        }
    }
    Rows { data: tile, stride: padded(head_dim) }
}
