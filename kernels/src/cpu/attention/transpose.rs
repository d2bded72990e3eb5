//! Rows of a panel to columns, eight by eight in registers: element by element the copies would cost a
//! tenth of the whole pass.

use super::{LANES, padded};

/// `columns[d, lane] = rows[lane, d]`, from [LANES, padded head_dim] to [padded head_dim, LANES]; columns
/// past `head_dim` may be left as they are.
#[inline(always)]
pub(super) fn transpose(head_dim: usize, rows: &[f32], columns: &mut [f32]) {
    let width = padded(head_dim);
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        for d in (0..head_dim).step_by(x86::SIDE) {
            for lane in (0..LANES).step_by(x86::SIDE) {
                let (rows, columns) = (&rows[lane * width + d..], &mut columns[d * LANES + lane..]);
                x86::transpose_square(simd, rows, width, columns, LANES);
            }
        }
        return;
    }
    for (d, column) in columns.chunks_exact_mut(LANES).take(head_dim).enumerate() {
        for lane in 0..LANES {
            column[lane] = rows[lane * width + d];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::__m256;

    use bytemuck::cast;
    use pulp::x86::V3;

    /// Rows and columns of a square: elements of an AVX register.
    pub(super) const SIDE: usize = 8;

    /// Transposes a square; strides are elements from row to row.
    #[inline(always)]
    pub(super) fn transpose_square(
        simd: V3,
        source: &[f32],
        source_stride: usize,
        target: &mut [f32],
        target_stride: usize,
    ) {
        let avx = simd.avx;
        let mut rows = [cast::<_, __m256>([0.0_f32; SIDE]); SIDE];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = bytemuck::pod_read_unaligned(bytemuck::cast_slice(&source[i * source_stride..][..SIDE]));
        }
        // Runs of a column grow to pairs, to quadruples, to whole rows.
        combine(&mut rows, 1, |a, b| (avx._mm256_unpacklo_ps(a, b), avx._mm256_unpackhi_ps(a, b)));
        combine(&mut rows, 2, |a, b| {
            let (a, b) = (cast(a), cast(b));
            (cast(avx._mm256_unpacklo_pd(a, b)), cast(avx._mm256_unpackhi_pd(a, b)))
        });
        combine(&mut rows, 4, |a, b| {
            (avx._mm256_permute2f128_ps::<0x20>(a, b), avx._mm256_permute2f128_ps::<0x31>(a, b))
        });
        // The first two stages leave the middle rows of each half swapped.
        for (i, row) in [0, 2, 1, 3, 4, 6, 5, 7].into_iter().enumerate() {
            target[i * target_stride..][..SIDE].copy_from_slice(&cast::<_, [f32; SIDE]>(rows[row]));
        }
    }

    /// Replaces the rows i and i + distance by what `f` makes of them, for every i without that bit.
    #[inline(always)]
    fn combine(rows: &mut [__m256; SIDE], distance: usize, f: impl Fn(__m256, __m256) -> (__m256, __m256)) {
        for i in 0..SIDE {
            if i & distance == 0 {
                (rows[i], rows[i + distance]) = f(rows[i], rows[i + distance]);
            }
        }
    }
}
