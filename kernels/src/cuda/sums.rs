//! The sums of `kernels/cuda/sums.cu`, which several families share.

use super::driver::Driver;
use super::launch::{bytes_for_warps, extent};
use super::{Cuda, LaunchConfig, THREADS};
use crate::ops::{CHUNK, partial_rows};
use crate::{Result, TensorMut, TensorRef, kernel_name};

/// Columns that a block adds: a sector of each partial.
const COLUMNS: usize = 8;

/// Threads that add one chunk.
const CHUNK_LANES: usize = 16;

/// For the kernels that reduce chunks of a tensor of `len` elements.
pub(super) fn chunks_config(len: usize) -> LaunchConfig {
    LaunchConfig::blocks(len.div_ceil(CHUNK).div_ceil(THREADS as usize / CHUNK_LANES), THREADS)
}

/// `partials[p, w] = sum of x[r, w]` over part p of the rows.
pub(super) fn column_sum_partials<Dr: Driver>(
    device: &Cuda<Dr>,
    x: TensorRef<'_, Cuda<Dr>>,
    partials: TensorMut<'_, Cuda<Dr>>,
) -> Result<()> {
    let [rows, width] = x.dims("column_sum", "x")?;
    let kernel = kernel_name!("column_sum_partials", x.dtype());
    let config = parts_config(rows, width);
    device.launch(kernel, config, &[x.into(), partials.into(), (rows as u64).into(), extent(width)])
}

/// `sums[w] += sum of partials[p, w]`, in an order that depends on the number of partials only.
pub(super) fn add_partials<Dr: Driver>(
    device: &Cuda<Dr>,
    partials: TensorRef<'_, Cuda<Dr>>,
    sums: TensorMut<'_, Cuda<Dr>>,
) -> Result<()> {
    let [count, width] = partials.dims("add_partials", "partials")?;
    let args = [partials.into(), sums.into(), extent(count), extent(width)];
    device.launch("add_partials", partials_config(count, width), &args)
}

/// A thread for each group of columns of each part; with columns that cannot be moved in groups, threads stride.
fn parts_config(rows: usize, width: usize) -> LaunchConfig {
    let sums = partial_rows(rows) * width;
    assert!(sums < 1 << 31, "{sums} sums of columns: the kernel counts to 2^31");
    LaunchConfig::groups(sums)
}

/// More threads share a column if there are many partials.
fn partials_config(count: usize, width: usize) -> LaunchConfig {
    if count == 0 {
        return LaunchConfig::blocks(0, THREADS);
    }
    let sharers = count.next_power_of_two().clamp(8, 64);
    let threads = (sharers * COLUMNS) as u32;
    let bytes = bytes_for_warps(threads, COLUMNS);
    LaunchConfig::blocks(width.div_ceil(COLUMNS), threads).with_shared_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_have_sixteen_threads_each() {
        let blocks = |len| chunks_config(len).grid[0];
        assert_eq!([blocks(0), blocks(1), blocks(16 * 1024), blocks(16 * 1024 + 1)], [0, 1, 1, 2]);
    }

    #[test]
    fn many_partials_are_shared_by_many_threads() {
        let config = |count| partials_config(count, 17);
        assert!(config(0).is_empty());
        assert_eq!([config(1), config(9), config(5000)].map(|c| c.threads), [64, 128, 512]);
        assert_eq!([config(1), config(9), config(5000)].map(|c| c.shared_bytes), [64, 128, 512]);
        assert_eq!(config(1).grid, [3, 1, 1]);
    }
}
