//! Token embeddings on a GPU.

use super::driver::Driver;
use super::{Cuda, not_there};
use crate::ops::embedding::{EmbeddingKernels, EmbeddingShape};
use crate::{Result, TensorMut, TensorRef};

impl<Dr: Driver> EmbeddingKernels for Cuda<Dr> {
    fn embedding_forward(
        &self,
        _shape: EmbeddingShape,
        _tokens: TensorRef<'_, Self>,
        _table: TensorRef<'_, Self>,
        _out: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("embedding: embedding_forward")
    }

    fn embedding_backward(
        &self,
        _shape: EmbeddingShape,
        _tokens: TensorRef<'_, Self>,
        _dout: TensorRef<'_, Self>,
        _dtable: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("embedding: embedding_backward")
    }
}
