//! Token embedding: rows of a table, and the scatter of gradients back into it.
//!
//! Precondition: every token is below the number of rows. Front doors cannot see values on a device;
//! whoever uploads tokens has checked them against the vocabulary.

use crate::{Context, Cost, DType, Device, Result, Storage, TensorMut, TensorRef};

/// Extents of one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EmbeddingShape {
    /// Tokens looked up.
    pub tokens: usize,
    /// Rows of the table.
    pub vocab_size: usize,
    /// Elements per row.
    pub hidden_size: usize,
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

    /// See [`backward`].
    fn embedding_backward(
        &self,
        shape: EmbeddingShape,
        tokens: TensorRef<'_, Self>,
        dout: TensorRef<'_, Self>,
        dtable: TensorMut<'_, Self>,
    ) -> Result<()>;
}

/// `out[t, h] = table[tokens[t], h]`.
///
/// Shapes: `tokens` `[tokens]` u32, each below vocab_size; `table` [vocab_size, hidden_size] f32 or bf16;
/// `out` [tokens, hidden_size] f32 or bf16, rounded where it is narrower than the table.
pub fn forward<D: Device>(
    ctx: &Context<D>,
    tokens: TensorRef<'_, D>,
    table: TensorRef<'_, D>,
    out: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "embedding::forward";
    let [vocab_size, hidden_size] = table.dims(OP, "table")?;
    table.expect_float(OP, "table")?;
    let shape = check_tokens(OP, tokens, vocab_size, hidden_size)?;
    out.expect(OP, "out", &[shape.tokens, hidden_size])?;
    out.expect_float(OP, "out")?;
    let rows_bytes = out.len() * table.dtype().size_bytes();
    let bytes = tokens.size_bytes() + rows_bytes + out.as_ref().size_bytes();
    ctx.device.record(Cost { op: OP, flops: 0, bytes: bytes as u64 });
    ctx.device.embedding_forward(shape, tokens, table, out)
}

/// `dtable[tokens[t], h] += dout[t, h]`, the tokens of one row added in their order.
///
/// Shapes: `tokens` `[tokens]` u32, each below vocab_size; `dout` [tokens, hidden_size] f32 or bf16;
/// `dtable` [vocab_size, hidden_size] f32.
pub fn backward<D: Device>(
    ctx: &Context<D>,
    tokens: TensorRef<'_, D>,
    dout: TensorRef<'_, D>,
    dtable: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "embedding::backward";
    let [vocab_size, hidden_size] = dtable.dims(OP, "dtable")?;
    dtable.expect_dtype(OP, "dtable", DType::F32)?;
    let shape = check_tokens(OP, tokens, vocab_size, hidden_size)?;
    dout.expect(OP, "dout", &[shape.tokens, hidden_size])?;
    dout.expect_float(OP, "dout")?;
    let bytes = tokens.size_bytes() + dout.size_bytes() + 2 * dout.len() * size_of::<f32>();
    ctx.device.record(Cost { op: OP, flops: dout.len() as u64, bytes: bytes as u64 });
    ctx.device.embedding_backward(shape, tokens, dout, dtable)
}

fn check_tokens<D: Device>(
    op: &'static str,
    tokens: TensorRef<'_, D>,
    vocab_size: usize,
    hidden_size: usize,
) -> Result<EmbeddingShape> {
    let [count] = tokens.dims(op, "tokens")?;
    tokens.expect_dtype(op, "tokens", DType::U32)?;
    Ok(EmbeddingShape { tokens: count, vocab_size, hidden_size })
}

/// The definition in f64, one token after the other.
pub mod reference {
    use super::EmbeddingShape;

    /// Returns `out`.
    pub fn forward(shape: EmbeddingShape, tokens: &[u32], table: &[f64]) -> Vec<f64> {
        let hidden = shape.hidden_size;
        tokens.iter().flat_map(|&t| &table[t as usize * hidden..][..hidden]).copied().collect()
    }

    /// Returns `dtable`, from zero.
    pub fn backward(shape: EmbeddingShape, tokens: &[u32], dout: &[f64]) -> Vec<f64> {
        let hidden = shape.hidden_size;
        let mut dtable = vec![0.0; shape.vocab_size * hidden];
        for (&token, dout) in tokens.iter().zip(dout.chunks_exact(hidden)) {
            let row = &mut dtable[token as usize * hidden..][..hidden];
            row.iter_mut().zip(dout).for_each(|(sum, d)| *sum += d);
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
            let shape = EmbeddingShape { tokens: 4, vocab_size: 5, hidden_size: 3 };
            let tokens = [4, 0, 2, 0];
            let (table, dout) = (normal_f64(1, 15), normal_f64(2, 12));
            let loss = |table: &[f64]| -> f64 {
                forward(shape, &tokens, table).iter().zip(&dout).map(|(y, d)| y * d).sum()
            };
            check_gradient("dtable", &table, &backward(shape, &tokens, &dout), loss);
        }
    }
}
