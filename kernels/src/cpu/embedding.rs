//! Embedding on the host. The backward cuts the table into fixed ranges of rows; the task of a range
//! walks all tokens in order and adds those of its rows.

use rayon::prelude::*;

use super::{Cpu, vectorize};
use crate::ops::embedding::{EmbeddingKernels, EmbeddingShape};
use crate::{Float, Result, TensorMut, TensorRef, match_float};

impl EmbeddingKernels for Cpu {
    fn embedding_forward(
        &self,
        shape: EmbeddingShape,
        tokens: TensorRef<'_, Self>,
        table: TensorRef<'_, Self>,
        out: TensorMut<'_, Self>,
    ) -> Result<()> {
        let tokens = tokens.as_slice::<u32>();
        match_float!(table.dtype(), W => match_float!(out.dtype(), X => {
            let (table, out) = (table.as_slice::<W>(), out.into_slice::<X>());
            self.run(|| forward(shape, tokens, table, out));
        }));
        Ok(())
    }

    fn embedding_backward(
        &self,
        shape: EmbeddingShape,
        tokens: TensorRef<'_, Self>,
        dout: TensorRef<'_, Self>,
        dtable: TensorMut<'_, Self>,
        _links: TensorMut<'_, Self>,
    ) -> Result<()> {
        let tokens = tokens.as_slice::<u32>();
        match_float!(dout.dtype(), X => {
            let (dout, dtable) = (dout.as_slice::<X>(), dtable.into_slice::<f32>());
            self.run(|| backward(shape, tokens, dout, dtable));
        });
        Ok(())
    }
}

/// Tokens per task of the forward.
const TOKENS_PER_TASK: usize = 64;

fn forward<W: Float, X: Float>(shape: EmbeddingShape, tokens: &[u32], table: &[W], out: &mut [X]) {
    let hidden = shape.hidden_size;
    if out.is_empty() {
        return;
    }
    tokens.par_chunks(TOKENS_PER_TASK).zip(out.par_chunks_mut(TOKENS_PER_TASK * hidden)).for_each(
        |(tokens, out)| {
            vectorize!({
                for (&token, out) in tokens.iter().zip(out.chunks_exact_mut(hidden)) {
                    let Some(row) = shape.row(token) else {
                        out.fill(X::from_f32(0.0));
                        continue;
                    };
                    let row = &table[row * hidden..][..hidden];
                    out.iter_mut().zip(row).for_each(|(out, row)| *out = X::from_f32(row.to_f32()));
                }
            });
        },
    );
}

/// Tasks of the backward: each reads all tokens, so few; token ids are skewed, so more than threads.
const BACKWARD_TASKS: usize = 64;

fn backward<X: Float>(shape: EmbeddingShape, tokens: &[u32], dout: &[X], dtable: &mut [f32]) {
    let hidden = shape.hidden_size;
    if dtable.is_empty() {
        return;
    }
    let rows_per_task = shape.rows.div_ceil(BACKWARD_TASKS);
    dtable.par_chunks_mut(rows_per_task * hidden).enumerate().for_each(|(task, dtable)| {
        let first_row = shape.first_row + task * rows_per_task;
        let part = EmbeddingShape { first_row, rows: dtable.len() / hidden, ..shape };
        vectorize!({
            for (&token, dout) in tokens.iter().zip(dout.chunks_exact(hidden)) {
                if let Some(row) = part.row(token) {
                    let row = &mut dtable[row * hidden..][..hidden];
                    row.iter_mut().zip(dout).for_each(|(sum, d)| *sum += d.to_f32());
                }
            }
        });
    });
}
