//! Elementwise addition, conversion and filling, the combination of several tensors into one (what ranks do
//! with each other's gradients), and the two plain sums: of a column (bias gradients) and of everything.
//!
//! Arithmetic is f32 whatever the storage. Every sum has an order that is a function of its length only.

use super::{CHUNK, Write, partial_rows};
use crate::{Class, Context, Cost, DType, Device, Result, Storage, TensorMut, TensorRef};

/// Device side of this family. Arguments have been checked by the functions below.
pub trait ElementwiseKernels: Storage {
    /// See [`add_assign`].
    fn add_assign(&self, x: TensorRef<'_, Self>, y: TensorMut<'_, Self>) -> Result<()>;

    /// See [`combine`]. There is at least one other tensor.
    fn combine(
        &self,
        how: Combine,
        before: &[TensorRef<'_, Self>],
        own: TensorMut<'_, Self>,
        after: &[TensorRef<'_, Self>],
    ) -> Result<()>;

    /// See [`cast`].
    fn cast(&self, src: TensorRef<'_, Self>, dst: TensorMut<'_, Self>) -> Result<()>;

    /// See [`fill`].
    fn fill(&self, value: f32, dst: TensorMut<'_, Self>) -> Result<()>;

    /// See [`column_sum`]. `partials` has [`partial_rows`]`(rows)` × width f32 elements; `x` is not empty.
    fn column_sum(
        &self,
        x: TensorRef<'_, Self>,
        sums: TensorMut<'_, Self>,
        partials: TensorMut<'_, Self>,
    ) -> Result<()>;

    /// `partials[c] = sum of x[i]` over the elements `c · CHUNK <= i < (c + 1) · CHUNK`; x f32.
    fn chunk_sums(&self, x: TensorRef<'_, Self>, partials: TensorMut<'_, Self>) -> Result<()>;
}

/// `y += x`, rounded once to the dtype of `y`.
///
/// Shapes: `x`, `y` equal, of any rank; f32 or bf16 each.
pub fn add_assign<D: Device>(ctx: &Context<D>, x: TensorRef<'_, D>, y: TensorMut<'_, D>) -> Result<()> {
    const OP: &str = "elementwise::add_assign";
    x.expect_float(OP, "x")?;
    y.expect(OP, "y", x.shape().dims())?;
    y.expect_float(OP, "y")?;
    let bytes = (x.size_bytes() + 2 * y.as_ref().size_bytes()) as u64;
    ctx.device.record(Cost { op: OP, flops: x.len() as u64, bytes });
    ctx.device.add_assign(x, y)
}

/// How [`combine`] makes one number of two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Combine {
    /// Their sum; of integers, modulo 2^32 (or 2^8).
    Sum,
    /// The larger; NaN if either is NaN.
    Max,
}

/// `own = ` the combination of `before`, `own` and `after`, element by element, in the order of
/// [`grad_norm::tree_sum`](super::grad_norm::tree_sum) over the tensors: adjacent pairs, level by level,
/// `((0 + 1) + (2 + 3)) + ...`. So an aligned group of `2^k` tensors is one node: combining groups first, then
/// their results, gives the same bits. Floating-point arithmetic is f32 with one rounding at the end.
///
/// Takes no workspace, hence no context: communicators call it on threads of their own.
///
/// Shapes: all equal, of any rank and dtype.
pub fn combine<D: Device>(
    device: &D,
    how: Combine,
    before: &[TensorRef<'_, D>],
    own: TensorMut<'_, D>,
    after: &[TensorRef<'_, D>],
) -> Result<()> {
    const OP: &str = "elementwise::combine";
    for other in before.iter().chain(after) {
        other.expect(OP, "other", own.shape().dims())?;
        other.expect_dtype(OP, "other", own.dtype())?;
    }
    let others = before.len() + after.len();
    let bytes = (others + 2) * own.as_ref().size_bytes();
    device.record(Cost { op: OP, flops: (others * own.len()) as u64, bytes: bytes as u64 });
    if others == 0 || own.is_empty() {
        return Ok(());
    }
    device.combine(how, before, own, after)
}

/// `dst = src`, rounded to nearest (ties to even) where `dst` is narrower.
///
/// Shapes: `src`, `dst` equal, of any rank; f32 or bf16 each.
pub fn cast<D: Device>(ctx: &Context<D>, src: TensorRef<'_, D>, dst: TensorMut<'_, D>) -> Result<()> {
    const OP: &str = "elementwise::cast";
    src.expect_float(OP, "src")?;
    dst.expect(OP, "dst", src.shape().dims())?;
    dst.expect_float(OP, "dst")?;
    let bytes = (src.size_bytes() + dst.as_ref().size_bytes()) as u64;
    ctx.device.record(Cost { op: OP, flops: 0, bytes });
    ctx.device.cast(src, dst)
}

/// `dst = value`, rounded to the dtype of `dst`: f32 or bf16, of any shape.
pub fn fill<D: Device>(ctx: &Context<D>, value: f32, dst: TensorMut<'_, D>) -> Result<()> {
    const OP: &str = "elementwise::fill";
    dst.expect_float(OP, "dst")?;
    ctx.device.record(Cost { op: OP, flops: 0, bytes: dst.as_ref().size_bytes() as u64 });
    ctx.device.fill(value, dst)
}

/// `sums[w] += sum_r x[r, w]`: the gradient of a bias.
///
/// Shapes: `x` `[rows, width]` f32 or bf16; `sums` `[width]` f32. Partial sums of
/// [`ROWS_PER_PARTIAL`](super::ROWS_PER_PARTIAL) rows, each in the order of rows, are added in order.
pub fn column_sum<D: Device>(ctx: &Context<D>, x: TensorRef<'_, D>, sums: TensorMut<'_, D>) -> Result<()> {
    const OP: &str = "elementwise::column_sum";
    let [rows, width] = x.dims(OP, "x")?;
    x.expect_float(OP, "x")?;
    sums.expect(OP, "sums", &[width])?;
    sums.expect_dtype(OP, "sums", DType::F32)?;
    let bytes = (x.size_bytes() + 8 * width) as u64;
    ctx.device.record(Cost { op: OP, flops: x.len() as u64, bytes });
    if x.is_empty() {
        return Ok(());
    }
    let partial_rows = partial_rows(rows);
    let mut partials = ctx.arena.block(Class::Workspace, DType::F32, partial_rows * width)?;
    ctx.device.column_sum(x, sums, partials.view_mut([partial_rows, width]))
}

/// `out[0] = sum_i x[i]`, or added to `out[0]`: sums of [`CHUNK`] elements by flat index, then the tree of
/// [`grad_norm::tree_sum`](super::grad_norm::tree_sum). The order is a function of the length only.
///
/// Shapes: `x` `[n]` f32; `out` `[1]` f32.
pub fn sum<D: Device>(
    ctx: &Context<D>,
    x: TensorRef<'_, D>,
    write: Write,
    out: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "elementwise::sum";
    let [len] = x.dims(OP, "x")?;
    x.expect_dtype(OP, "x", DType::F32)?;
    out.expect(OP, "out", &[1])?;
    out.expect_dtype(OP, "out", DType::F32)?;
    ctx.device.record(Cost { op: OP, flops: len as u64, bytes: (x.size_bytes() + 4) as u64 });
    let chunks = len.div_ceil(CHUNK);
    let mut partials = ctx.arena.block(Class::Workspace, DType::F32, chunks)?;
    ctx.device.chunk_sums(x, partials.view_mut([chunks]))?;
    ctx.device.tree_sum(write, partials.view_mut([chunks]), out)
}

/// The definitions in f64.
pub mod reference {
    use super::Combine;

    /// The combination of tensors of one length.
    pub fn combine(how: Combine, tensors: &[Vec<f64>]) -> Vec<f64> {
        let max = |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
        (0..tensors[0].len())
            .map(|i| {
                let terms = tensors.iter().map(|tensor| tensor[i]);
                match how {
                    Combine::Sum => terms.sum(),
                    Combine::Max => terms.fold(f64::NEG_INFINITY, max),
                }
            })
            .collect()
    }

    /// Returns `sums + sum_r x[r, w]`.
    pub fn column_sum(x: &[f64], sums: &[f64]) -> Vec<f64> {
        let mut sums = sums.to_vec();
        for row in x.chunks_exact(sums.len()) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
        sums
    }

    /// Sum of all elements.
    pub fn sum(x: &[f64]) -> f64 {
        x.iter().sum()
    }
}
