//! Matrix products on the host: row blocks whose height is a function of the shape, one task each.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::{Cpu, vectorized};
use crate::ops::Write;
use crate::ops::gemm::{GemmKernels, GemmShape, Layout};
use crate::{DType, Float, Result, TensorMut, TensorRef, match_float};

impl GemmKernels for Cpu {
    fn gemm(
        &self,
        layout: Layout,
        shape: GemmShape,
        a: TensorRef<'_, Self>,
        b: TensorRef<'_, Self>,
        bias: Option<TensorRef<'_, Self>>,
        write: Write,
        c: TensorMut<'_, Self>,
        workspace: TensorMut<'_, Self>,
    ) -> Result<()> {
        let mut rest = workspace.into_slice::<f32>();
        self.run(|| {
            let a = as_f32(a, &mut rest);
            let b = as_f32(b, &mut rest);
            if c.dtype() == DType::F32 {
                let c = c.into_slice::<f32>();
                multiply(layout, shape, a, b, write, c);
                if let Some(bias) = bias {
                    match_float!(bias.dtype(), B => add_bias(c, bias.as_slice::<B>()));
                }
            } else {
                multiply(layout, shape, a, b, Write::Replace, rest);
                if let Some(bias) = bias {
                    match_float!(bias.dtype(), B => add_bias(rest, bias.as_slice::<B>()));
                }
                match_float!(c.dtype(), C => narrow(rest, write, c.into_slice::<C>()));
            }
        });
        Ok(())
    }
}

/// The tensor's elements in f32: its own, or widened into the front of `workspace`, which is shortened.
fn as_f32<'a>(tensor: TensorRef<'a, Cpu>, workspace: &mut &'a mut [f32]) -> &'a [f32] {
    if tensor.dtype() == DType::F32 {
        return tensor.as_slice();
    }
    let (wide, rest) = std::mem::take(workspace).split_at_mut(tensor.len());
    *workspace = rest;
    match_float!(tensor.dtype(), T => {
        wide.par_chunks_mut(CHUNK).zip(tensor.as_slice::<T>().par_chunks(CHUNK)).for_each(|(wide, x)| {
            vectorized(|| wide.iter_mut().zip(x).for_each(|(wide, x)| *wide = x.to_f32()));
        });
    });
    wide
}

/// Elements per task of the elementwise passes.
const CHUNK: usize = 16 * 1024;

fn narrow<C: Float>(sum: &[f32], write: Write, c: &mut [C]) {
    c.par_chunks_mut(CHUNK).zip(sum.par_chunks(CHUNK)).for_each(|(c, sum)| {
        vectorized(|| match write {
            Write::Replace => c.iter_mut().zip(sum).for_each(|(c, s)| *c = C::from_f32(*s)),
            Write::Add => c.iter_mut().zip(sum).for_each(|(c, s)| *c = C::from_f32(c.to_f32() + s)),
        });
    });
}

fn add_bias<B: Float>(c: &mut [f32], bias: &[B]) {
    c.par_chunks_mut(bias.len().max(1)).for_each(|row| {
        vectorized(|| row.iter_mut().zip(bias).for_each(|(c, b)| *c += b.to_f32()));
    });
}

fn multiply(layout: Layout, shape: GemmShape, a: &[f32], b: &[f32], write: Write, c: &mut [f32]) {
    let GemmShape { m, n, k } = shape;
    if c.is_empty() {
        return;
    }
    let rows_per_task = if m >= 1024 { 256 } else { m.div_ceil(8) };
    let (a, b) = match layout {
        Layout::Nt => (MatRef::from_row_major_slice(a, m, k), MatRef::from_column_major_slice(b, k, n)),
        Layout::Nn => (MatRef::from_row_major_slice(a, m, k), MatRef::from_row_major_slice(b, k, n)),
        Layout::Tn => (MatRef::from_column_major_slice(a, m, k), MatRef::from_row_major_slice(b, k, n)),
    };
    let accumulate = if write == Write::Add { Accum::Add } else { Accum::Replace };
    c.par_chunks_mut(rows_per_task * n).enumerate().for_each(|(task, c)| {
        let rows = c.len() / n;
        let a = a.subrows(task * rows_per_task, rows);
        let c = MatMut::from_row_major_slice_mut(c, rows, n);
        matmul(c, accumulate, a, b, 1.0_f32, Par::Seq);
    });
}
