//! Transposition of small blocks in registers. Compilers make scalar moves of it, at a cost that shows
//! beside products of 128 columns; hence the instructions by name where the machine has AVX.

/// Elements of a row of a block.
pub(super) const BLOCK: usize = 8;

/// The best way of this machine.
#[derive(Clone, Copy)]
pub(super) struct Transposer {
    #[cfg(target_arch = "x86_64")]
    avx: Option<pulp::x86::V3>,
}

impl Transposer {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Transposer {
            #[cfg(target_arch = "x86_64")]
            avx: pulp::x86::V3::try_new(),
        }
    }

    /// `out[j · stride + i] = rows[i][j]`
    #[inline(always)]
    pub(super) fn write_columns(self, rows: [[f32; BLOCK]; 4], out: &mut [f32], stride: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = self.avx {
            // [0 4], [1 5], [2 6], [3 7]: two columns each.
            for (j, pair) in column_pairs(simd, rows).into_iter().enumerate() {
                out[j * stride..][..4].copy_from_slice(&pair[..4]);
                out[(j + 4) * stride..][..4].copy_from_slice(&pair[4..]);
            }
            return;
        }
        for j in 0..BLOCK {
            for (i, row) in rows.iter().enumerate() {
                out[j * stride + i] = row[j];
            }
        }
    }
}

/// Columns j and j + 4, for j < 4: within each half of the registers, pairs of rows are interleaved, then
/// pairs of pairs.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn column_pairs(simd: pulp::x86::V3, rows: [[f32; BLOCK]; 4]) -> [[f32; BLOCK]; 4] {
    let avx = simd.avx;
    let [a, b, c, d] = [pulp::cast(rows[0]), pulp::cast(rows[1]), pulp::cast(rows[2]), pulp::cast(rows[3])];
    // a0 b0 a1 b1 | a4 b4 a5 b5, and so on
    let (ab_low, ab_high) = (avx._mm256_unpacklo_ps(a, b), avx._mm256_unpackhi_ps(a, b));
    let (cd_low, cd_high) = (avx._mm256_unpacklo_ps(c, d), avx._mm256_unpackhi_ps(c, d));
    [
        pulp::cast(avx._mm256_shuffle_ps::<0b01_00_01_00>(ab_low, cd_low)),
        pulp::cast(avx._mm256_shuffle_ps::<0b11_10_11_10>(ab_low, cd_low)),
        pulp::cast(avx._mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high)),
        pulp::cast(avx._mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high)),
    ]
}
