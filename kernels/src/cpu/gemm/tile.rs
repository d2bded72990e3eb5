//! The innermost loops of a product: tiles of `c` that fit the registers, over one block of k.

use std::cell::RefCell;

use pulp::{Simd, WithSimd};

use super::super::simd::{prefetch, prefetch_near, prefetch_to_write};
use super::{MAX_KC, MAX_TASK_ROWS, MR, NR};

/// Calls `work` with this thread's room for the packed rows of a task: `len` elements of any value.
///
/// It belongs to the thread, since clearing as much of the stack for each task costs some percent of the
/// smaller products, and to no arena, since its size there would depend on the number of threads.
pub(super) fn with_panels<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    #[repr(align(64))]
    struct Panels([f32; MAX_TASK_ROWS * MAX_KC]);
    thread_local! {
        static PANELS: RefCell<Panels> = const { RefCell::new(Panels([0.0; MAX_TASK_ROWS * MAX_KC])) };
    }
    PANELS.with_borrow_mut(|panels| work(&mut panels.0[..len]))
}

/// Elements of a cache line.
const LINE: usize = 16;
/// How many terms ahead of its use a row of a panel of `b` is asked for.
const TERMS_AHEAD: usize = 8;

/// One task's rows of `c` and one block of k: `c[rows, columns] (+)= a · b`.
pub(super) struct RowBlock<'a> {
    /// Terms of each sum.
    pub(super) kc: usize,
    /// Panels [kc, MR].
    pub(super) a: &'a [f32],
    /// Panels [kc, NR].
    pub(super) b: &'a [f32],
    /// Rows of `row_len` elements, the first `columns` of which are written.
    pub(super) c: &'a mut [f32],
    pub(super) row_len: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Whether the sums replace what is there.
    pub(super) replace: bool,
}

impl WithSimd for RowBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Sub-tiles of 24 accumulators where there are 32 registers, else of 12.
        if S::REGISTER_COUNT >= 32 {
            self.tiles::<S, MR, 2>(simd);
        } else {
            self.tiles::<S, { MR / 2 }, 2>(simd);
        }
    }
}

impl RowBlock<'_> {
    /// All tiles: a panel of `b` stays near the core while the panels of `a` pass by.
    #[inline(always)]
    fn tiles<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S) {
        let width = VECTORS * S::F32_LANES;
        let panel_len = self.kc * NR;
        for (j, b) in self.b.chunks_exact(panel_len).enumerate() {
            for (i, a) in self.a.chunks_exact(self.kc * MR).enumerate() {
                for row in (0..MR).step_by(ROWS) {
                    for column in (0..NR).step_by(width) {
                        // One line of the next panel for each k: the first two tiles fetch all of it.
                        let ahead = &self.b[((j + 1) * panel_len + i * self.kc * LINE).min(self.b.len())..];
                        let first = (i * MR + row) * self.row_len + j * NR + column;
                        for line in 0..ROWS * VECTORS {
                            let (row, vector) = (line / VECTORS, line % VECTORS);
                            prefetch_to_write(self.c, first + row * self.row_len + vector * S::F32_LANES);
                        }
                        let sums = sums::<S, ROWS, VECTORS>(simd, a, row, b, column, ahead);
                        let (row, column) = (i * MR + row, j * NR + column);
                        if row < self.rows && column < self.columns {
                            let rows = ROWS.min(self.rows - row);
                            let columns = width.min(self.columns - column);
                            let c = &mut self.c[row * self.row_len + column..];
                            store(simd, &sums, c, self.row_len, rows, columns, self.replace);
                        }
                    }
                }
            }
        }
    }
}

/// `sum_k a[k, row + r] · b[k, column + v]`, one term after the other.
#[inline(always)]
fn sums<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    a: &[f32],
    row: usize,
    b: &[f32],
    column: usize,
    ahead: &[f32],
) -> [[S::f32s; VECTORS]; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    for (k, (a, b)) in a.chunks_exact(MR).zip(b.chunks_exact(NR)).enumerate() {
        prefetch(ahead, k * LINE);
        // A panel of `b` is as large as the first-level cache, parts of it are always gone.
        for v in 0..VECTORS {
            prefetch_near(b, TERMS_AHEAD * NR + column + v * LINE);
        }
        let (a, b) = (&a[row..row + ROWS], &b[column..column + VECTORS * S::F32_LANES]);
        let b = S::as_simd_f32s(b).0;
        for r in 0..ROWS {
            let a = simd.splat_f32s(a[r]);
            for v in 0..VECTORS {
                sums[r][v] = simd.mul_add_f32s(a, b[v], sums[r][v]);
            }
        }
    }
    sums
}

/// Writes the first `rows` × `columns` sums, or adds them.
#[inline(always)]
fn store<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    sums: &[[S::f32s; VECTORS]; ROWS],
    c: &mut [f32],
    row_len: usize,
    rows: usize,
    columns: usize,
    replace: bool,
) {
    if rows == ROWS && columns == VECTORS * S::F32_LANES {
        // Loops of constant length, or the sums would leave their registers to be indexed.
        for r in 0..ROWS {
            let c = S::as_mut_simd_f32s(&mut c[r * row_len..][..VECTORS * S::F32_LANES]).0;
            for v in 0..VECTORS {
                c[v] = if replace { sums[r][v] } else { simd.add_f32s(c[v], sums[r][v]) };
            }
        }
        return;
    }
    for (r, sums) in sums.iter().enumerate().take(rows) {
        for (c, &sums) in c[r * row_len..][..columns].chunks_mut(S::F32_LANES).zip(sums) {
            let before = if replace { simd.splat_f32s(0.0) } else { simd.partial_load_f32s(c) };
            simd.partial_store_f32s(c, simd.add_f32s(before, sums));
        }
    }
}
