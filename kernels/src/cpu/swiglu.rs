//! SwiGLU on the host: memory-bound, some rows per task.

use rayon::prelude::*;

use super::{Cpu, vectorize};
use crate::math::sigmoid;
use crate::ops::swiglu::{SwigluKernels, SwigluShape};
use crate::{Float, Result, TensorMut, TensorRef, match_float};

impl SwigluKernels for Cpu {
    fn swiglu_forward(
        &self,
        shape: SwigluShape,
        gate_up: TensorRef<'_, Self>,
        out: TensorMut<'_, Self>,
    ) -> Result<()> {
        match_float!(gate_up.dtype(), X => {
            let (gate_up, out) = (gate_up.as_slice::<X>(), out.into_slice::<X>());
            self.run(|| forward(shape, gate_up, out));
        });
        Ok(())
    }

    fn swiglu_backward(
        &self,
        shape: SwigluShape,
        gate_up: TensorRef<'_, Self>,
        dout: TensorRef<'_, Self>,
        dgate_up: TensorMut<'_, Self>,
    ) -> Result<()> {
        match_float!(gate_up.dtype(), X => {
            let (gate_up, dout) = (gate_up.as_slice::<X>(), dout.as_slice::<X>());
            let dgate_up = dgate_up.into_slice::<X>();
            self.run(|| backward(shape, gate_up, dout, dgate_up));
        });
        Ok(())
    }
}

/// Rows per task: amortises the task, still feeds many threads.
const ROWS_PER_TASK: usize = 16;

fn forward<X: Float>(shape: SwigluShape, gate_up: &[X], out: &mut [X]) {
    let width = shape.width;
    if width == 0 {
        return;
    }
    let tasks = gate_up.par_chunks(ROWS_PER_TASK * 2 * width).zip(out.par_chunks_mut(ROWS_PER_TASK * width));
    tasks.with_max_len(1).for_each(|(gate_up, out)| {
        for (row, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            vectorize!(forward_row(gate, up, out));
        }
    });
}

#[inline(always)]
fn forward_row<X: Float>(gate: &[X], up: &[X], out: &mut [X]) {
    for ((gate, up), out) in gate.iter().zip(up).zip(out) {
        let gate = gate.to_f32();
        *out = X::from_f32(gate * sigmoid(gate) * up.to_f32());
    }
}

fn backward<X: Float>(shape: SwigluShape, gate_up: &[X], dout: &[X], dgate_up: &mut [X]) {
    let width = shape.width;
    if width == 0 {
        return;
    }
    let pairs = ROWS_PER_TASK * 2 * width;
    let inputs = gate_up.par_chunks(pairs).zip(dout.par_chunks(ROWS_PER_TASK * width));
    inputs.zip(dgate_up.par_chunks_mut(pairs)).with_max_len(1).for_each(|((gate_up, dout), dgate_up)| {
        let inputs = gate_up.chunks_exact(2 * width).zip(dout.chunks_exact(width));
        for ((row, dout), drow) in inputs.zip(dgate_up.chunks_exact_mut(2 * width)) {
            let ((gate, up), (dgate, dup)) = (row.split_at(width), drow.split_at_mut(width));
            vectorize!(backward_row(gate, up, dout, dgate, dup));
        }
    });
}

#[inline(always)]
fn backward_row<X: Float>(gate: &[X], up: &[X], dout: &[X], dgate: &mut [X], dup: &mut [X]) {
    let inputs = gate.iter().zip(up).zip(dout);
    for (((gate, up), dout), (dgate, dup)) in inputs.zip(dgate.iter_mut().zip(dup)) {
        let (gate, up, dout) = (gate.to_f32(), up.to_f32(), dout.to_f32());
        let s = sigmoid(gate);
        *dgate = X::from_f32(dout * up * (s * gate.mul_add(1.0 - s, 1.0)));
        *dup = X::from_f32(dout * (gate * s));
    }
}
