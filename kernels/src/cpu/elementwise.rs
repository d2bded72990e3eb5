//! Elementwise ops and plain sums on the host.

use rayon::prelude::*;

use half::bf16;

use super::combine::combine_in;
use super::{Cpu, ELEMENTS_PER_TASK, add_partials, lane_sum_of, vectorize};
use crate::ops::elementwise::{Combine, ElementwiseKernels};
use crate::ops::{CHUNK, ROWS_PER_PARTIAL};
use crate::{DType, Float, Result, TensorMut, TensorRef, match_float};

impl ElementwiseKernels for Cpu {
    fn add_assign(&self, x: TensorRef<'_, Self>, y: TensorMut<'_, Self>) -> Result<()> {
        match_float!(x.dtype(), S => match_float!(y.dtype(), T => {
            let (x, y) = (x.as_slice::<S>(), y.into_slice::<T>());
            self.run(|| add_assign(x, y));
        }));
        Ok(())
    }

    fn combine(
        &self,
        how: Combine,
        before: &[TensorRef<'_, Self>],
        own: TensorMut<'_, Self>,
        after: &[TensorRef<'_, Self>],
    ) -> Result<()> {
        match own.dtype() {
            DType::F32 => self.run(|| combine_in::<f32, f32>(how, before, own, after)),
            DType::Bf16 => self.run(|| combine_in::<bf16, f32>(how, before, own, after)),
            DType::U32 => self.run(|| combine_in::<u32, u32>(how, before, own, after)),
            DType::I32 => self.run(|| combine_in::<i32, i32>(how, before, own, after)),
            DType::U8 => self.run(|| combine_in::<u8, u8>(how, before, own, after)),
        }
        Ok(())
    }

    fn cast(&self, src: TensorRef<'_, Self>, dst: TensorMut<'_, Self>) -> Result<()> {
        match_float!(src.dtype(), S => match_float!(dst.dtype(), T => {
            let (src, dst) = (src.as_slice::<S>(), dst.into_slice::<T>());
            self.run(|| cast(src, dst));
        }));
        Ok(())
    }

    fn fill(&self, value: f32, dst: TensorMut<'_, Self>) -> Result<()> {
        match_float!(dst.dtype(), T => {
            let (value, dst) = (T::from_f32(value), dst.into_slice::<T>());
            self.run(|| dst.par_chunks_mut(ELEMENTS_PER_TASK).for_each(|dst| dst.fill(value)));
        });
        Ok(())
    }

    fn column_sum(
        &self,
        x: TensorRef<'_, Self>,
        sums: TensorMut<'_, Self>,
        partials: TensorMut<'_, Self>,
    ) -> Result<()> {
        match_float!(x.dtype(), X => {
            let (sums, partials) = (sums.into_slice::<f32>(), partials.into_slice::<f32>());
            self.run(|| column_sum(x.as_slice::<X>(), sums, partials));
        });
        Ok(())
    }

    fn chunk_sums(&self, x: TensorRef<'_, Self>, partials: TensorMut<'_, Self>) -> Result<()> {
        let (x, partials) = (x.as_slice::<f32>(), partials.into_slice::<f32>());
        self.run(|| reduce_chunks(Term::Value, x, partials));
        Ok(())
    }
}

fn add_assign<S: Float, T: Float>(x: &[S], y: &mut [T]) {
    let tasks = x.par_chunks(ELEMENTS_PER_TASK).zip(y.par_chunks_mut(ELEMENTS_PER_TASK));
    tasks.for_each(|(x, y)| vectorize!(add_assign_task(x, y)));
}

#[inline(always)]
fn add_assign_task<S: Float, T: Float>(x: &[S], y: &mut [T]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = T::from_f32(y.to_f32() + x.to_f32());
    }
}

fn cast<S: Float, T: Float>(src: &[S], dst: &mut [T]) {
    let tasks = src.par_chunks(ELEMENTS_PER_TASK).zip(dst.par_chunks_mut(ELEMENTS_PER_TASK));
    tasks.for_each(|(src, dst)| vectorize!(cast_task(src, dst)));
}

#[inline(always)]
fn cast_task<S: Float, T: Float>(src: &[S], dst: &mut [T]) {
    for (dst, src) in dst.iter_mut().zip(src) {
        *dst = T::from_f32(src.to_f32());
    }
}

fn column_sum<X: Float>(x: &[X], sums: &mut [f32], partials: &mut [f32]) {
    let width = sums.len();
    let tasks = x.par_chunks(ROWS_PER_PARTIAL * width).zip(partials.par_chunks_mut(width));
    tasks.for_each(|(x, partial)| vectorize!(column_sum_task(x, partial)));
    add_partials(partials, sums);
}

#[inline(always)]
fn column_sum_task<X: Float>(x: &[X], partial: &mut [f32]) {
    partial.fill(0.0);
    for row in x.chunks_exact(partial.len()) {
        for (sum, x) in partial.iter_mut().zip(row) {
            *sum += x.to_f32();
        }
    }
}

/// What the sums of chunks add for each element.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Term {
    Value,
    Square,
}

/// `partials[c] = sum of the terms of x[i]` over chunk `c` of [`CHUNK`] elements.
pub(super) fn reduce_chunks(term: Term, x: &[f32], partials: &mut [f32]) {
    const CHUNKS_PER_TASK: usize = ELEMENTS_PER_TASK / CHUNK;
    let tasks = x.par_chunks(ELEMENTS_PER_TASK).zip(partials.par_chunks_mut(CHUNKS_PER_TASK));
    tasks.for_each(|(x, partials)| vectorize!(reduce_chunks_task(term, x, partials)));
}

#[inline(always)]
fn reduce_chunks_task(term: Term, x: &[f32], partials: &mut [f32]) {
    for (chunk, partial) in x.chunks(CHUNK).zip(partials) {
        *partial = match term {
            Term::Value => lane_sum_of(chunk, |x| x),
            Term::Square => lane_sum_of(chunk, |x| x * x),
        };
    }
}
