//! Rotary embedding on the host: memory-bound, a few tokens per task.

use rayon::prelude::*;

use super::{Cpu, vectorize};
use crate::ops::rope::{RopeKernels, RopeShape, Turn};
use crate::{Float, Result, TensorMut, TensorRef, match_float};

impl RopeKernels for Cpu {
    fn rope(
        &self,
        shape: RopeShape,
        turn: Turn,
        positions: TensorRef<'_, Self>,
        table: TensorRef<'_, Self>,
        x: TensorMut<'_, Self>,
    ) -> Result<()> {
        match_float!(x.dtype(), X => {
            let (positions, table, x) = (positions.as_slice(), table.as_slice(), x.into_slice::<X>());
            self.run(|| rope(shape, turn, positions, table, x));
        });
        Ok(())
    }
}

/// Tokens per task: amortises the task, still feeds many threads.
const TOKENS_PER_TASK: usize = 32;

fn rope<X: Float>(shape: RopeShape, turn: Turn, positions: &[u32], table: &[f32], x: &mut [X]) {
    let RopeShape { heads, head_dim, .. } = shape;
    let width = heads * head_dim;
    if width == 0 {
        return;
    }
    let tasks = positions.par_chunks(TOKENS_PER_TASK).zip(x.par_chunks_mut(TOKENS_PER_TASK * width));
    tasks.for_each(|(positions, x)| {
        for (&position, token) in positions.iter().zip(x.chunks_exact_mut(width)) {
            let row = &table[position as usize * head_dim..][..head_dim];
            vectorize!(match turn {
                Turn::Forward => turn_heads::<X, false>(row, token),
                Turn::Backward => turn_heads::<X, true>(row, token),
            });
        }
    });
}

/// Turns all heads of one token by the angles of one row of the table.
#[inline(always)]
fn turn_heads<X: Float, const BACKWARD: bool>(row: &[f32], token: &mut [X]) {
    let half = row.len() / 2;
    let (cos, sin) = row.split_at(half);
    for head in token.chunks_exact_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        for (((a, b), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let sin = if BACKWARD { -sin } else { sin };
            let (x, y) = (a.to_f32(), b.to_f32());
            *a = X::from_f32(x.mul_add(cos, -(y * sin)));
            *b = X::from_f32(y.mul_add(cos, x * sin));
        }
    }
}
