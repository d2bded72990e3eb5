//! Sums of squares and trees of partial sums on a GPU.

use super::driver::Driver;
use super::launch::bytes_for_warps;
use super::{Arg, Cuda, LaunchConfig, THREADS};
use crate::ops::grad_norm::GradNormKernels;
use crate::ops::{CHUNK, Write};
use crate::{Result, TensorMut, TensorRef};

impl<Dr: Driver> GradNormKernels for Cuda<Dr> {
    fn sum_of_squares(&self, x: TensorRef<'_, Self>, partials: TensorMut<'_, Self>) -> Result<()> {
        let (config, len) = (chunks_config(partials.len()), x.len() as u64);
        self.launch("sum_of_squares", config, &[x.into(), partials.into(), len.into()])
    }

    fn tree_sum(
        &self,
        write: Write,
        mut partials: TensorMut<'_, Self>,
        out: TensorMut<'_, Self>,
    ) -> Result<()> {
        let mut level = Level::leaves(partials.len());
        while let Some(above) = level.above() {
            let [count, distance] = level.args();
            let nodes = partials.reborrow().into();
            self.launch("tree_sum_level", tree_config(above.count), &[nodes, count, distance])?;
            level = above;
        }
        let ([count, distance], adds) = (level.args(), u32::from(write == Write::Add));
        let args = [partials.into(), count, distance, out.into(), adds.into()];
        self.launch("tree_sum_root", tree_config(1), &args)
    }
}

/// For [`sum_of_squares`](GradNormKernels::sum_of_squares): 16 threads for each chunk.
fn chunks_config(chunks: usize) -> LaunchConfig {
    const CHUNKS_PER_BLOCK: usize = THREADS as usize / 16;
    LaunchConfig::blocks(chunks.div_ceil(CHUNKS_PER_BLOCK), THREADS)
}

/// Leaves that a block of the tree makes into one node: a power of two, so that it is one.
const NODES_PER_BLOCK: usize = CHUNK;

fn tree_config(blocks: usize) -> LaunchConfig {
    LaunchConfig::blocks(blocks, THREADS).with_shared_bytes(bytes_for_warps(THREADS, 1))
}

/// Nodes of the tree between two launches: where they lie among the leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Level {
    count: usize,
    distance: usize,
}

impl Level {
    fn leaves(count: usize) -> Self {
        Level { count, distance: 1 }
    }

    /// The nodes of blocks of these, unless one block has all.
    fn above(self) -> Option<Self> {
        let above =
            Level { count: self.count.div_ceil(NODES_PER_BLOCK), distance: self.distance * NODES_PER_BLOCK };
        (self.count > NODES_PER_BLOCK).then_some(above)
    }

    /// As two arguments of a kernel.
    fn args<'a, M>(self) -> [Arg<'a, M>; 2] {
        [self.count, self.distance].map(|value| Arg::U64(value as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(leaves: usize) -> Vec<(usize, usize)> {
        let levels = std::iter::successors(Some(Level::leaves(leaves)), |level| level.above());
        levels.map(|Level { count, distance }| (count, distance)).collect()
    }

    #[test]
    fn every_level_has_a_node_for_each_1024_of_the_level_below() {
        assert_eq!(levels(0), [(0, 1)]);
        assert_eq!(levels(1024), [(1024, 1)]);
        assert_eq!(levels(1025), [(1025, 1), (2, 1024)]);
        assert_eq!(levels(1 << 20), [(1 << 20, 1), (1024, 1024)]);
        assert_eq!(levels((1 << 20) + 1), [((1 << 20) + 1, 1), (1025, 1024), (2, 1 << 20)]);
    }

    #[test]
    fn a_block_takes_sixteen_chunks() {
        let blocks = |chunks| chunks_config(chunks).grid[0];
        assert_eq!([blocks(0), blocks(1), blocks(16), blocks(17)], [0, 1, 1, 2]);
    }
}
