//! Matrix products on the host, in the manner of Goto and van de Geijn (ACM TOMS 34(3), 2008):
//!
//! - `b` is copied into panels of [`NR`] columns by all threads ([`pack`]), at most
//!   [`PACKED_LEN`](crate::ops::gemm::PACKED_LEN) elements at a time;
//! - each task owns some rows of `c`, copies its rows of `a` into panels of [`MR`] rows, one block of k
//!   after the other, and multiplies panel by panel ([`tile`]).
//!
//! An element of `c` is the sum, in order, of one partial sum per block of k, each of which one register
//! lane adds up term by term. Blocks of k depend on k alone, so bits depend neither on threads nor on
//! rows per task, panel sizes or instruction set. Products of a matrix and a vector, where copying would
//! cost more than multiplying, are in [`vector`].

mod pack;
mod tile;
mod transpose;
mod vector;

use rayon::prelude::*;

use super::{Cpu, vectorize};
use crate::ops::Write;
use crate::ops::gemm::{GemmKernels, GemmShape, Layout, PANEL_COLUMNS, packed_columns};
use crate::{DType, Float, Result, TensorMut, TensorRef, match_float};
use pack::Operand;
use tile::RowBlock;

/// Rows of a panel of `a`: with [`NR`] / 16 registers each, 24 of the 32 registers of AVX-512.
const MR: usize = 12;
/// Columns of a panel of `b`.
const NR: usize = PANEL_COLUMNS;
/// Longest block of k: a panel of `b` (48 KiB) stays near the core, and `c` is read and written again only
/// once per block.
const MAX_KC: usize = 384;
/// Most rows of a task: its block of `a` stays in the second-level cache, and the threads end together.
const MAX_TASK_ROWS: usize = 48;

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
        if c.is_empty() {
            return Ok(());
        }
        self.run(|| {
            if layout == Layout::Nt && shape.m.min(shape.n) == 1 {
                vector::product(shape, a, b, bias, write, c);
            } else {
                match_float!(a.dtype(), A => match_float!(b.dtype(), B => {
                    product::<A, B>(layout, shape, a.as_slice(), b.as_slice(), bias, write, c, workspace);
                }));
            }
        });
        Ok(())
    }
}

/// A product of two matrices, by way of an f32 result in workspace where `c` is narrower.
fn product<A: Float, B: Float>(
    layout: Layout,
    shape: GemmShape,
    a: &[A],
    b: &[B],
    bias: Option<TensorRef<'_, Cpu>>,
    write: Write,
    c: TensorMut<'_, Cpu>,
    workspace: TensorMut<'_, Cpu>,
) {
    let GemmShape { m, n, k } = shape;
    let (packed, sums) = workspace.into_slice::<f32>().split_at_mut(packed_columns(shape) * k);
    let a = Operand { elements: a, row_len: if layout == Layout::Tn { m } else { k } };
    let b = Operand { elements: b, row_len: if layout == Layout::Nt { k } else { n } };
    if c.dtype() == DType::F32 {
        let c = c.into_slice::<f32>();
        multiply(layout, shape, a, b, write, c, packed);
        if let Some(bias) = bias {
            match_float!(bias.dtype(), W => add_bias(c, bias.as_slice::<W>()));
        }
    } else {
        multiply(layout, shape, a, b, Write::Replace, sums, packed);
        if let Some(bias) = bias {
            match_float!(bias.dtype(), W => add_bias(sums, bias.as_slice::<W>()));
        }
        match_float!(c.dtype(), C => narrow(sums, write, c.into_slice::<C>()));
    }
}

fn multiply<A: Float, B: Float>(
    layout: Layout,
    shape: GemmShape,
    a: Operand<'_, A>,
    b: Operand<'_, B>,
    write: Write,
    c: &mut [f32],
    packed: &mut [f32],
) {
    let GemmShape { m, n, k } = shape;
    if k == 0 {
        if write == Write::Replace {
            c.fill(0.0);
        }
        return;
    }
    let full_kc = k_block(k);
    let task_rows = task_rows(m);
    let columns_per_block = packed_columns(shape);
    for first_column in (0..n).step_by(columns_per_block) {
        let columns = columns_per_block.min(n - first_column);
        let padded = columns.next_multiple_of(NR);
        let packed = &mut packed[..padded * k];
        pack_b(layout, b, k, full_kc, first_column, columns, packed);
        let packed = &*packed;
        c.par_chunks_mut(task_rows * n).enumerate().with_max_len(1).for_each(|(task, c)| {
            let rows = c.len() / n;
            let len = rows.next_multiple_of(MR) * full_kc;
            tile::with_panels(len, |panels| {
                for (block, b) in packed.chunks(full_kc * padded).enumerate() {
                    let kc = b.len() / padded;
                    let panels = &mut panels[..rows.next_multiple_of(MR) * kc];
                    let (row, k) = (task * task_rows, block * full_kc);
                    vectorize!(match layout {
                        Layout::Tn => pack::across::<A, MR>(a, row, rows, k, kc, panels),
                        Layout::Nt | Layout::Nn => pack::along::<A, MR>(a, row, rows, k, kc, panels),
                    });
                    let replace = block == 0 && write == Write::Replace;
                    let c = &mut c[first_column..];
                    pulp::Arch::new().dispatch(RowBlock {
                        kc,
                        a: panels,
                        b,
                        c,
                        row_len: n,
                        rows,
                        columns,
                        replace,
                    });
                }
            });
        });
    }
}

/// Copies columns of `b` into panels: block of k by block, panel by panel, [kc, NR] each.
fn pack_b<B: Float>(
    layout: Layout,
    b: Operand<'_, B>,
    k: usize,
    kc: usize,
    first_column: usize,
    columns: usize,
    packed: &mut [f32],
) {
    let padded = columns.next_multiple_of(NR);
    let group = task_panels(k.div_ceil(kc) * padded / NR);
    packed.par_chunks_mut(kc * padded).enumerate().for_each(|(block, packed)| {
        let first_k = block * kc;
        let kc = kc.min(k - first_k);
        packed.par_chunks_mut(group * kc * NR).enumerate().with_max_len(1).for_each(|(task, panels)| {
            let column = task * group * NR;
            let columns = (group * NR).min(columns - column);
            let column = first_column + column;
            vectorize!(match layout {
                Layout::Nt => pack::along::<B, NR>(b, column, columns, first_k, kc, panels),
                Layout::Nn | Layout::Tn => pack::across::<B, NR>(b, column, columns, first_k, kc, panels),
            });
        });
    });
}

/// Terms per partial sum: nearly equal blocks, at most [`MAX_KC`], of whole blocks of the transposition.
fn k_block(k: usize) -> usize {
    k.div_ceil(k.div_ceil(MAX_KC)).next_multiple_of(transpose::BLOCK)
}

/// Rows of `c` per task: as many as the cache allows, but two tasks for every thread.
fn task_rows(m: usize) -> usize {
    m.div_ceil(2 * rayon::current_num_threads()).next_multiple_of(MR).min(MAX_TASK_ROWS)
}

/// Panels of `b` per task, of `panels` in all: long pieces of its rows, but four tasks for every thread.
fn task_panels(panels: usize) -> usize {
    (panels / (4 * rayon::current_num_threads())).clamp(1, 16)
}

/// Elements per task of the elementwise passes.
const CHUNK: usize = 16 * 1024;

fn narrow<C: Float>(sums: &[f32], write: Write, c: &mut [C]) {
    c.par_chunks_mut(CHUNK).zip(sums.par_chunks(CHUNK)).for_each(|(c, sums)| {
        vectorize!(match write {
            Write::Replace => c.iter_mut().zip(sums).for_each(|(c, s)| *c = C::from_f32(*s)),
            Write::Add => c.iter_mut().zip(sums).for_each(|(c, s)| *c = C::from_f32(c.to_f32() + s)),
        });
    });
}

fn add_bias<W: Float>(c: &mut [f32], bias: &[W]) {
    let rows_per_task = CHUNK.div_ceil(bias.len());
    c.par_chunks_mut(rows_per_task * bias.len()).for_each(|rows| {
        vectorize!({
            for row in rows.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(c, b)| *c += b.to_f32());
            }
        });
    });
}
