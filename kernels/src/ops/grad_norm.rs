//! The global gradient norm as a sum whose order depends on nothing but the number of elements.
//!
//! [`sum_of_squares`] makes one partial per [`CHUNK`] elements by flat index. A rank that holds a slice
//! makes the partials of its slice (slices are multiples of `CHUNK`), the ranks gather them, and every rank
//! adds all of them by [`tree_sum`]: the bits are those of one rank that holds everything.

use super::{CHUNK, Write};
use crate::{Context, Cost, DType, Device, Result, Storage, TensorMut, TensorRef};

/// Device side of this family. Arguments have been checked by the functions below.
pub trait GradNormKernels: Storage {
    /// See [`sum_of_squares`].
    fn sum_of_squares(&self, x: TensorRef<'_, Self>, partials: TensorMut<'_, Self>) -> Result<()>;

    /// See [`tree_sum`]; the sum replaces `out[0]` or is added to it.
    fn tree_sum(&self, write: Write, partials: TensorMut<'_, Self>, out: TensorMut<'_, Self>) -> Result<()>;
}

/// `partials[c] = sum of x[i]²` over the elements `c · CHUNK <= i < (c + 1) · CHUNK`.
///
/// Shapes: `x` `[n]` f32; `partials` `[n / CHUNK, rounded up]` f32. Inside a chunk, 16 interleaved sums of
/// products rounded before they are added, then their pairwise tree.
pub fn sum_of_squares<D: Device>(
    ctx: &Context<D>,
    x: TensorRef<'_, D>,
    partials: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "grad_norm::sum_of_squares";
    let [len] = x.dims(OP, "x")?;
    x.expect_dtype(OP, "x", DType::F32)?;
    let chunks = len.div_ceil(CHUNK);
    partials.expect(OP, "partials", &[chunks])?;
    partials.expect_dtype(OP, "partials", DType::F32)?;
    let bytes = (x.size_bytes() + 4 * chunks) as u64;
    ctx.device.record(Cost { op: OP, flops: 2 * len as u64, bytes });
    ctx.device.sum_of_squares(x, partials)
}

/// `out[0]` = the sum of all partials as a tree over their index: adjacent pairs are added, level by level,
/// `((0 + 1) + (2 + 3)) + ...`; the last one of an odd level is carried up as it is. The tree is a function
/// of the number of partials only, and a whole aligned range of `2^k` partials is one node of it. The sum
/// of none is 0.
///
/// Shapes: `partials` `[m]` f32, whose contents are used up; `out` `[1]` f32.
pub fn tree_sum<D: Device>(
    ctx: &Context<D>,
    partials: TensorMut<'_, D>,
    out: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "grad_norm::tree_sum";
    let [len] = partials.dims(OP, "partials")?;
    partials.expect_dtype(OP, "partials", DType::F32)?;
    out.expect(OP, "out", &[1])?;
    out.expect_dtype(OP, "out", DType::F32)?;
    ctx.device.record(Cost { op: OP, flops: len as u64, bytes: (4 * len + 4) as u64 });
    ctx.device.tree_sum(Write::Replace, partials, out)
}

/// The definitions: sums in f64, and the tree in f32, whose bits devices must reproduce.
pub mod reference {
    use super::CHUNK;

    /// One sum of squares per chunk.
    pub fn sum_of_squares(x: &[f64]) -> Vec<f64> {
        x.chunks(CHUNK).map(|chunk| chunk.iter().map(|x| x * x).sum()).collect()
    }

    /// The tree of [`tree_sum`](super::tree_sum), seen from its root: the left branch holds the largest
    /// power of two below the number of partials.
    pub fn tree_sum(partials: &[f32]) -> f32 {
        match partials {
            [] => 0.0,
            [one] => *one,
            _ => {
                let (left, right) = partials.split_at(partials.len().next_power_of_two() / 2);
                tree_sum(left) + tree_sum(right)
            }
        }
    }
}
