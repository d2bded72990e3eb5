//! AdamW on a GPU.

use super::driver::Driver;
use super::{Cuda, LaunchConfig};
use crate::ops::adamw::{AdamwKernels, AdamwParams};
use crate::{DType, Result, TensorMut, TensorRef, kernel_name};

impl<Dr: Driver> AdamwKernels for Cuda<Dr> {
    fn adamw_update(
        &self,
        params: &AdamwParams,
        scalars: TensorRef<'_, Self>,
        grad: TensorRef<'_, Self>,
        master: TensorMut<'_, Self>,
        m: TensorMut<'_, Self>,
        v: TensorMut<'_, Self>,
        weights: TensorMut<'_, Self>,
    ) -> Result<()> {
        let kernel = kernel_name!("adamw_update", master.dtype(), m.dtype(), weights.dtype());
        let AdamwParams { lr_scale, eps, weight_decay, tensor_key, index } = *params;
        let [row_start, column, row_len, row_stride] = index.to_words();
        let len = grad.len();
        let config = update_config(len, [master.dtype(), m.dtype(), weights.dtype()]);
        let args = [
            scalars.into(),
            grad.into(),
            master.into(),
            m.into(),
            v.into(),
            weights.into(),
            lr_scale.into(),
            eps.into(),
            weight_decay.into(),
            tensor_key.into(),
            row_start.into(),
            column.into(),
            row_len.into(),
            row_stride.into(),
            (len as u64).into(),
        ];
        self.launch(kernel, config, &args)
    }
}

/// Blocks of an update at most: more than any GPU runs at once, and few enough that a thread of a large tensor
/// has several groups, since every thread computes the constants of the step by itself.
const MAX_BLOCKS: u32 = 2048;

/// A vector of the widest type that is written for each thread.
fn update_config(len: usize, written: [DType; 3]) -> LaunchConfig {
    let element_bytes = written.map(DType::size_bytes).into_iter().max().unwrap_or(1);
    let LaunchConfig { grid: [blocks, ..], threads, .. } = LaunchConfig::elements(len, element_bytes);
    LaunchConfig::blocks(blocks.min(MAX_BLOCKS) as usize, threads)
}

#[cfg(test)]
mod tests {
    use super::update_config;
    use crate::DType::{Bf16, F32};

    #[test]
    fn threads_have_one_vector_until_the_gpu_is_full_and_several_from_then_on() {
        let blocks = |len| update_config(len, [F32, F32, Bf16]).grid[0];
        assert_eq!([blocks(0), blocks(1), blocks(1024), blocks(1025)], [0, 1, 1, 2]);
        assert_eq!([blocks(1024 * 2048), blocks(1 << 40)], [2048, 2048]);
        assert_eq!([2048, 2049].map(|len| update_config(len, [Bf16; 3]).grid[0]), [1, 2]);
    }
}
