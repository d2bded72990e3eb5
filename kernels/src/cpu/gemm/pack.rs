//! Copies of operands in the order in which [`super::tile`] reads them: panels of `WIDTH` rows of `a` or
//! columns of `b`, in each panel the `WIDTH` elements of one k beside each other, widened to f32. The last
//! panel is filled up with zeros.

use crate::Float;

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
    for (panel, out) in panels.chunks_exact_mut(kc * WIDTH).enumerate() {
        let first = first + panel * WIDTH;
        let count = count - panel * WIDTH;
        let row = |i: usize| &source.elements[(first + i) * source.row_len + first_k..][..kc];
        let mut i = 0;
        while i + 4 <= WIDTH.min(count) {
            four_rows::<T, WIDTH>([row(i), row(i + 1), row(i + 2), row(i + 3)], i, out);
            i += 4;
        }
        while i < WIDTH {
            for (k, out) in out.chunks_exact_mut(WIDTH).enumerate() {
                out[i] = if i < count { row(i)[k].to_f32() } else { 0.0 };
            }
            i += 1;
        }
    }
}

/// Writes elements `at .. at + 4` of every k of a panel.
#[inline(always)]
fn four_rows<T: Float, const WIDTH: usize>(rows: [&[T]; 4], at: usize, out: &mut [f32]) {
    let kc = rows[0].len();
    let whole = kc - kc % 8;
    let mut k = 0;
    while k < whole {
        let block: [[T; 8]; 4] = rows.map(|row| row[k..k + 8].try_into().expect("eight elements"));
        let out = &mut out[k * WIDTH..][..8 * WIDTH];
        for j in 0..8 {
            let column = block.map(|row| row[j].to_f32());
            out[j * WIDTH + at..][..4].copy_from_slice(&column);
        }
        k += 8;
    }
    while k < kc {
        for (i, row) in rows.iter().enumerate() {
            out[k * WIDTH + at + i] = row[k].to_f32();
        }
        k += 1;
    }
}

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
        let row = &source.elements[(first_k + k) * source.row_len + first..][..count];
        let mut at = k * WIDTH;
        let pieces = row.chunks_exact(WIDTH);
        let rest = pieces.remainder();
        for piece in pieces {
            let piece: [T; WIDTH] = piece.try_into().expect("one panel's width");
            panels[at..at + WIDTH].copy_from_slice(&piece.map(|x| x.to_f32()));
            at += kc * WIDTH;
        }
        if !rest.is_empty() {
            let out = &mut panels[at..at + WIDTH];
            out.fill(0.0);
            out.iter_mut().zip(rest).for_each(|(out, x)| *out = x.to_f32());
        }
    }
}
