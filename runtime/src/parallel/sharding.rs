//! Which slice of every flat group a rank owns, by mesh and ZeRO stage. Pure arithmetic.
//!
//! | stage | whole on every rank | a `dp_shard`-th on every rank |
//! |---|---|---|
//! | 0 | parameters, gradients, optimizer state | |
//! | 1 | parameters, gradients | optimizer state |
//! | 2 | parameters | gradients, optimizer state |
//! | 3 | | parameters, gradients, optimizer state |
//!
//! (Rajbhandari et al., ZeRO, arXiv:1910.02054.) Along `dp_replicate` everything is whole.

use std::ops::Range;

use tisserand_collectives::{Axis, Mesh, Placement};

use super::TpRank;
use crate::params::GroupLayout;

/// The place of one rank.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sharding {
    /// Sizes of the axes.
    pub mesh: Mesh,
    /// This rank.
    pub rank: usize,
    /// ZeRO stage, 0 to 3.
    pub zero: u8,
    /// Whether sums are taken in an order that is the same for every data-parallel mesh: each micro-batch's
    /// gradient in a zeroed buffer of its own, then a binary tree over the micro-batches of the global batch.
    pub mesh_invariant: bool,
}

impl Sharding {
    /// One rank that has everything.
    pub fn single() -> Self {
        Sharding { mesh: Mesh::new(1, 1, 1), rank: 0, zero: 0, mesh_invariant: false }
    }

    /// This rank's place on an axis.
    pub fn coordinate(&self, axis: Axis) -> usize {
        self.mesh.coordinate(self.rank, axis)
    }

    /// This rank's place along `tp`.
    pub fn tp(&self) -> TpRank {
        TpRank { size: self.mesh.size(Axis::Tp), rank: self.coordinate(Axis::Tp) }
    }

    /// Number of ranks that share what is sharded.
    pub fn shards(&self) -> usize {
        self.mesh.size(Axis::DpShard)
    }

    /// Whether a rank has a slice of the optimizer state only. A slice of one is the whole.
    pub fn shards_state(&self) -> bool {
        self.zero >= 1 && self.shards() > 1
    }

    /// Whether a rank keeps a slice of the gradients only.
    pub fn shards_gradients(&self) -> bool {
        self.zero >= 2 && self.shards() > 1
    }

    /// Whether a rank keeps a slice of the compute copy only.
    pub fn shards_parameters(&self) -> bool {
        self.zero == 3 && self.shards() > 1
    }

    /// Elements of a flat group, so padded that every slice ends on a chunk of the fixed-order reductions.
    /// Parameters lie at the same offsets whatever the mesh.
    pub fn padded_len(&self, group: &GroupLayout) -> usize {
        group.padded_len(self.shards())
    }

    /// The elements of a flat group whose optimizer state this rank has.
    pub fn slice(&self, group: &GroupLayout) -> Range<usize> {
        let len = self.padded_len(group);
        match self.shards_state() {
            true => Placement::local_range(len, self.shards(), self.coordinate(Axis::DpShard)),
            false => 0..len,
        }
    }

    /// This rank's micro-batches of a step, by their numbers in the global batch, in the order of its
    /// micro-steps. Gradients are summed over time, shards and replicas; the order of these is that of the bits
    /// of the number, lowest first: with one reduction per step time comes first, with one per micro-step
    /// `dp_shard`.
    pub fn leaves(&self, micro_steps: usize) -> Vec<usize> {
        let (shard, replica) = (self.coordinate(Axis::DpShard), self.coordinate(Axis::DpReplicate));
        let shards = self.shards();
        let leaf = |i| match self.shards_gradients() {
            true => shard + shards * (i + micro_steps * replica),
            false => i + micro_steps * (shard + shards * replica),
        };
        (0..micro_steps).map(leaf).collect()
    }

    /// Ranks with the same slices as this one, and this one's place among them: they share out the work of
    /// writing checkpoints.
    pub fn replicas(&self) -> (usize, usize) {
        let (shard, replica) = (self.coordinate(Axis::DpShard), self.coordinate(Axis::DpReplicate));
        let replicates = self.mesh.size(Axis::DpReplicate);
        match self.shards_state() {
            true => (replicates, replica),
            false => (replicates * self.shards(), replica * self.shards() + shard),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sharding(mesh: [usize; 3], rank: usize, zero: u8) -> Sharding {
        let mesh = Mesh::new(mesh[0], mesh[1], mesh[2]);
        Sharding { mesh, rank, zero, mesh_invariant: false }
    }

    #[test]
    fn slices_cover_a_group_once_and_end_on_chunks() {
        let group = GroupLayout { params: Vec::new(), len: 5000 };
        let slices: Vec<_> = (0..3).map(|rank| sharding([1, 3, 1], rank, 1).slice(&group)).collect();
        assert_eq!(slices, [0..2048, 2048..4096, 4096..6144]);
        assert_eq!(sharding([1, 3, 1], 2, 0).slice(&group), 0..6144);
        assert_eq!(sharding([3, 1, 1], 2, 3).slice(&group), 0..5120);
    }

    #[test]
    fn every_micro_batch_belongs_to_one_rank() {
        for (mesh, zero) in [([2, 4, 1], 1), ([2, 4, 1], 3), ([4, 1, 1], 2), ([1, 3, 1], 0)] {
            let dp = mesh[0] * mesh[1];
            let mut all: Vec<usize> = (0..dp).flat_map(|rank| sharding(mesh, rank, zero).leaves(4)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..4 * dp).collect::<Vec<_>>(), "{mesh:?} {zero}");
        }
        assert_eq!(sharding([2, 2, 1], 3, 1).leaves(2), [6, 7]);
        assert_eq!(sharding([2, 2, 1], 3, 2).leaves(2), [5, 7]);
    }

    #[test]
    fn a_slice_of_one_is_the_whole() {
        let one = sharding([4, 1, 1], 1, 3);
        assert!(!one.shards_state() && !one.shards_gradients() && !one.shards_parameters());
        assert_eq!(one.replicas(), (4, 1));
        assert_eq!(sharding([2, 4, 1], 5, 0).replicas(), (8, 5));
        assert_eq!(sharding([2, 4, 1], 5, 1).replicas(), (2, 1));
    }
}
