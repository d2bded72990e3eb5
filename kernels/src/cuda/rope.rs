//! Rotary positions on a GPU.

use super::driver::Driver;
use super::{Cuda, LaunchConfig, THREADS};
use crate::ops::rope::{RopeKernels, RopeShape, Turn};
use crate::{Result, TensorMut, TensorRef, kernel_name};

use super::launch::{GROUP, extent};

impl<Dr: Driver> RopeKernels for Cuda<Dr> {
    fn rope(
        &self,
        shape: RopeShape,
        turn: Turn,
        positions: TensorRef<'_, Self>,
        table: TensorRef<'_, Self>,
        x: TensorMut<'_, Self>,
    ) -> Result<()> {
        let kernel = kernel_name!("rope", x.dtype());
        let sign = match turn {
            Turn::Forward => 1.0_f32,
            Turn::Backward => -1.0,
        };
        let args = [
            positions.into(),
            table.into(),
            x.into(),
            extent(shape.tokens),
            extent(shape.heads),
            extent(shape.head_dim),
            sign.into(),
        ];
        self.launch(kernel, config(shape), &args)
    }
}

/// Heads of which a thread turns the same elements.
const HEADS: usize = 4;

/// A thread for each group of elements of each bundle of heads. Where elements cannot be moved in groups, threads
/// stride.
///
/// # Panics
/// If the kernel cannot count single elements of bundles: no shape of training comes near.
fn config(shape: RopeShape) -> LaunchConfig {
    let half = shape.head_dim / 2;
    let bundles = shape.tokens * shape.heads.div_ceil(HEADS);
    assert!(bundles * half < 1 << 31, "{shape:?}: the kernel counts to 2^31");
    LaunchConfig::blocks((bundles * half.div_ceil(GROUP)).div_ceil(THREADS as usize), THREADS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_turns_a_group_of_four_heads() {
        let blocks = |tokens, heads, head_dim| config(RopeShape { tokens, heads, head_dim }).grid[0];
        assert_eq!(blocks(32, 32, 64), 4);
        assert_eq!(blocks(32, 5, 64), 1);
        assert_eq!(blocks(33, 32, 64), 5);
        assert_eq!(blocks(0, 32, 64), 0);
    }
}
