//! Matrix products of linear layers: forward, gradient of the input, gradient of the weight.
//!
//! `linear(x)[t, o] = sum_i x[t, i] · weight[o, i] + bias[o]` with the weight as Hugging Face stores it,
//! [out, in]. Operands are stored as f32 or bf16; products and sums are f32 whatever the storage, and an
//! output is rounded to its storage type once, after the whole sum.

pub mod parts;
pub mod reference;

use super::Write;
use super::swiglu::{SwigluKernels, SwigluShape};
use crate::device::Caps;
use crate::{Block, Class, Context, Cost, DType, Device, Result, Storage, TensorMut, TensorRef};

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

    /// See [`linear_add`]. The product of [`Layout::Nt`] with `residual` [m, n] of `c`'s type, which a device may add
    /// where the sums are.
    fn gemm_add(
        &self,
        shape: GemmShape,
        a: TensorRef<'_, Self>,
        b: TensorRef<'_, Self>,
        residual: TensorRef<'_, Self>,
        mut c: TensorMut<'_, Self>,
        workspace: TensorMut<'_, Self>,
    ) -> Result<()> {
        self.copy(residual, c.reborrow())?;
        self.gemm(Layout::Nt, shape, a, b, None, Write::Add, c, workspace)
    }

    /// See [`linear_swiglu`]. `shape` is that of the product, so its n is two widths.
    fn gemm_swiglu(
        &self,
        shape: GemmShape,
        x: TensorRef<'_, Self>,
        weight: TensorRef<'_, Self>,
        mut gate_up: TensorMut<'_, Self>,
        out: TensorMut<'_, Self>,
        workspace: TensorMut<'_, Self>,
    ) -> Result<()>
    where
        Self: SwigluKernels,
    {
        let product = gate_up.reborrow();
        self.gemm(Layout::Nt, shape, x, weight, None, Write::Replace, product, workspace)?;
        let halves = SwigluShape { tokens: shape.m, width: shape.n / 2 };
        self.swiglu_forward(halves, gate_up.as_ref(), out)
    }
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

/// f32 elements of workspace for one product with operands and result of these types. Of a device that packs: panels of
/// `b`, then the sums of a narrower `c`; of one that cuts sums: those of all [`parts`].
pub fn workspace_len(layout: Layout, shape: GemmShape, [a, b, c]: [DType; 3], caps: Caps) -> usize {
    if !caps.packs_products {
        return if caps.cuts_products { parts::parts_len(layout, shape, a, b) } else { 0 };
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
    let shape = check_forward(OP, x, weight)?;
    if let Some(bias) = bias {
        bias.expect(OP, "bias", &[shape.n])?;
        bias.expect_dtype(OP, "bias", weight.dtype())?;
    }
    out.expect(OP, "out", &[shape.m, shape.n])?;
    out.expect_dtype(OP, "out", x.dtype())?;
    record(ctx, OP, shape, x, weight, Write::Replace, out.as_ref());
    product(ctx, Layout::Nt, shape, x, weight, bias, Write::Replace, out)
}

/// `out = x · weightᵀ + residual`, rounded once.
///
/// Shapes: `x` [tokens, in], `weight` [out, in]; `residual` and `out` [tokens, out] of `x`'s dtype; each f32 or bf16.
pub fn linear_add<D: Device>(
    ctx: &Context<D>,
    x: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
    residual: TensorRef<'_, D>,
    out: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "gemm::linear_add";
    let shape = check_forward(OP, x, weight)?;
    residual.expect(OP, "residual", &[shape.m, shape.n])?;
    residual.expect_dtype(OP, "residual", x.dtype())?;
    out.expect(OP, "out", &[shape.m, shape.n])?;
    out.expect_dtype(OP, "out", x.dtype())?;
    let bytes = x.size_bytes() + weight.size_bytes() + 2 * residual.size_bytes();
    ctx.device.record(Cost { op: OP, flops: flops(shape), bytes: bytes as u64 });
    let dtypes = [x.dtype(), weight.dtype(), out.dtype()];
    let mut workspace = workspace(ctx, Layout::Nt, shape, dtypes)?;
    let workspace = workspace.view_mut([workspace.len()]);
    ctx.device.gemm_add(shape, x, weight, residual, out, workspace)
}

/// `gate_up = x · weightᵀ` and `out = silu(gate) · up`, with the bits of [`linear_forward`] and
/// [`swiglu::forward`](super::swiglu::forward).
///
/// Shapes: `x` [tokens, in], `weight` [2 · width, in], gate's rows before up's; `gate_up` [tokens, 2 · width] and `out`
/// [tokens, width] of `x`'s dtype; each f32 or bf16.
pub fn linear_swiglu<D: Device>(
    ctx: &Context<D>,
    x: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
    gate_up: TensorMut<'_, D>,
    out: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "gemm::linear_swiglu";
    let shape = check_forward(OP, x, weight)?;
    let [tokens, width] = out.dims(OP, "out")?;
    weight.expect(OP, "weight", &[2 * width, shape.k])?;
    out.expect(OP, "out", &[shape.m, width])?;
    out.expect_dtype(OP, "out", x.dtype())?;
    gate_up.expect(OP, "gate_up", &[shape.m, 2 * width])?;
    gate_up.expect_dtype(OP, "gate_up", x.dtype())?;
    let bytes = x.size_bytes() + weight.size_bytes() + 3 * out.as_ref().size_bytes();
    let flops = flops(shape) + 5 * (tokens * width) as u64;
    ctx.device.record(Cost { op: OP, flops, bytes: bytes as u64 });
    let dtypes = [x.dtype(), weight.dtype(), out.dtype()];
    let mut workspace = workspace(ctx, Layout::Nt, shape, dtypes)?;
    let workspace = workspace.view_mut([workspace.len()]);
    ctx.device.gemm_swiglu(shape, x, weight, gate_up, out, workspace)
}

/// The product of `x` and `weight` [out, in].
fn check_forward<D: Device>(
    op: &'static str,
    x: TensorRef<'_, D>,
    weight: TensorRef<'_, D>,
) -> Result<GemmShape> {
    let [tokens, inputs] = x.dims(op, "x")?;
    let [outputs, _] = weight.dims(op, "weight")?;
    x.expect_float(op, "x")?;
    weight.expect(op, "weight", &[outputs, inputs])?;
    weight.expect_float(op, "weight")?;
    Ok(GemmShape { m: tokens, n: outputs, k: inputs })
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
    let mut workspace = workspace(ctx, layout, shape, [a.dtype(), b.dtype(), c.dtype()])?;
    let workspace = workspace.view_mut([workspace.len()]);
    ctx.device.gemm(layout, shape, a, b, bias, write, c, workspace)
}

fn workspace<D: GemmKernels>(
    ctx: &Context<D>,
    layout: Layout,
    shape: GemmShape,
    dtypes: [DType; 3],
) -> Result<Block<D>> {
    let len = workspace_len(layout, shape, dtypes, ctx.device.caps());
    ctx.arena.block(Class::Workspace, DType::F32, len)
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
