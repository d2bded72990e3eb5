//! Losses on a GPU.

use super::driver::Driver;
use super::launch::{bytes_for_warps, extent};
use super::{Cuda, LaunchConfig};
use crate::ops::cross_entropy::{CrossEntropyKernels, CrossEntropyParams, CrossEntropyShape, ShardShape};
use crate::{Result, TensorMut, TensorRef};

impl<Dr: Driver> CrossEntropyKernels for Cuda<Dr> {
    fn softmax_cross_entropy_rows(
        &self,
        shape: CrossEntropyShape,
        params: &CrossEntropyParams,
        loss_scale: Option<TensorRef<'_, Self>>,
        logits: TensorMut<'_, Self>,
        dlogits: Option<TensorMut<'_, Self>>,
        labels: TensorRef<'_, Self>,
        cross_entropy: TensorMut<'_, Self>,
        z_losses: TensorMut<'_, Self>,
    ) -> Result<()> {
        let CrossEntropyShape { tokens, vocab_size, .. } = shape;
        let args = [
            logits.into(),
            dlogits.into(),
            labels.into(),
            loss_scale.into(),
            cross_entropy.into(),
            z_losses.into(),
            params.z_loss.into(),
            extent(vocab_size),
        ];
        self.launch("softmax_cross_entropy_rows", reducing_config(tokens, vocab_size), &args)
    }

    fn shard_maxima(
        &self,
        shape: ShardShape,
        logits: TensorRef<'_, Self>,
        maxima: TensorMut<'_, Self>,
    ) -> Result<()> {
        let args = [logits.into(), maxima.into(), extent(shape.classes)];
        self.launch("shard_maxima", reducing_config(shape.tokens, shape.classes), &args)
    }

    fn shard_terms(
        &self,
        shape: ShardShape,
        labels: TensorRef<'_, Self>,
        maxima: TensorRef<'_, Self>,
        logits: TensorMut<'_, Self>,
        terms: TensorMut<'_, Self>,
    ) -> Result<()> {
        let ShardShape { tokens, first_class, classes, vocab_size } = shape;
        let args = [
            logits.into(),
            labels.into(),
            maxima.into(),
            terms.into(),
            extent(tokens),
            extent(first_class),
            extent(classes),
            extent(vocab_size),
        ];
        self.launch("shard_terms", reducing_config(tokens, classes), &args)
    }

    fn shard_losses(
        &self,
        shape: ShardShape,
        params: &CrossEntropyParams,
        loss_scale: Option<TensorRef<'_, Self>>,
        labels: TensorRef<'_, Self>,
        maxima: TensorRef<'_, Self>,
        terms: TensorRef<'_, Self>,
        exponentials: TensorMut<'_, Self>,
        dlogits: Option<TensorMut<'_, Self>>,
        cross_entropy: TensorMut<'_, Self>,
        z_losses: TensorMut<'_, Self>,
    ) -> Result<()> {
        let ShardShape { tokens, first_class, classes, .. } = shape;
        let args = [
            exponentials.into(),
            dlogits.into(),
            labels.into(),
            maxima.into(),
            terms.into(),
            loss_scale.into(),
            cross_entropy.into(),
            z_losses.into(),
            params.z_loss.into(),
            extent(tokens),
            extent(first_class),
            extent(classes),
        ];
        self.launch("shard_losses", rows_config(tokens, classes), &args)
    }
}

/// A block for each row, with a thread for every 32 elements.
fn rows_config(rows: usize, width: usize) -> LaunchConfig {
    const ELEMENTS_PER_THREAD: usize = 32;
    let threads = width.div_ceil(ELEMENTS_PER_THREAD).next_multiple_of(64).clamp(64, 1024);
    LaunchConfig::blocks(rows, threads as u32)
}

/// The same for a kernel that reduces rows.
fn reducing_config(rows: usize, width: usize) -> LaunchConfig {
    let config = rows_config(rows, width);
    config.with_shared_bytes(bytes_for_warps(config.threads, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_rows_have_more_threads() {
        let threads = |width| rows_config(3, width).threads;
        assert_eq!([threads(0), threads(2048), threads(2049)], [64, 64, 128]);
        assert_eq!([threads(32_000), threads(128_256), threads(1 << 18)], [1024, 1024, 1024]);
        assert_eq!(reducing_config(3, 8192).shared_bytes, 8 * 4);
        assert!(rows_config(0, 10).is_empty());
    }
}
