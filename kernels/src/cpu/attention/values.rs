//! Values as the backward pass reads them: in f32, less a vector that all keys of a document share.
//!
//! The softmax does not see what all of a row's gradients `dout · v[j]` have in common, but their rounding
//! errors do grow with it. Where values are mostly a bias, little else would be left of small gradients.

use rayon::prelude::*;

use super::{Document, for_each_document};
use crate::Float;
use crate::cpu::vectorize;
use crate::ops::attention::AttentionShape;

/// Keys per task.
const KEYS_PER_TASK: usize = 128;

/// Keys whose mean is taken away: enough to know a bias from what comes and goes.
const SAMPLE: usize = 16;

/// `centred[j] = v[j] - mean(v of the document's first keys)`, head by head; both
/// [tokens, num_kv_heads, head_dim].
pub(super) fn centre<X: Float>(
    shape: AttentionShape,
    v: &[X],
    cu_q: &[u32],
    cu_k: &[u32],
    centred: &mut [f32],
) {
    let row = shape.num_kv_heads * shape.head_dim;
    for_each_document(
        cu_q,
        cu_k,
        centred,
        &|centred, _, keys| centred.split_at_mut(keys * row),
        &|document, centred| centre_document(shape, v, &document, centred),
    );
}

fn centre_document<X: Float>(shape: AttentionShape, v: &[X], document: &Document, centred: &mut [f32]) {
    let row = shape.num_kv_heads * shape.head_dim;
    let v = &v[document.keys.start * row..document.keys.end * row];
    let sample = &v[..SAMPLE.min(document.keys.len()) * row];
    let piece = KEYS_PER_TASK * row;
    v.par_chunks(piece).zip(centred.par_chunks_mut(piece)).with_max_len(1).for_each(|(v, centred)| {
        vectorize!({
            for head in (0..row).step_by(shape.head_dim) {
                let mean = mean(sample, row, head, shape.head_dim);
                for (v, centred) in v.chunks_exact(row).zip(centred.chunks_exact_mut(row)) {
                    let (v, centred) = (&v[head..][..shape.head_dim], &mut centred[head..][..shape.head_dim]);
                    for ((centred, v), mean) in centred.iter_mut().zip(v).zip(&mean) {
                        *centred = v.to_f32() - mean;
                    }
                }
            }
        });
    });
}

/// Mean of the rows of `sample`, elements `first .. first + len`.
#[inline(always)]
fn mean<X: Float>(sample: &[X], row: usize, first: usize, len: usize) -> [f32; AttentionShape::MAX_HEAD_DIM] {
    let mut mean = [0.0; AttentionShape::MAX_HEAD_DIM];
    for v in sample.chunks_exact(row) {
        for (sum, v) in mean.iter_mut().zip(&v[first..][..len]) {
            *sum += v.to_f32();
        }
    }
    let factor = 1.0 / (sample.len() / row) as f32;
    mean.map(|sum| sum * factor)
}
