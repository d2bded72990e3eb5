//! RMS norm on the host: a few rows per task; one row's sums in fixed lanes.

use rayon::prelude::*;

use super::{Cpu, add_partials, lane_sum_of, lane_sum_of_three, vectorize};
use crate::ops::rms_norm::{RmsNormKernels, RmsNormShape};
use crate::ops::{ROWS_PER_PARTIAL, Write};
use crate::{Float, Result, TensorMut, TensorRef, match_float};

impl RmsNormKernels for Cpu {
    fn rms_norm_forward(
        &self,
        shape: RmsNormShape,
        eps: f32,
        x: TensorRef<'_, Self>,
        weight: TensorRef<'_, Self>,
        out: TensorMut<'_, Self>,
        rstd: TensorMut<'_, Self>,
    ) -> Result<()> {
        match_float!(x.dtype(), X => match_float!(weight.dtype(), W => {
            let (x, weight) = (x.as_slice::<X>(), weight.as_slice::<W>());
            let (out, rstd) = (out.into_slice::<X>(), rstd.into_slice::<f32>());
            self.run(|| forward(shape, eps, x, weight, out, rstd));
        }));
        Ok(())
    }

    fn add_rms_norm_forward(
        &self,
        shape: RmsNormShape,
        eps: f32,
        x: TensorRef<'_, Self>,
        residual: TensorRef<'_, Self>,
        weight: TensorRef<'_, Self>,
        sum: TensorMut<'_, Self>,
        out: TensorMut<'_, Self>,
        rstd: TensorMut<'_, Self>,
    ) -> Result<()> {
        match_float!(x.dtype(), X => match_float!(weight.dtype(), W => {
            let (x, residual, weight) = (x.as_slice::<X>(), residual.as_slice::<X>(), weight.as_slice::<W>());
            let (sum, out, rstd) = (sum.into_slice::<X>(), out.into_slice::<X>(), rstd.into_slice::<f32>());
            self.run(|| add_forward(shape, eps, x, residual, weight, sum, out, rstd));
        }));
        Ok(())
    }

    fn rms_norm_backward(
        &self,
        shape: RmsNormShape,
        dout: TensorRef<'_, Self>,
        x: TensorRef<'_, Self>,
        weight: TensorRef<'_, Self>,
        rstd: TensorRef<'_, Self>,
        write: Write,
        dx: TensorMut<'_, Self>,
        dweight: TensorMut<'_, Self>,
        partials: TensorMut<'_, Self>,
    ) -> Result<()> {
        match_float!(x.dtype(), X => match_float!(weight.dtype(), W => {
            let (dout, x, weight) = (dout.as_slice::<X>(), x.as_slice::<X>(), weight.as_slice::<W>());
            let (dx, dweight) = (dx.into_slice::<X>(), dweight.into_slice::<f32>());
            let (rstd, partials) = (rstd.as_slice::<f32>(), partials.into_slice::<f32>());
            self.run(|| backward(shape, dout, x, weight, rstd, write, dx, dweight, partials));
        }));
        Ok(())
    }
}

/// Rows per task: amortises the task, still feeds many threads.
const ROWS_PER_TASK: usize = 16;

fn forward<X: Float, W: Float>(
    shape: RmsNormShape,
    eps: f32,
    x: &[X],
    weight: &[W],
    out: &mut [X],
    rstd: &mut [f32],
) {
    let piece = ROWS_PER_TASK * shape.width;
    x.par_chunks(piece).zip(out.par_chunks_mut(piece)).zip(rstd.par_chunks_mut(ROWS_PER_TASK)).for_each(
        |((x, out), rstd)| {
            vectorize!({
                let rows = x.chunks_exact(shape.width).zip(out.chunks_exact_mut(shape.width));
                for ((x, out), rstd) in rows.zip(rstd) {
                    *rstd = normalize_row(eps, x, weight, out);
                }
            });
        },
    );
}

fn add_forward<X: Float, W: Float>(
    shape: RmsNormShape,
    eps: f32,
    x: &[X],
    residual: &[X],
    weight: &[W],
    sum: &mut [X],
    out: &mut [X],
    rstd: &mut [f32],
) {
    let width = shape.width;
    let piece = ROWS_PER_TASK * width;
    let inputs = x.par_chunks(piece).zip(residual.par_chunks(piece));
    let outputs = sum.par_chunks_mut(piece).zip(out.par_chunks_mut(piece));
    inputs.zip(outputs).zip(rstd.par_chunks_mut(ROWS_PER_TASK)).for_each(
        |(((x, residual), (sum, out)), rstd)| {
            vectorize!({
                for (row, rstd) in rstd.iter_mut().enumerate() {
                    let row = row * width..(row + 1) * width;
                    let (x, residual, sum) = (&x[row.clone()], &residual[row.clone()], &mut sum[row.clone()]);
                    for ((sum, x), residual) in sum.iter_mut().zip(x).zip(residual) {
                        *sum = X::from_f32(x.to_f32() + residual.to_f32());
                    }
                    *rstd = normalize_row(eps, sum, weight, &mut out[row]);
                }
            });
        },
    );
}

/// Writes the normalised row and returns its rstd.
#[inline(always)]
fn normalize_row<X: Float, W: Float>(eps: f32, x: &[X], weight: &[W], out: &mut [X]) -> f32 {
    let sum_of_squares = lane_sum_of(x, |x| x.to_f32() * x.to_f32());
    let rstd = 1.0 / (sum_of_squares / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = X::from_f32(x.to_f32() * rstd * weight.to_f32());
    }
    rstd
}

fn backward<X: Float, W: Float>(
    shape: RmsNormShape,
    dout: &[X],
    x: &[X],
    weight: &[W],
    rstd: &[f32],
    write: Write,
    dx: &mut [X],
    dweight: &mut [f32],
    partials: &mut [f32],
) {
    let width = shape.width;
    let piece = ROWS_PER_PARTIAL * width;
    let inputs = dout.par_chunks(piece).zip(x.par_chunks(piece)).zip(rstd.par_chunks(ROWS_PER_PARTIAL));
    inputs.zip(dx.par_chunks_mut(piece)).zip(partials.par_chunks_mut(width)).for_each(
        |((((dout, x), rstd), dx), partial)| {
            vectorize!({
                partial.fill(0.0);
                for (row, &rstd) in rstd.iter().enumerate() {
                    let row = row * width..(row + 1) * width;
                    let (dout, x, dx) = (&dout[row.clone()], &x[row.clone()], &mut dx[row]);
                    backward_row(dout, x, weight, rstd, write, dx, partial);
                }
            });
        },
    );
    add_partials(partials, dweight);
}

#[inline(always)]
fn backward_row<X: Float, W: Float>(
    dout: &[X],
    x: &[X],
    weight: &[W],
    rstd: f32,
    write: Write,
    dx: &mut [X],
    dweight: &mut [f32],
) {
    let width = x.len();
    // Equal lengths that the compiler sees: the loop below checks no index.
    let (dout, weight, dx, dweight) =
        (&dout[..width], &weight[..width], &mut dx[..width], &mut dweight[..width]);
    let dot = lane_sum_of_three(dout, weight, x, |d, w, x| d.to_f32() * w.to_f32() * x.to_f32());
    let pull = rstd * rstd * rstd * dot / width as f32;
    for w in 0..width {
        let (d, x) = (dout[w].to_f32(), x[w].to_f32());
        let gradient = rstd * (d * weight[w].to_f32()) - x * pull;
        let before = if write == Write::Add { dx[w].to_f32() } else { 0.0 };
        dx[w] = X::from_f32(before + gradient);
        dweight[w] += d * x * rstd;
    }
}
