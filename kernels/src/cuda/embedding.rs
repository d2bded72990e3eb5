//! Token embeddings on a GPU.

use super::driver::Driver;
use super::{Cuda, LaunchConfig, THREADS};
use crate::ops::embedding::{EmbeddingKernels, EmbeddingShape};
use crate::{Result, TensorMut, TensorRef, kernel_name};

impl<Dr: Driver> EmbeddingKernels for Cuda<Dr> {
    fn embedding_forward(
        &self,
        shape: EmbeddingShape,
        tokens: TensorRef<'_, Self>,
        table: TensorRef<'_, Self>,
        out: TensorMut<'_, Self>,
    ) -> Result<()> {
        let kernel = kernel_name!("embedding_forward", table.dtype(), out.dtype());
        let [first_row, rows, count, hidden] = extents(shape);
        let args = [
            tokens.into(),
            table.into(),
            out.into(),
            first_row.into(),
            rows.into(),
            count.into(),
            hidden.into(),
        ];
        self.launch(kernel, warps_config(shape.tokens, shape.hidden_size.div_ceil(FORWARD_COLUMNS)), &args)
    }

    fn embedding_backward(
        &self,
        shape: EmbeddingShape,
        tokens: TensorRef<'_, Self>,
        dout: TensorRef<'_, Self>,
        dtable: TensorMut<'_, Self>,
        mut links: TensorMut<'_, Self>,
    ) -> Result<()> {
        let [first_row, rows, count, hidden] = extents(shape);
        let args = [tokens.into(), links.reborrow().into(), first_row.into(), rows.into(), count.into()];
        self.launch("embedding_links", warps_config(shape.tokens, 1), &args)?;
        let kernel = kernel_name!("embedding_backward", dout.dtype());
        let args = [
            tokens.into(),
            links.into_ref().into(),
            dout.into(),
            dtable.into(),
            first_row.into(),
            rows.into(),
            count.into(),
            hidden.into(),
        ];
        self.launch(kernel, warps_config(shape.tokens, shape.hidden_size.div_ceil(BACKWARD_COLUMNS)), &args)
    }
}

/// The last arguments of every kernel of this family.
fn extents(shape: EmbeddingShape) -> [u64; 4] {
    let EmbeddingShape { tokens, first_row, rows, hidden_size } = shape;
    [first_row, rows, tokens, hidden_size].map(|extent| extent as u64)
}

/// Columns of a token that one warp copies.
const FORWARD_COLUMNS: usize = 1024;

/// Columns of a token that one warp adds.
const BACKWARD_COLUMNS: usize = 128;

/// Along x a warp of 32 for each token, along y parts of its columns. Wider warps are fewer: they go on to more
/// tokens.
fn warps_config(tokens: usize, parts: usize) -> LaunchConfig {
    const WARPS_PER_BLOCK: usize = THREADS as usize / 32;
    LaunchConfig::grid([tokens.div_ceil(WARPS_PER_BLOCK), parts, 1], THREADS)
}

#[cfg(test)]
mod tests {
    use super::warps_config;

    #[test]
    fn a_block_has_eight_tokens_and_one_part_of_their_columns() {
        assert_eq!(warps_config(17, 5).grid, [3, 5, 1]);
        assert!(warps_config(0, 5).is_empty() && warps_config(17, 0).is_empty());
    }
}
