//! Root-mean-square normalisation, alone and fused with the residual addition before it.
//!
//! `out[r, w] = x[r, w] · rstd[r] · weight[w]` with `rstd[r] = 1 / sqrt(mean_w x[r, w]² + eps)`
//! (Zhang and Sennrich, arXiv:1910.07467). Rows are tokens, or tokens × heads for norms per head.
//! Arithmetic is f32 whatever the storage; `rstd` is f32.

use super::{Write, partial_rows};
use crate::{Context, Cost, DType, Device, Result, Storage, TensorMut, TensorRef};

/// Extents of one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RmsNormShape {
    /// Rows normalised independently.
    pub rows: usize,
    /// Elements per row.
    pub width: usize,
}

/// Device side of this family. Arguments have been checked by the functions below.
pub trait RmsNormKernels: Storage {
    /// See [`forward`].
    fn rms_norm_forward(
        &self,
        shape: RmsNormShape,
        eps: f32,
        x: TensorRef<'_, Self>,
        weight: TensorRef<'_, Self>,
        out: TensorMut<'_, Self>,
        rstd: TensorMut<'_, Self>,
    ) -> Result<()>;

    /// See [`add_forward`].
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
    ) -> Result<()>;

    /// See [`backward`]. `partials` has [`partial_rows`]`(rows)` × width f32 elements.
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
    ) -> Result<()>;
}

/// Normalises every row of `x`.
///
/// Shapes: `x`, `out` [rows, width] f32 or bf16, equal; `weight` `[width]` f32 or bf16; `rstd` `[rows]` f32.
pub fn forward<D: Device>(
    ctx: &Context<D>,
    eps: f32,
    x: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
    out: TensorMut<'_, D>,
    rstd: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "rms_norm::forward";
    let shape = check_inputs(OP, x, weight)?;
    check_like_x(OP, "out", x, out.as_ref())?;
    check_rstd(OP, shape, rstd.as_ref())?;
    let elements = (shape.rows * shape.width) as u64;
    let bytes = x.size_bytes() + weight.size_bytes() + out.as_ref().size_bytes() + rstd.as_ref().size_bytes();
    ctx.device.record(Cost { op: OP, flops: 4 * elements, bytes: bytes as u64 });
    ctx.device.rms_norm_forward(shape, eps, x, weight, out, rstd)
}

/// `sum = x + residual`, then [`forward`] of `sum`. The sum is rounded to its storage type before it is
/// normalised, so the fused op has the bits of the two plain ones.
///
/// Shapes: `x`, `residual`, `sum`, `out` [rows, width] of one dtype; `weight` `[width]`; `rstd` `[rows]` f32.
pub fn add_forward<D: Device>(
    ctx: &Context<D>,
    eps: f32,
    x: TensorRef<'_, D>,
    residual: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
    sum: TensorMut<'_, D>,
    out: TensorMut<'_, D>,
    rstd: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "rms_norm::add_forward";
    let shape = check_inputs(OP, x, weight)?;
    check_like_x(OP, "residual", x, residual)?;
    check_like_x(OP, "sum", x, sum.as_ref())?;
    check_like_x(OP, "out", x, out.as_ref())?;
    check_rstd(OP, shape, rstd.as_ref())?;
    let elements = (shape.rows * shape.width) as u64;
    let bytes = 4 * x.size_bytes() + weight.size_bytes() + rstd.as_ref().size_bytes();
    ctx.device.record(Cost { op: OP, flops: 5 * elements, bytes: bytes as u64 });
    ctx.device.add_rms_norm_forward(shape, eps, x, residual, weight, sum, out, rstd)
}

/// Gradients of [`forward`]: with `g = dout · weight`,
/// `dx = rstd · (g - x · rstd² · mean_w(g · x))` replaces `dx` or is added to it (the residual's gradient
/// is then already there), and `dweight[w] += sum_r dout[r, w] · x[r, w] · rstd[r]`.
///
/// Shapes as in [`forward`]; `dx` like `x`; `dweight` `[width]` f32. The sum over rows adds partial sums of
/// [`ROWS_PER_PARTIAL`](super::ROWS_PER_PARTIAL) rows in order.
pub fn backward<D: Device>(
    ctx: &Context<D>,
    dout: TensorRef<'_, D>,
    x: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
    rstd: TensorRef<'_, D>,
    write: Write,
    dx: TensorMut<'_, D>,
    dweight: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "rms_norm::backward";
    let shape = check_inputs(OP, x, weight)?;
    check_like_x(OP, "dout", x, dout)?;
    check_like_x(OP, "dx", x, dx.as_ref())?;
    check_rstd(OP, shape, rstd)?;
    dweight.expect(OP, "dweight", &[shape.width])?;
    dweight.expect_dtype(OP, "dweight", DType::F32)?;
    let elements = (shape.rows * shape.width) as u64;
    let passes = if write == Write::Add { 4 } else { 3 };
    let bytes = passes * x.size_bytes() + weight.size_bytes() + rstd.size_bytes() + 8 * shape.width;
    ctx.device.record(Cost { op: OP, flops: 10 * elements, bytes: bytes as u64 });
    let partial_rows = partial_rows(shape.rows);
    let mut partials = ctx.arena.block(crate::Class::Workspace, DType::F32, partial_rows * shape.width)?;
    let partials = partials.view_mut([partial_rows, shape.width]);
    ctx.device.rms_norm_backward(shape, dout, x, weight, rstd, write, dx, dweight, partials)
}

fn check_inputs<D: Device>(
    op: &'static str,
    x: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
) -> Result<RmsNormShape> {
    let [rows, width] = x.dims(op, "x")?;
    x.expect_float(op, "x")?;
    weight.expect(op, "weight", &[width])?;
    weight.expect_float(op, "weight")?;
    Ok(RmsNormShape { rows, width })
}

fn check_like_x<D: Device>(
    op: &'static str,
    argument: &'static str,
    x: TensorRef<'_, D>,
    other: TensorRef<'_, D>,
) -> Result<()> {
    other.expect(op, argument, x.shape().dims())?;
    other.expect_dtype(op, argument, x.dtype())
}

fn check_rstd<D: Device>(op: &'static str, shape: RmsNormShape, rstd: TensorRef<'_, D>) -> Result<()> {
    rstd.expect(op, "rstd", &[shape.rows])?;
    rstd.expect_dtype(op, "rstd", DType::F32)
}

/// The definition in f64, one row after the other.
pub mod reference {
    use super::RmsNormShape;

    /// Returns (out, rstd).
    pub fn forward(shape: RmsNormShape, eps: f64, x: &[f64], weight: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let mut out = Vec::with_capacity(x.len());
        let mut rstds = Vec::with_capacity(shape.rows);
        for row in x.chunks_exact(shape.width) {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / shape.width as f64;
            let rstd = 1.0 / (mean + eps).sqrt();
            out.extend(row.iter().zip(weight).map(|(x, w)| x * rstd * w));
            rstds.push(rstd);
        }
        (out, rstds)
    }

    /// Returns (dx, dweight).
    pub fn backward(
        shape: RmsNormShape,
        dout: &[f64],
        x: &[f64],
        weight: &[f64],
        rstd: &[f64],
    ) -> (Vec<f64>, Vec<f64>) {
        let width = shape.width;
        let mut dx = vec![0.0; x.len()];
        let mut dweight = vec![0.0; width];
        for r in 0..shape.rows {
            let row = r * width..(r + 1) * width;
            let (dout, x, dx, rstd) = (&dout[row.clone()], &x[row.clone()], &mut dx[row], rstd[r]);
            let dot: f64 = (0..width).map(|w| dout[w] * weight[w] * x[w]).sum();
            for w in 0..width {
                dx[w] = rstd * (dout[w] * weight[w] - x[w] * rstd * rstd * dot / width as f64);
                dweight[w] += dout[w] * x[w] * rstd;
            }
        }
        (dx, dweight)
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::ops::check_gradient;
        use crate::testing::normal_f64;

        #[test]
        fn backward_equals_central_differences() {
            let shape = RmsNormShape { rows: 3, width: 5 };
            let (x, weight) = (normal_f64(1, 15), normal_f64(2, 5));
            let dout = normal_f64(3, 15);
            let loss = |x: &[f64], weight: &[f64]| -> f64 {
                forward(shape, 1e-5, x, weight).0.iter().zip(&dout).map(|(y, d)| y * d).sum()
            };
            let rstd = forward(shape, 1e-5, &x, &weight).1;
            let (dx, dweight) = backward(shape, &dout, &x, &weight, &rstd);
            check_gradient("dx", &x, &dx, |x| loss(x, &weight));
            check_gradient("dweight", &weight, &dweight, |weight| loss(&x, weight));
        }
    }
}
