//! Where the elements of a global tensor lie along one mesh axis. Pure arithmetic.

use std::ops::Range;

/// Placement of a tensor along one axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Every rank holds all of it.
    Replicate,
    /// Every rank holds an equal range of this dimension.
    Shard {
        /// The dimension that is cut.
        dim: usize,
    },
    /// Every rank holds an equal range of the flat, padded buffer.
    Flat,
    /// Every rank holds a term; the tensor is their sum.
    Partial,
}

impl Placement {
    /// The part of an extent (a dimension, or a flat length) that `rank` of `size` holds.
    ///
    /// # Panics
    /// If the ranks do not divide the extent: meshes are validated before.
    pub fn local_range(extent: usize, size: usize, rank: usize) -> Range<usize> {
        assert!(extent.is_multiple_of(size), "{size} ranks do not divide an extent of {extent}");
        let len = extent / size;
        rank * len..(rank + 1) * len
    }
}
