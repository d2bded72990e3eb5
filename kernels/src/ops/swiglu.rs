//! The gate of the feed-forward layer (Shazeer, arXiv:2002.05202):
//! `out[t, i] = silu(gate[t, i]) · up[t, i]` with `silu(x) = x · sigmoid(x)`.
//!
//! Gate and up come from one projection and lie side by side in a row. Arithmetic is f32 whatever the storage.

use crate::{Context, Cost, Device, KernelError, Result, Storage, TensorMut, TensorRef};

/// Extents of one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SwigluShape {
    /// Rows.
    pub tokens: usize,
    /// Elements of `out` per row; rows of `gate_up` have twice as many.
    pub width: usize,
}

/// Device side of this family. Arguments have been checked by the functions below.
pub trait SwigluKernels: Storage {
    /// See [`forward`].
    fn swiglu_forward(
        &self,
        shape: SwigluShape,
        gate_up: TensorRef<'_, Self>,
        out: TensorMut<'_, Self>,
    ) -> Result<()>;

    /// See [`backward`].
    fn swiglu_backward(
        &self,
        shape: SwigluShape,
        gate_up: TensorRef<'_, Self>,
        dout: TensorRef<'_, Self>,
        dgate_up: TensorMut<'_, Self>,
    ) -> Result<()>;
}

/// `out = silu(gate) · up`.
///
/// Shapes: `gate_up` [tokens, 2 · width], gate before up; `out` [tokens, width] of the same dtype, f32 or bf16.
pub fn forward<D: Device>(ctx: &Context<D>, gate_up: TensorRef<'_, D>, out: TensorMut<'_, D>) -> Result<()> {
    const OP: &str = "swiglu::forward";
    let shape = check_gate_up(OP, gate_up)?;
    check_half(OP, "out", shape, gate_up, out.as_ref())?;
    let elements = (shape.tokens * shape.width) as u64;
    let bytes = gate_up.size_bytes() + out.as_ref().size_bytes();
    ctx.device.record(Cost { op: OP, flops: 5 * elements, bytes: bytes as u64 });
    ctx.device.swiglu_forward(shape, gate_up, out)
}

/// Gradient of [`forward`], from its input. With `s = sigmoid(gate)`:
/// `dgate = dout · up · s · (1 + gate · (1 - s))`, `dup = dout · gate · s`. Both are replaced.
///
/// Shapes as in [`forward`]; `dout` like `out`, `dgate_up` like `gate_up`.
pub fn backward<D: Device>(
    ctx: &Context<D>,
    gate_up: TensorRef<'_, D>,
    dout: TensorRef<'_, D>,
    dgate_up: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "swiglu::backward";
    let shape = check_gate_up(OP, gate_up)?;
    check_half(OP, "dout", shape, gate_up, dout)?;
    dgate_up.expect(OP, "dgate_up", gate_up.shape().dims())?;
    dgate_up.expect_dtype(OP, "dgate_up", gate_up.dtype())?;
    let elements = (shape.tokens * shape.width) as u64;
    let bytes = 2 * gate_up.size_bytes() + dout.size_bytes();
    ctx.device.record(Cost { op: OP, flops: 11 * elements, bytes: bytes as u64 });
    ctx.device.swiglu_backward(shape, gate_up, dout, dgate_up)
}

fn check_gate_up<D: Device>(op: &'static str, gate_up: TensorRef<'_, D>) -> Result<SwigluShape> {
    let [tokens, both] = gate_up.dims(op, "gate_up")?;
    gate_up.expect_float(op, "gate_up")?;
    if both % 2 != 0 {
        return Err(KernelError::Shape {
            op,
            argument: "gate_up",
            got: gate_up.shape(),
            expected: "an even number of columns, gate and up".into(),
        });
    }
    Ok(SwigluShape { tokens, width: both / 2 })
}

fn check_half<D: Device>(
    op: &'static str,
    argument: &'static str,
    shape: SwigluShape,
    gate_up: TensorRef<'_, D>,
    half: TensorRef<'_, D>,
) -> Result<()> {
    half.expect(op, argument, &[shape.tokens, shape.width])?;
    half.expect_dtype(op, argument, gate_up.dtype())
}

/// The definition in f64.
pub mod reference {
    use super::SwigluShape;

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    /// Returns out.
    pub fn forward(shape: SwigluShape, gate_up: &[f64]) -> Vec<f64> {
        let mut out = Vec::with_capacity(shape.tokens * shape.width);
        for row in gate_up.chunks_exact(2 * shape.width) {
            let (gate, up) = row.split_at(shape.width);
            out.extend(gate.iter().zip(up).map(|(g, u)| g * sigmoid(*g) * u));
        }
        out
    }

    /// Returns dgate_up.
    pub fn backward(shape: SwigluShape, gate_up: &[f64], dout: &[f64]) -> Vec<f64> {
        let width = shape.width;
        let mut dgate_up = vec![0.0; gate_up.len()];
        for t in 0..shape.tokens {
            let row = t * 2 * width..(t + 1) * 2 * width;
            let ((gate, up), dout) = (gate_up[row.clone()].split_at(width), &dout[t * width..]);
            let (dgate, dup) = dgate_up[row].split_at_mut(width);
            for i in 0..width {
                let s = sigmoid(gate[i]);
                dgate[i] = dout[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
                dup[i] = dout[i] * gate[i] * s;
            }
        }
        dgate_up
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::ops::check_gradient;
        use crate::testing::normal_f64;

        #[test]
        fn backward_equals_central_differences() {
            let shape = SwigluShape { tokens: 3, width: 5 };
            let (gate_up, dout) = (normal_f64(1, 30), normal_f64(2, 15));
            let dgate_up = backward(shape, &gate_up, &dout);
            check_gradient("dgate_up", &gate_up, &dgate_up, |gate_up| {
                forward(shape, gate_up).iter().zip(&dout).map(|(y, d)| y * d).sum()
            });
        }
    }
}
