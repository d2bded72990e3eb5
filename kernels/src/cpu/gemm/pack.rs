//! Copies of operands in the order in which [`super::tile`] reads them: panels of `WIDTH` rows of `a` or
//! columns of `b`, in each panel the `WIDTH` elements of one k beside each other, widened to f32. The last
//! panel is filled up with zeros.

use super::super::simd::prefetch;
use super::transpose::{BLOCK, Transposer};
use crate::{DType, Float};

/// A row-major matrix.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a, T> {
    pub(super) elements: &'a [T],
    pub(super) row_len: usize,
}

/// Packs rows `first .. first + count` of a matrix whose rows run along k, from `first_k`: a transposition.
#[inline(always)]
pub(super) fn along<T: Float, const WIDTH: usize>(
    source: Operand<'_, T>,
    first: usize,
    count: usize,
    first_k: usize,
    kc: usize,
    panels: &mut [f32],
) {
    let transposer = Transposer::new();
    for (panel, out) in panels.chunks_exact_mut(kc * WIDTH).enumerate() {
        let first = first + panel * WIDTH;
        let count = WIDTH.min(count - panel * WIDTH);
        let row = |i: usize| &source.elements[(first + i) * source.row_len + first_k..][..kc];
        let whole = if count == WIDTH { kc - kc % BLOCK } else { 0 };
        // Block by block of k, so that the lines written are whole before they leave the cache.
        for (block, out) in out[..whole * WIDTH].chunks_exact_mut(BLOCK * WIDTH).enumerate() {
            let ks = block * BLOCK..(block + 1) * BLOCK;
            for i in (0..WIDTH).step_by(4) {
                let rows = [
                    widen(&row(i)[ks.clone()]),
                    widen(&row(i + 1)[ks.clone()]),
                    widen(&row(i + 2)[ks.clone()]),
                    widen(&row(i + 3)[ks.clone()]),
                ];
                transposer.write_columns(rows, &mut out[i..], WIDTH);
            }
        }
        for (k, out) in out.chunks_exact_mut(WIDTH).enumerate().skip(whole) {
            for (i, out) in out.iter_mut().enumerate() {
                *out = if i < count { row(i)[k].to_f32() } else { 0.0 };
            }
        }
    }
}

#[inline(always)]
fn widen<T: Float>(x: &[T]) -> [f32; BLOCK] {
    let mut wide = [0.0; BLOCK];
    for (wide, x) in wide.iter_mut().zip(x) {
        *wide = x.to_f32();
    }
    wide
}

/// Copies `WIDTH` elements. Where there is nothing to widen it says so, since the compiler would move them
/// one by one.
#[inline(always)]
fn widen_into<T: Float, const WIDTH: usize>(x: &[T], out: &mut [f32]) {
    if T::DTYPE == DType::F32 {
        out[..WIDTH].copy_from_slice(&bytemuck::cast_slice(x)[..WIDTH]);
    } else {
        out[..WIDTH].iter_mut().zip(&x[..WIDTH]).for_each(|(out, x)| *out = x.to_f32());
    }
}

/// How many rows ahead [`across`] asks for their lines.
const ROWS_AHEAD: usize = 8;
const LINE_BYTES: usize = 64;

/// Packs columns `first .. first + count` of a matrix whose rows are k, from row `first_k`.
#[inline(always)]
pub(super) fn across<T: Float, const WIDTH: usize>(
    source: Operand<'_, T>,
    first: usize,
    count: usize,
    first_k: usize,
    kc: usize,
    panels: &mut [f32],
) {
    for k in 0..kc {
        // Rows lie pages apart, so that the processor does not foresee them.
        let ahead = (first_k + k + ROWS_AHEAD) * source.row_len + first;
        for line in (0..count).step_by(LINE_BYTES / size_of::<T>()) {
            prefetch(source.elements, ahead + line);
        }
        let row = &source.elements[(first_k + k) * source.row_len + first..][..count];
        let mut at = k * WIDTH;
        let pieces = row.chunks_exact(WIDTH);
        let rest = pieces.remainder();
        for piece in pieces {
            widen_into::<T, WIDTH>(piece, &mut panels[at..at + WIDTH]);
            at += kc * WIDTH;
        }
        if !rest.is_empty() {
            let (out, padding) = panels[at..at + WIDTH].split_at_mut(rest.len());
            out.iter_mut().zip(rest).for_each(|(out, x)| *out = x.to_f32());
            padding.fill(0.0);
        }
    }
}
