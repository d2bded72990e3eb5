//! Rotary position embedding (Su et al., arXiv:2104.09864) in the rotate-half convention: element i of a
//! head's first half and element i of its second half are one plane, turned by `position · frequency[i]`.
//!
//! Cosines and sines come from a [`table`] made once on the host; positions index its rows.

use std::f64::consts::PI;

use crate::{Context, Cost, DType, Device, KernelError, Result, Storage, TensorMut, TensorRef};

/// How rotary frequencies are changed for longer contexts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum RopeScaling {
    /// Not changed.
    None,
    /// Frequencies, hence positions, divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, a smooth passage between.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are scaled fully.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of the original model.
        original_max_position_embeddings: usize,
    },
}

/// Extents of one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RopeShape {
    /// Rows of `x`.
    pub tokens: usize,
    /// Heads per token, each turned by the same angles.
    pub heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
}

/// The way to turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// By the angle.
    Forward,
    /// By its negative: the transpose of a rotation, hence its gradient.
    Backward,
}

/// Device side of this family. Arguments have been checked by the functions below.
pub trait RopeKernels: Storage {
    /// See [`forward`] and [`backward`].
    fn rope(
        &self,
        shape: RopeShape,
        turn: Turn,
        positions: TensorRef<'_, Self>,
        table: TensorRef<'_, Self>,
        x: TensorMut<'_, Self>,
    ) -> Result<()>;
}

/// Frequencies in radians per token, `head_dim / 2` of them: `theta^(-2 i / head_dim)`, then scaled.
///
/// Every step is rounded to f32, in the order of the Hugging Face implementation (transformers,
/// `modeling_rope_utils.py`): at position p an error of one unit in the last place here turns by p units
/// there, so that only equal frequencies give equal logits.
pub fn inverse_frequencies(head_dim: usize, theta: f64, scaling: &RopeScaling) -> Vec<f32> {
    let plain = (0..head_dim).step_by(2).map(|i| {
        let exponent = i as f32 / head_dim as f32;
        1.0 / f64::from(theta as f32).powf(f64::from(exponent)) as f32
    });
    plain.map(|frequency| scale_frequency(frequency, scaling)).collect()
}

fn scale_frequency(frequency: f32, scaling: &RopeScaling) -> f32 {
    match *scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor as f32,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let original = original_max_position_embeddings as f64;
            let wavelength = (2.0 * PI) as f32 / frequency;
            if wavelength > (original / low_freq_factor) as f32 {
                return frequency / factor as f32;
            }
            if wavelength < (original / high_freq_factor) as f32 {
                return frequency;
            }
            let smooth = (original as f32 / wavelength - low_freq_factor as f32)
                / (high_freq_factor - low_freq_factor) as f32;
            (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
        }
    }
}

/// Cosines and sines of `position · frequency` for the positions below `max_positions`, as
/// [max_positions, head_dim]: the first half of a row are the cosines, the second half the sines.
///
/// The angle is an f32 product, as in Hugging Face; its cosine and sine are evaluated in f64 and rounded.
pub fn table(head_dim: usize, theta: f64, scaling: &RopeScaling, max_positions: usize) -> Vec<f32> {
    let frequencies = inverse_frequencies(head_dim, theta, scaling);
    let mut table = Vec::with_capacity(max_positions * head_dim);
    for position in 0..max_positions {
        let angles = frequencies.iter().map(|frequency| f64::from(position as f32 * frequency));
        table.extend(angles.clone().map(|angle| angle.cos() as f32));
        table.extend(angles.map(|angle| angle.sin() as f32));
    }
    table
}

/// Turns every head of `x` in place. With `c`, `s` from the table's row of the token's position and
/// (a, b) the element i of the two halves:
/// `a' = fma(a, c, -(b · s))`, `b' = fma(b, c, a · s)`, in f32, rounded to the storage type.
///
/// Shapes: `positions` `[tokens]` u32, each below max_positions (the caller's promise: values are not
/// checked here); `table` [max_positions, head_dim] f32 as made by [`table`]; `x` [tokens, heads, head_dim]
/// f32 or bf16.
pub fn forward<D: Device>(
    ctx: &Context<D>,
    positions: TensorRef<'_, D>,
    table: TensorRef<'_, D>,
    x: TensorMut<'_, D>,
) -> Result<()> {
    run("rope::forward", ctx, Turn::Forward, positions, table, x)
}

/// Gradient of [`forward`], in place on the gradient of its result: the same with `s` negated.
///
/// Shapes as in [`forward`].
pub fn backward<D: Device>(
    ctx: &Context<D>,
    positions: TensorRef<'_, D>,
    table: TensorRef<'_, D>,
    dx: TensorMut<'_, D>,
) -> Result<()> {
    run("rope::backward", ctx, Turn::Backward, positions, table, dx)
}

fn run<D: Device>(
    op: &'static str,
    ctx: &Context<D>,
    turn: Turn,
    positions: TensorRef<'_, D>,
    table: TensorRef<'_, D>,
    x: TensorMut<'_, D>,
) -> Result<()> {
    let argument = if turn == Turn::Forward { "x" } else { "dx" };
    let [tokens, heads, head_dim] = x.dims(op, argument)?;
    x.expect_float(op, argument)?;
    if head_dim % 2 != 0 {
        let message = format!("head_dim = {head_dim} is not even");
        return Err(KernelError::Parameter { op, message });
    }
    positions.expect(op, "positions", &[tokens])?;
    positions.expect_dtype(op, "positions", DType::U32)?;
    let [max_positions, _] = table.dims(op, "table")?;
    table.expect(op, "table", &[max_positions, head_dim])?;
    table.expect_dtype(op, "table", DType::F32)?;
    let read = positions.size_bytes() + tokens.min(max_positions) * head_dim * 4;
    let bytes = 2 * x.as_ref().size_bytes() + read;
    ctx.device.record(Cost { op, flops: 3 * x.len() as u64, bytes: bytes as u64 });
    ctx.device.rope(RopeShape { tokens, heads, head_dim }, turn, positions, table, x)
}

/// The definition in f64.
pub mod reference {
    use super::{RopeShape, Turn};

    /// Returns the turned `x`; `table` as in [`super::table`].
    pub fn rope(shape: RopeShape, turn: Turn, positions: &[u32], table: &[f64], x: &[f64]) -> Vec<f64> {
        let RopeShape { heads, head_dim, .. } = shape;
        let half = head_dim / 2;
        let mut out = x.to_vec();
        for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
            let row = &table[positions[head / heads] as usize * head_dim..][..head_dim];
            for i in 0..half {
                let (cos, sin) = (row[i], if turn == Turn::Forward { row[half + i] } else { -row[half + i] });
                let (a, b) = (out[i], out[half + i]);
                (out[i], out[half + i]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
        out
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::ops::check_gradient;
        use crate::ops::rope::{RopeScaling, table};
        use crate::testing::normal_f64;

        #[test]
        fn backward_equals_central_differences() {
            let shape = RopeShape { tokens: 3, heads: 2, head_dim: 6 };
            let table: Vec<f64> =
                table(6, 1e4, &RopeScaling::None, 9).iter().map(|&v| f64::from(v)).collect();
            let (x, dout, positions) = (normal_f64(1, 36), normal_f64(2, 36), [0, 8, 5]);
            let dx = rope(shape, Turn::Backward, &positions, &table, &dout);
            check_gradient("dx", &x, &dx, |x| {
                let out = rope(shape, Turn::Forward, &positions, &table, x);
                out.iter().zip(&dout).map(|(y, d)| y * d).sum()
            });
        }
    }
}
