//! `matrix · vector` for rows that run along k: what generation does with every weight. Each element is
//! read once, so the product runs at the speed of memory.

use rayon::prelude::*;

use super::super::{Cpu, LANES, vectorize};
use crate::ops::Write;
use crate::ops::gemm::GemmShape;
use crate::{Float, TensorMut, TensorRef, match_float};

/// `c = a · bᵀ (+ bias)` or `c += a · bᵀ` where `c` is one row or one column.
pub(super) fn product(
    shape: GemmShape,
    a: TensorRef<'_, Cpu>,
    b: TensorRef<'_, Cpu>,
    bias: Option<TensorRef<'_, Cpu>>,
    write: Write,
    c: TensorMut<'_, Cpu>,
) {
    let (matrix, vector) = if shape.m == 1 { (b, a) } else { (a, b) };
    match_float!(c.dtype(), C => {
        let c = c.into_slice::<C>();
        match_float!(matrix.dtype(), W => match_float!(vector.dtype(), X => {
            dots::<W, X, C>(matrix.as_slice(), vector.as_slice(), write, bias, c);
        }));
    });
}

/// Rows of the matrix per task.
const ROWS_PER_TASK: usize = 32;
/// Rows of the matrix at a time: enough independent sums to hide the latency of an addition.
const ROWS: usize = 4;

fn dots<W: Float, X: Float, C: Float>(
    matrix: &[W],
    vector: &[X],
    write: Write,
    bias: Option<TensorRef<'_, Cpu>>,
    c: &mut [C],
) {
    let k = vector.len();
    c.par_chunks_mut(ROWS_PER_TASK).enumerate().for_each(|(task, c)| {
        vectorize!({
            let mut first = task * ROWS_PER_TASK;
            for c in c.chunks_mut(ROWS) {
                let row = |r: usize| &matrix[(first + r) * k..][..k];
                let sums = if c.len() == ROWS {
                    dot_rows([row(0), row(1), row(2), row(3)], vector)
                } else {
                    let mut sums = [0.0; ROWS];
                    for (r, sum) in sums.iter_mut().enumerate().take(c.len()) {
                        [*sum] = dot_rows([row(r)], vector);
                    }
                    sums
                };
                for (r, (c, sum)) in c.iter_mut().zip(sums).enumerate() {
                    let before = match (write, bias) {
                        (Write::Add, _) => c.to_f32(),
                        (Write::Replace, Some(bias)) => bias_of(bias, first + r),
                        (Write::Replace, None) => 0.0,
                    };
                    *c = C::from_f32(before + sum);
                }
                first += ROWS;
            }
        });
    });
}

/// The bias of output `i`; one for all where `c` is a column.
#[inline(always)]
fn bias_of(bias: TensorRef<'_, Cpu>, i: usize) -> f32 {
    match_float!(bias.dtype(), B => bias.as_slice::<B>()[i.min(bias.len() - 1)].to_f32())
}

/// `sum_i rows[r][i] · vector[i]`: interleaved sums per row, then a pairwise tree over them.
#[inline(always)]
fn dot_rows<W: Float, X: Float, const R: usize>(rows: [&[W]; R], vector: &[X]) -> [f32; R] {
    let mut lanes = [[0.0_f32; LANES]; R];
    let k = vector.len();
    let whole = k - k % LANES;
    let mut i = 0;
    while i < whole {
        let x: &[X; LANES] = vector[i..i + LANES].try_into().expect("one element per lane");
        for r in 0..R {
            let w: &[W; LANES] = rows[r][i..i + LANES].try_into().expect("one element per lane");
            for lane in 0..LANES {
                lanes[r][lane] = w[lane].to_f32().mul_add(x[lane].to_f32(), lanes[r][lane]);
            }
        }
        i += LANES;
    }
    for lane in 0..k - whole {
        for r in 0..R {
            let (w, x) = (rows[r][whole + lane].to_f32(), vector[whole + lane].to_f32());
            lanes[r][lane] = w.mul_add(x, lanes[r][lane]);
        }
    }
    lanes.map(|mut lanes| {
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        lanes[0]
    })
}
