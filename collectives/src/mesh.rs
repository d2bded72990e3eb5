//! The mesh: how ranks are arranged along named axes.

/// An axis of the mesh, outer to inner: neighbours on `tp` are neighbours in rank order. The names `pp`,
/// `cp` and `ep` are reserved for axes to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Axis {
    /// Data parallel, parameters replicated.
    DpReplicate,
    /// Data parallel, optimizer state (and, by ZeRO stage, gradients and parameters) sharded.
    DpShard,
    /// Tensor parallel.
    Tp,
}

impl Axis {
    /// Every axis, outer to inner.
    pub const ALL: [Axis; 3] = [Axis::DpReplicate, Axis::DpShard, Axis::Tp];

    /// The name in run files, logs and manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Axis::DpReplicate => "dp_replicate",
            Axis::DpShard => "dp_shard",
            Axis::Tp => "tp",
        }
    }
}

/// Sizes of the axes; rank = (replicate · dp_shard + shard) · tp + tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mesh {
    sizes: [usize; 3],
}

impl Mesh {
    /// A mesh of these sizes, each at least 1.
    pub fn new(dp_replicate: usize, dp_shard: usize, tp: usize) -> Self {
        Mesh { sizes: [dp_replicate, dp_shard, tp] }
    }

    /// Ranks along an axis.
    pub fn size(&self, axis: Axis) -> usize {
        self.sizes[axis as usize]
    }

    /// All ranks.
    pub fn world_size(&self) -> usize {
        self.sizes.iter().product()
    }

    /// Ranks that see different data.
    pub fn dp(&self) -> usize {
        self.size(Axis::DpReplicate) * self.size(Axis::DpShard)
    }

    /// A rank's place on an axis.
    pub fn coordinate(&self, rank: usize, axis: Axis) -> usize {
        let inner: usize = self.sizes[axis as usize + 1..].iter().product();
        rank / inner % self.size(axis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_and_rank_agree() {
        let mesh = Mesh::new(2, 3, 4);
        for rank in 0..mesh.world_size() {
            let [replicate, shard, tp] = Axis::ALL.map(|axis| mesh.coordinate(rank, axis));
            assert_eq!((replicate * 3 + shard) * 4 + tp, rank);
        }
    }
}
