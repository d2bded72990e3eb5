//! Losses on a GPU.

use super::driver::Driver;
use super::{Cuda, not_there};
use crate::ops::cross_entropy::{CrossEntropyKernels, CrossEntropyParams, CrossEntropyShape, ShardShape};
use crate::{Result, TensorMut, TensorRef};

impl<Dr: Driver> CrossEntropyKernels for Cuda<Dr> {
    fn softmax_cross_entropy_rows(
        &self,
        _shape: CrossEntropyShape,
        _params: &CrossEntropyParams,
        _loss_scale: Option<TensorRef<'_, Self>>,
        _logits: TensorMut<'_, Self>,
        _labels: TensorRef<'_, Self>,
        _cross_entropy: TensorMut<'_, Self>,
        _z_losses: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("cross_entropy: softmax_cross_entropy_rows")
    }

    fn shard_maxima(
        &self,
        _shape: ShardShape,
        _logits: TensorRef<'_, Self>,
        _maxima: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("cross_entropy: shard_maxima")
    }

    fn shard_terms(
        &self,
        _shape: ShardShape,
        _labels: TensorRef<'_, Self>,
        _maxima: TensorRef<'_, Self>,
        _logits: TensorMut<'_, Self>,
        _terms: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("cross_entropy: shard_terms")
    }

    fn shard_losses(
        &self,
        _shape: ShardShape,
        _params: &CrossEntropyParams,
        _loss_scale: Option<TensorRef<'_, Self>>,
        _labels: TensorRef<'_, Self>,
        _maxima: TensorRef<'_, Self>,
        _terms: TensorRef<'_, Self>,
        _exponentials: TensorMut<'_, Self>,
        _cross_entropy: TensorMut<'_, Self>,
        _z_losses: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("cross_entropy: shard_losses")
    }
}
