//! Matrix products of linear layers: forward, gradient of the input, gradient of the weight.
//!
//! `linear(x)[t, o] = sum_i x[t, i] · weight[o, i] + bias[o]` with the weight as Hugging Face stores it,
//! [out, in]. Operands are stored as f32 or bf16; products and sums are f32 whatever the storage, and an
//! output is rounded to its storage type once, after the whole sum.

use super::Write;
use crate::device::Caps;
use crate::{Class, Context, Cost, DType, Device, Result, Storage, TensorMut, TensorRef};

/// Extents of one product: `c` is [m, n] and sums over k.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GemmShape {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
}

/// How the operands of `c[m, n] = sum_k a · b` lie in memory; `c` is always [m, n], row-major.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// `a` is [m, k], `b` is [n, k]: a linear layer's forward.
    Nt,
    /// `a` is [m, k], `b` is [k, n]: the gradient of its input.
    Nn,
    /// `a` is [k, m], `b` is [k, n]: the gradient of its weight.
    Tn,
}

/// Device side of this family. Arguments have been checked by the functions below.
pub trait GemmKernels: Storage {
    /// `c = a·b + bias` or `c += a·b`. Operands may differ in storage type; `bias` `[n]` comes only with
    /// [`Write::Replace`]; `workspace` has [`workspace_len`] f32 elements.
    fn gemm(
        &self,
        layout: Layout,
        shape: GemmShape,
        a: TensorRef<'_, Self>,
        b: TensorRef<'_, Self>,
        bias: Option<TensorRef<'_, Self>>,
        write: Write,
        c: TensorMut<'_, Self>,
        workspace: TensorMut<'_, Self>,
    ) -> Result<()>;
}

/// Columns of `b` that a device which packs them copies at a time: all of them, up to [`PACKED_LEN`]
/// elements, in whole panels of [`PANEL_COLUMNS`].
pub fn packed_columns(shape: GemmShape) -> usize {
    let most = PACKED_LEN / shape.k.max(1) / PANEL_COLUMNS * PANEL_COLUMNS;
    shape.n.next_multiple_of(PANEL_COLUMNS).min(most.max(PANEL_COLUMNS))
}

/// Columns of a panel.
pub const PANEL_COLUMNS: usize = 32;

/// Most elements packed at a time (16 MiB), unless one panel has more.
pub const PACKED_LEN: usize = 1 << 22;

/// f32 elements of workspace for one product with operands and result of these types: panels of `b`,
/// then the sums of a narrower `c`.
pub fn workspace_len(shape: GemmShape, c: DType, caps: Caps) -> usize {
    if !caps.packs_products {
        return 0;
    }
    let sums = if c == DType::F32 { 0 } else { shape.m * shape.n };
    packed_columns(shape) * shape.k + sums
}

/// `out = x · weightᵀ + bias`.
///
/// Shapes: `x` [tokens, in], `out` [tokens, out] of one dtype; `weight` [out, in] and `bias` `[out]` of one
/// dtype; each f32 or bf16.
pub fn linear_forward<D: Device>(
    ctx: &Context<D>,
    x: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
    bias: Option<TensorRef<'_, D>>,
    out: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "gemm::linear_forward";
    let [tokens, inputs] = x.dims(OP, "x")?;
    let [outputs, _] = weight.dims(OP, "weight")?;
    x.expect_float(OP, "x")?;
    weight.expect(OP, "weight", &[outputs, inputs])?;
    weight.expect_float(OP, "weight")?;
    if let Some(bias) = bias {
        bias.expect(OP, "bias", &[outputs])?;
        bias.expect_dtype(OP, "bias", weight.dtype())?;
    }
    out.expect(OP, "out", &[tokens, outputs])?;
    out.expect_dtype(OP, "out", x.dtype())?;
    let shape = GemmShape { m: tokens, n: outputs, k: inputs };
    record(ctx, OP, shape, x, weight, Write::Replace, out.as_ref());
    product(ctx, Layout::Nt, shape, x, weight, bias, Write::Replace, out)
}

/// `dx = dout · weight`, replacing `dx` or added to it.
///
/// Shapes: `dout` [tokens, out], `dx` [tokens, in] of one dtype; `weight` [out, in]; each f32 or bf16.
pub fn linear_backward_input<D: Device>(
    ctx: &Context<D>,
    dout: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
    write: Write,
    dx: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "gemm::linear_backward_input";
    let [tokens, outputs] = dout.dims(OP, "dout")?;
    let [_, inputs] = weight.dims(OP, "weight")?;
    dout.expect_float(OP, "dout")?;
    weight.expect(OP, "weight", &[outputs, inputs])?;
    weight.expect_float(OP, "weight")?;
    dx.expect(OP, "dx", &[tokens, inputs])?;
    dx.expect_dtype(OP, "dx", dout.dtype())?;
    let shape = GemmShape { m: tokens, n: inputs, k: outputs };
    record(ctx, OP, shape, dout, weight, write, dx.as_ref());
    product(ctx, Layout::Nn, shape, dout, weight, None, write, dx)
}

/// `dweight += doutᵀ · x`, the sum over tokens.
///
/// Shapes: `dout` [tokens, out], `x` [tokens, in] of one dtype, f32 or bf16; `dweight` [out, in] f32.
pub fn linear_backward_weight<D: Device>(
    ctx: &Context<D>,
    dout: TensorRef<'_, D>,
    x: TensorRef<'_, D>,
    dweight: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "gemm::linear_backward_weight";
    let [tokens, outputs] = dout.dims(OP, "dout")?;
    let [_, inputs] = x.dims(OP, "x")?;
    dout.expect_float(OP, "dout")?;
    x.expect(OP, "x", &[tokens, inputs])?;
    x.expect_dtype(OP, "x", dout.dtype())?;
    dweight.expect(OP, "dweight", &[outputs, inputs])?;
    dweight.expect_dtype(OP, "dweight", DType::F32)?;
    let shape = GemmShape { m: outputs, n: inputs, k: tokens };
    record(ctx, OP, shape, dout, x, Write::Add, dweight.as_ref());
    product(ctx, Layout::Tn, shape, dout, x, None, Write::Add, dweight)
}

/// One product with its workspace. Counts no cost: ops made of products state their own.
pub(super) fn product<D: GemmKernels>(
    ctx: &Context<D>,
    layout: Layout,
    shape: GemmShape,
    a: TensorRef<'_, D>,
    b: TensorRef<'_, D>,
    bias: Option<TensorRef<'_, D>>,
    write: Write,
    c: TensorMut<'_, D>,
) -> Result<()> {
    let len = workspace_len(shape, c.dtype(), ctx.device.caps());
    let mut workspace = ctx.arena.block(Class::Workspace, DType::F32, len)?;
    ctx.device.gemm(layout, shape, a, b, bias, write, c, workspace.view_mut([len]))
}

/// FLOPs of one product: a multiplication and an addition per term.
pub(super) fn flops(shape: GemmShape) -> u64 {
    2 * shape.m as u64 * shape.n as u64 * shape.k as u64
}

fn record<D: Storage>(
    ctx: &Context<D>,
    op: &'static str,
    shape: GemmShape,
    a: TensorRef<'_, D>,
    b: TensorRef<'_, D>,
    write: Write,
    c: TensorRef<'_, D>,
) {
    let passes = if write == Write::Add { 2 } else { 1 };
    let bytes = a.size_bytes() + b.size_bytes() + passes * c.size_bytes();
    ctx.device.record(Cost { op, flops: flops(shape), bytes: bytes as u64 });
}

/// The definition in f64, one sum after the other.
pub mod reference {
    use super::{GemmShape, Layout};

    /// Returns `c` [m, n].
    pub fn product(layout: Layout, shape: GemmShape, a: &[f64], b: &[f64]) -> Vec<f64> {
        let GemmShape { m, n, k } = shape;
        let mut c = Vec::with_capacity(m * n);
        for row in 0..m {
            for column in 0..n {
                let term = |i: usize| match layout {
                    Layout::Nt => a[row * k + i] * b[column * k + i],
                    Layout::Nn => a[row * k + i] * b[i * n + column],
                    Layout::Tn => a[i * m + row] * b[i * n + column],
                };
                c.push((0..k).map(term).sum());
            }
        }
        c
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::ops::check_gradient;
        use crate::testing::normal_f64;

        #[test]
        fn backward_products_equal_central_differences_of_the_forward_product() {
            let (tokens, outputs, inputs) = (3, 4, 5);
            let (x, weight) = (normal_f64(1, tokens * inputs), normal_f64(2, outputs * inputs));
            let dout = normal_f64(3, tokens * outputs);
            let loss = |x: &[f64], weight: &[f64]| -> f64 {
                let shape = GemmShape { m: tokens, n: outputs, k: inputs };
                product(Layout::Nt, shape, x, weight).iter().zip(&dout).map(|(y, d)| y * d).sum()
            };
            let dx = product(Layout::Nn, GemmShape { m: tokens, n: inputs, k: outputs }, &dout, &weight);
            let dweight = product(Layout::Tn, GemmShape { m: outputs, n: inputs, k: tokens }, &dout, &x);
            check_gradient("dx", &x, &dx, |x| loss(x, &weight));
            check_gradient("dweight", &weight, &dweight, |weight| loss(&x, weight));
        }
    }
}
