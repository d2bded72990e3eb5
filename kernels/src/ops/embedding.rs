//! Token embedding: rows of a table, and the scatter of gradients back into it.
//!
//! The table may be the part of a larger one that a rank holds: the rows of the tokens
//! `[first_row, first_row + rows)`; a whole table has `first_row` 0. Any other token gives zeros and takes no
//! gradient. So the outputs of ranks whose parts do not overlap, summed, equal the rows of the whole table
//! exactly: of each row one rank has the numbers and the others zeros. Rows beyond the vocabulary (padding)
//! are read for no token of the vocabulary.
//!
//! Front doors cannot see values on a device, so a token outside the whole vocabulary is not refused either:
//! whoever uploads tokens has checked them.

use crate::{Class, Context, Cost, DType, Device, Result, Storage, TensorMut, TensorRef};

/// Extents of one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EmbeddingShape {
    /// Tokens looked up.
    pub tokens: usize,
    /// The token whose row is the first of the table.
    pub first_row: usize,
    /// Rows of the table.
    pub rows: usize,
    /// Elements per row.
    pub hidden_size: usize,
}

impl EmbeddingShape {
    /// The row of the table that belongs to this token, if it is there.
    #[inline(always)]
    pub fn row(self, token: u32) -> Option<usize> {
        (token as usize).checked_sub(self.first_row).filter(|row| *row < self.rows)
    }
}

/// Device side of this family. Arguments have been checked by the functions below.
pub trait EmbeddingKernels: Storage {
    /// See [`forward`].
    fn embedding_forward(
        &self,
        shape: EmbeddingShape,
        tokens: TensorRef<'_, Self>,
        table: TensorRef<'_, Self>,
        out: TensorMut<'_, Self>,
    ) -> Result<()>;

    /// See [`backward`]. `links` is workspace, U32: one for each token where
    /// [`Caps::links_tokens`](crate::device::Caps::links_tokens), else none.
    fn embedding_backward(
        &self,
        shape: EmbeddingShape,
        tokens: TensorRef<'_, Self>,
        dout: TensorRef<'_, Self>,
        dtable: TensorMut<'_, Self>,
        links: TensorMut<'_, Self>,
    ) -> Result<()>;
}

/// `out[t, h] = table[tokens[t] - first_row, h]`; 0 for tokens without a row here.
///
/// Shapes: `tokens` `[tokens]` u32; `table` [rows, hidden_size] f32 or bf16; `out` [tokens, hidden_size] f32
/// or bf16, rounded where it is narrower than the table.
pub fn forward<D: Device>(
    ctx: &Context<D>,
    first_row: usize,
    tokens: TensorRef<'_, D>,
    table: TensorRef<'_, D>,
    out: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "embedding::forward";
    let table_dims = table.dims(OP, "table")?;
    table.expect_float(OP, "table")?;
    let shape = check_tokens(OP, tokens, first_row, table_dims)?;
    out.expect(OP, "out", &[shape.tokens, shape.hidden_size])?;
    out.expect_float(OP, "out")?;
    let rows_bytes = out.len() * table.dtype().size_bytes();
    let bytes = tokens.size_bytes() + rows_bytes + out.as_ref().size_bytes();
    ctx.device.record(Cost { op: OP, flops: 0, bytes: bytes as u64 });
    ctx.device.embedding_forward(shape, tokens, table, out)
}

/// `dtable[tokens[t] - first_row, h] += dout[t, h]`, the tokens of one row added in their order; tokens
/// without a row here are skipped.
///
/// Shapes: `tokens` `[tokens]` u32; `dout` [tokens, hidden_size] f32 or bf16; `dtable` [rows, hidden_size]
/// f32.
pub fn backward<D: Device>(
    ctx: &Context<D>,
    first_row: usize,
    tokens: TensorRef<'_, D>,
    dout: TensorRef<'_, D>,
    dtable: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "embedding::backward";
    let table_dims = dtable.dims(OP, "dtable")?;
    dtable.expect_dtype(OP, "dtable", DType::F32)?;
    let shape = check_tokens(OP, tokens, first_row, table_dims)?;
    dout.expect(OP, "dout", &[shape.tokens, shape.hidden_size])?;
    dout.expect_float(OP, "dout")?;
    let bytes = tokens.size_bytes() + dout.size_bytes() + 2 * dout.len() * size_of::<f32>();
    ctx.device.record(Cost { op: OP, flops: dout.len() as u64, bytes: bytes as u64 });
    let num_links = if ctx.device.caps().links_tokens { shape.tokens } else { 0 };
    let mut links = ctx.arena.block(Class::Workspace, DType::U32, num_links)?;
    ctx.device.embedding_backward(shape, tokens, dout, dtable, links.view_mut([num_links]))
}

fn check_tokens<D: Device>(
    op: &'static str,
    tokens: TensorRef<'_, D>,
    first_row: usize,
    [rows, hidden_size]: [usize; 2],
) -> Result<EmbeddingShape> {
    let [count] = tokens.dims(op, "tokens")?;
    tokens.expect_dtype(op, "tokens", DType::U32)?;
    Ok(EmbeddingShape { tokens: count, first_row, rows, hidden_size })
}

/// The definition in f64, one token after the other.
pub mod reference {
    use super::EmbeddingShape;

    /// Returns `out`.
    pub fn forward(shape: EmbeddingShape, tokens: &[u32], table: &[f64]) -> Vec<f64> {
        let hidden = shape.hidden_size;
        let row = |token| match shape.row(token) {
            Some(row) => table[row * hidden..][..hidden].to_vec(),
            None => vec![0.0; hidden],
        };
        tokens.iter().flat_map(|&token| row(token)).collect()
    }

    /// Returns `dtable`, from zero.
    pub fn backward(shape: EmbeddingShape, tokens: &[u32], dout: &[f64]) -> Vec<f64> {
        let hidden = shape.hidden_size;
        let mut dtable = vec![0.0; shape.rows * hidden];
        for (&token, dout) in tokens.iter().zip(dout.chunks_exact(hidden)) {
            if let Some(row) = shape.row(token) {
                let row = &mut dtable[row * hidden..][..hidden];
                row.iter_mut().zip(dout).for_each(|(sum, d)| *sum += d);
            }
        }
        dtable
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::ops::check_gradient;
        use crate::testing::normal_f64;

        #[test]
        fn backward_equals_central_differences() {
            let shape = EmbeddingShape { tokens: 6, first_row: 3, rows: 5, hidden_size: 3 };
            let tokens = [7, 3, 5, 3, 2, 8];
            let (table, dout) = (normal_f64(1, 15), normal_f64(2, 18));
            let loss = |table: &[f64]| -> f64 {
                forward(shape, &tokens, table).iter().zip(&dout).map(|(y, d)| y * d).sum()
            };
            check_gradient("dtable", &table, &backward(shape, &tokens, &dout), loss);
        }
    }
}
