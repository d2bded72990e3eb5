//! The three matrix products of attention, on tiles in the first-level cache.
//!
//! Each keeps a micro-tile of rows × two vectors in registers and adds one outer product of a broadcast
//! column and a vector row after the other, in order, with fused multiply-adds: an element's sum has the
//! same order whatever the width of the registers. The vectors are explicit, since the compiler spills
//! such accumulators when it vectorises loops over arrays.

use pulp::Simd;

use super::{ALIGN, LANES};

/// Rows of a matrix in a larger buffer.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// The elements from row 0 on.
    pub(super) data: &'a [f32],
    /// Elements from one row to the next.
    pub(super) stride: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn row(self, row: usize, len: usize) -> &'a [f32] {
        &self.data[row * self.stride..][..len]
    }
}

/// Rows of micro-tiles on machines with many (32) vector registers, and rows of a group: tiles of others
/// divide it.
pub(super) const ROWS: usize = 8;

/// Rows of micro-tiles on machines with few (16) vector registers.
const FEW_ROWS: usize = 4;

/// `out[j, n] = sum_d a[j, d] · b[d, n]` for `j < rows` and `n < lanes`; `b` and `out` have rows of [`LANES`].
/// Rows of `out` are written up to the next multiple of [`ROWS`].
#[inline(always)]
pub(super) fn logits<S: Simd>(
    simd: S,
    a: Rows<'_>,
    rows: usize,
    depth: usize,
    b: &[f32],
    lanes: usize,
    out: &mut [f32],
) {
    if S::REGISTER_COUNT >= 32 {
        logits_by::<S, ROWS>(simd, a, rows, depth, b, lanes, out);
    } else {
        logits_by::<S, FEW_ROWS>(simd, a, rows, depth, b, lanes, out);
    }
}

#[inline(always)]
fn logits_by<S: Simd, const R: usize>(
    simd: S,
    a: Rows<'_>,
    rows: usize,
    depth: usize,
    b: &[f32],
    lanes: usize,
    out: &mut [f32],
) {
    for j in (0..rows).step_by(R) {
        // Past the last row its neighbours are repeated; their results are never read.
        let mut tile: [&[f32]; R] = [&[]; R];
        for (r, row) in tile.iter_mut().enumerate() {
            *row = a.row((j + r).min(rows - 1), depth);
        }
        let mut n = 0;
        while n < lanes {
            if n + 2 * S::F32_LANES <= lanes {
                let sums = by_rows::<S, R, 2>(simd, tile, depth, &b[n..], LANES);
                store::<S, R, 2>(&sums, &mut out[j * LANES + n..], LANES);
                n += 2 * S::F32_LANES;
            } else {
                let sums = by_rows::<S, R, 1>(simd, tile, depth, &b[n..], LANES);
                store::<S, R, 1>(&sums, &mut out[j * LANES + n..], LANES);
                n += S::F32_LANES;
            }
        }
    }
}

/// `out[i, d] = factor[i] · out[i, d] + sum_j a[j, i] · b[j, d]` for `i < rows`, `j < depth`, `d < width`.
/// `a` has rows of [`LANES`], `out` rows of `width`, a multiple of [`ALIGN`]. Rows of `out` are written up to
/// the next multiple of [`ROWS`].
#[inline(always)]
pub(super) fn mix<S: Simd>(
    simd: S,
    a: &[f32],
    rows: usize,
    depth: usize,
    b: Rows<'_>,
    width: usize,
    factor: &[f32; LANES],
    out: &mut [f32],
) {
    if S::REGISTER_COUNT >= 32 {
        mix_by::<S, ROWS>(simd, a, rows, depth, b, width, factor, out);
    } else {
        mix_by::<S, FEW_ROWS>(simd, a, rows, depth, b, width, factor, out);
    }
}

#[inline(always)]
fn mix_by<S: Simd, const R: usize>(
    simd: S,
    a: &[f32],
    rows: usize,
    depth: usize,
    b: Rows<'_>,
    width: usize,
    factor: &[f32; LANES],
    out: &mut [f32],
) {
    for i in (0..rows).step_by(R) {
        let factor = &factor[i..i + R];
        let mut d = 0;
        while d < width {
            let out = &mut out[i * width + d..];
            if d + 2 * S::F32_LANES <= width {
                let sums = by_columns::<S, R, 2>(simd, a, i, depth, &b.data[d..], b.stride);
                scale_add::<S, R, 2>(simd, &sums, factor, out, width);
                d += 2 * S::F32_LANES;
            } else {
                let sums = by_columns::<S, R, 1>(simd, a, i, depth, &b.data[d..], b.stride);
                scale_add::<S, R, 1>(simd, &sums, factor, out, width);
                d += S::F32_LANES;
            }
        }
    }
}

/// `out[j, d] += sum_i a[j, i] · b[i, d]` for `j < rows`, `i < depth`, `d < width`. `a` has rows of [`LANES`],
/// `b` of `width` padded to a multiple of [`ALIGN`], `out` of `out_stride`; nothing past `width` is written.
#[inline(always)]
pub(super) fn accumulate<S: Simd>(
    simd: S,
    a: &[f32],
    rows: usize,
    depth: usize,
    b: &[f32],
    width: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    if S::REGISTER_COUNT >= 32 {
        accumulate_by::<S, ROWS>(simd, a, rows, depth, b, width, out, out_stride);
    } else {
        accumulate_by::<S, FEW_ROWS>(simd, a, rows, depth, b, width, out, out_stride);
    }
}

#[inline(always)]
fn accumulate_by<S: Simd, const R: usize>(
    simd: S,
    a: &[f32],
    rows: usize,
    depth: usize,
    b: &[f32],
    width: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    let b_stride = width.next_multiple_of(ALIGN);
    let a = Rows { data: a, stride: LANES };
    for j in (0..rows).step_by(R) {
        let valid = R.min(rows - j);
        let mut tile: [&[f32]; R] = [&[]; R];
        for (r, row) in tile.iter_mut().enumerate() {
            *row = a.row(j + r.min(valid - 1), depth);
        }
        let mut d = 0;
        while d < width {
            let out = &mut out[j * out_stride + d..];
            if d + 2 * S::F32_LANES <= b_stride {
                let sums = by_rows::<S, R, 2>(simd, tile, depth, &b[d..], b_stride);
                add::<S, R, 2>(simd, &sums, valid, width - d, out, out_stride);
                d += 2 * S::F32_LANES;
            } else {
                let sums = by_rows::<S, R, 1>(simd, tile, depth, &b[d..], b_stride);
                add::<S, R, 1>(simd, &sums, valid, width - d, out, out_stride);
                d += S::F32_LANES;
            }
        }
    }
}

/// `sum_k a[r][k] · b[k · b_stride ..]`, R rows by V vectors.
#[inline(always)]
fn by_rows<S: Simd, const R: usize, const V: usize>(
    simd: S,
    mut a: [&[f32]; R],
    depth: usize,
    b: &[f32],
    b_stride: usize,
) -> [[S::f32s; V]; R] {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    // Loops, not `map` and `from_fn`: what those call is not inlined for certain.
    for row in &mut a {
        *row = &row[..depth];
    }
    for k in 0..depth {
        let b = S::as_simd_f32s(&b[k * b_stride..][..V * S::F32_LANES]).0;
        for r in 0..R {
            let a = simd.splat_f32s(a[r][k]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_f32s(a, b[v], sums[r][v]);
            }
        }
    }
    sums
}

/// `sum_k a[k · LANES + first + r] · b[k · b_stride ..]`, R rows by V vectors.
#[inline(always)]
fn by_columns<S: Simd, const R: usize, const V: usize>(
    simd: S,
    a: &[f32],
    first: usize,
    depth: usize,
    b: &[f32],
    b_stride: usize,
) -> [[S::f32s; V]; R] {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for (k, a) in a.as_chunks::<LANES>().0[..depth].iter().enumerate() {
        let b = S::as_simd_f32s(&b[k * b_stride..][..V * S::F32_LANES]).0;
        let a = &a[first..first + R];
        for r in 0..R {
            let a = simd.splat_f32s(a[r]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_f32s(a, b[v], sums[r][v]);
            }
        }
    }
    sums
}

#[inline(always)]
#[allow(clippy::manual_memcpy, reason = "a copy takes the sums' address, which puts them on the stack")]
fn store<S: Simd, const R: usize, const V: usize>(sums: &[[S::f32s; V]; R], out: &mut [f32], stride: usize) {
    for (r, sums) in sums.iter().enumerate() {
        let out = S::as_mut_simd_f32s(&mut out[r * stride..][..V * S::F32_LANES]).0;
        // Not `copy_from_slice`: the sums would leave their registers, which costs a third of the whole pass.
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = *sum;
        }
    }
}

/// `out = factor · out + sums`
#[inline(always)]
fn scale_add<S: Simd, const R: usize, const V: usize>(
    simd: S,
    sums: &[[S::f32s; V]; R],
    factor: &[f32],
    out: &mut [f32],
    stride: usize,
) {
    for (r, sums) in sums.iter().enumerate() {
        let out = S::as_mut_simd_f32s(&mut out[r * stride..][..V * S::F32_LANES]).0;
        let factor = simd.splat_f32s(factor[r]);
        for v in 0..V {
            out[v] = simd.mul_add_f32s(factor, out[v], sums[v]);
        }
    }
}

/// `out += sums` for the first `rows` rows and `width` columns.
#[inline(always)]
fn add<S: Simd, const R: usize, const V: usize>(
    simd: S,
    sums: &[[S::f32s; V]; R],
    rows: usize,
    width: usize,
    out: &mut [f32],
    stride: usize,
) {
    for (r, sums) in sums.iter().enumerate().take(rows) {
        let out = &mut out[r * stride..];
        if width >= V * S::F32_LANES {
            let out = S::as_mut_simd_f32s(&mut out[..V * S::F32_LANES]).0;
            for v in 0..V {
                out[v] = simd.add_f32s(out[v], sums[v]);
            }
        } else {
            let sums: &[f32] = bytemuck::cast_slice(sums);
            for (out, sum) in out[..width].iter_mut().zip(sums) {
                *out += sum;
            }
        }
    }
}
