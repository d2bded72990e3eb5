//! Causal grouped-query attention over packed documents.
//!
//! `out[i, h] = sum_j softmax_j(scale · q[i, h] · k[j, g]) v[j, g]` with `g = h · num_kv_heads / num_heads`
//! and `scale = 1 / sqrt(head_dim)`. Documents lie one after the other in one buffer; query and key lengths
//! of a document may differ (KV cache), the last query then being aligned with the last key.
//! The softmax is computed block by block with a running maximum (Milakov and Gimelshein, arXiv:1805.02867;
//! Dao, arXiv:2307.08691): memory is linear in length, and only `logsumexp` is saved for the backward pass,
//! which recomputes the probabilities. Arithmetic is f32 whatever the storage.

use crate::{Class, Context, Cost, DType, Device, KernelError, Result, Storage, TensorMut, TensorRef};

pub mod reference;

/// What is computed; lengths come with the tensors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head; even, at most [`AttentionShape::MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// How many tokens back a query sees, itself included; none for all.
    pub window: Option<usize>,
    /// The longest document that the caller admits; `usize::MAX` for one as long as the tensors. FLOPs are
    /// counted as if all were as long: the bounds' values are not known where costs are counted.
    pub longest: usize,
}

impl AttentionShape {
    /// The widest head that devices have tiles for.
    pub const MAX_HEAD_DIM: usize = 256;

    /// Query heads that share one key head.
    pub fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// Factor of the logits: `1 / sqrt(head_dim)`.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Pairs of a query and a key that it sees, for one head and one document.
    pub fn visible_pairs(&self, queries: usize, keys: usize) -> u64 {
        let window = self.window.unwrap_or(usize::MAX);
        (0..queries).map(|i| (i + 1 + keys).saturating_sub(queries).min(window) as u64).sum()
    }
}

/// Device side of this family. Arguments have been checked by the functions below; the values of the
/// bounds are the caller's promise.
pub trait AttentionKernels: Storage {
    /// See [`forward`]. `by_token` is workspace, [tokens, num_heads] f32.
    fn attention_forward(
        &self,
        shape: AttentionShape,
        q: TensorRef<'_, Self>,
        k: TensorRef<'_, Self>,
        v: TensorRef<'_, Self>,
        cu_seqlens_q: TensorRef<'_, Self>,
        cu_seqlens_k: TensorRef<'_, Self>,
        out: TensorMut<'_, Self>,
        logsumexp: TensorMut<'_, Self>,
        by_token: TensorMut<'_, Self>,
    ) -> Result<()>;

    /// See [`backward`]. `workspace` has [`backward_workspace_len`] f32 elements.
    fn attention_backward(
        &self,
        shape: AttentionShape,
        q: TensorRef<'_, Self>,
        k: TensorRef<'_, Self>,
        v: TensorRef<'_, Self>,
        cu_seqlens_q: TensorRef<'_, Self>,
        cu_seqlens_k: TensorRef<'_, Self>,
        logsumexp: TensorRef<'_, Self>,
        dout: TensorRef<'_, Self>,
        dq: TensorMut<'_, Self>,
        dk: TensorMut<'_, Self>,
        dv: TensorMut<'_, Self>,
        workspace: TensorMut<'_, Self>,
    ) -> Result<()>;
}

/// Attention of every document of a buffer.
///
/// Shapes: `q`, `out` [tokens_q, num_heads, head_dim]; `k`, `v` [tokens_k, num_kv_heads, head_dim]; all of
/// one dtype, f32 or bf16. `cu_seqlens_q`, `cu_seqlens_k` `[bounds]` u32 of equal length, at least 2:
/// document n holds the queries `cu_seqlens_q[n]..cu_seqlens_q[n + 1]` and the keys likewise. Bounds start
/// at 0, never decrease and end at the number of tokens (the caller's promise: values are not checked
/// here); the last may be repeated, so that their number depends on no value. `logsumexp` [num_heads, tokens_q] f32.
///
/// Query i of a document with Q queries and K keys stands at position `p = i + K - Q` and sees the keys
/// `p - window < j <= p`. A query that sees no key gives 0, with a logsumexp of minus infinity.
///
/// FLOPs are counted for documents of the longest admitted length.
pub fn forward<D: Device>(
    ctx: &Context<D>,
    shape: AttentionShape,
    q: TensorRef<'_, D>,
    k: TensorRef<'_, D>,
    v: TensorRef<'_, D>,
    cu_seqlens_q: TensorRef<'_, D>,
    cu_seqlens_k: TensorRef<'_, D>,
    out: TensorMut<'_, D>,
    logsumexp: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "attention::forward";
    check_inputs(OP, shape, q, k, v, cu_seqlens_q, cu_seqlens_k)?;
    check_like(OP, "out", out.as_ref(), q)?;
    let tokens = q.shape().dims()[0];
    check_logsumexp(OP, shape, tokens, logsumexp.as_ref())?;
    let bytes = 2 * q.size_bytes() + 2 * k.size_bytes() + logsumexp.as_ref().size_bytes();
    ctx.device.record(Cost { op: OP, flops: matmul_flops(shape, q, k) * 2, bytes: bytes as u64 });
    let mut by_token = ctx.arena.block(Class::Workspace, DType::F32, tokens * shape.num_heads)?;
    let by_token = by_token.view_mut([tokens, shape.num_heads]);
    ctx.device.attention_forward(shape, q, k, v, cu_seqlens_q, cu_seqlens_k, out, logsumexp, by_token)
}

/// Gradients of [`forward`] from its `logsumexp`. With `P = exp(scale · q kᵀ - logsumexp)`, `dP = dout vᵀ`,
/// `delta[i] = sum_j P[i, j] dP[i, j]` and `dS = P ∘ (dP - delta)`:
/// `dv = Pᵀ dout`, `dk = scale · dSᵀ q`, `dq = scale · dS k`. All three are replaced.
///
/// `delta[i]` is also `dout[i] · out[i]`, but `out` has been rounded, and that error has one sign for all
/// keys of a query.
///
/// Shapes as in [`forward`]; `dout`, `dq` like `q`; `dk`, `dv` like `k`. FLOPs count the five products, each
/// once; sums over queries and keys have an order that depends on lengths only.
pub fn backward<D: Device>(
    ctx: &Context<D>,
    shape: AttentionShape,
    q: TensorRef<'_, D>,
    k: TensorRef<'_, D>,
    v: TensorRef<'_, D>,
    cu_seqlens_q: TensorRef<'_, D>,
    cu_seqlens_k: TensorRef<'_, D>,
    logsumexp: TensorRef<'_, D>,
    dout: TensorRef<'_, D>,
    dq: TensorMut<'_, D>,
    dk: TensorMut<'_, D>,
    dv: TensorMut<'_, D>,
) -> Result<()> {
    const OP: &str = "attention::backward";
    check_inputs(OP, shape, q, k, v, cu_seqlens_q, cu_seqlens_k)?;
    check_logsumexp(OP, shape, q.shape().dims()[0], logsumexp)?;
    check_like(OP, "dout", dout, q)?;
    check_like(OP, "dq", dq.as_ref(), q)?;
    check_like(OP, "dk", dk.as_ref(), k)?;
    check_like(OP, "dv", dv.as_ref(), k)?;
    let bytes = 3 * q.size_bytes() + 4 * k.size_bytes() + logsumexp.size_bytes();
    ctx.device.record(Cost { op: OP, flops: matmul_flops(shape, q, k) * 5, bytes: bytes as u64 });
    let len = backward_workspace_len(q.dtype(), q.len(), k.len(), logsumexp.len());
    let mut workspace = ctx.arena.block(Class::Workspace, DType::F32, len)?;
    ctx.device.attention_backward(
        shape,
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        logsumexp,
        dout,
        dq,
        dk,
        dv,
        workspace.view_mut([len]),
    )
}

/// Elements of backward's workspace, in this order: values in f32, `delta` of all `rows` of all heads, and
/// sums of `dq`, `dk` and `dv` where these are not f32 themselves.
pub fn backward_workspace_len(dtype: DType, q_len: usize, k_len: usize, rows: usize) -> usize {
    let sums = if dtype == DType::F32 { 0 } else { q_len + 2 * k_len };
    k_len + rows + sums
}

/// FLOPs of one product over all visible pairs.
fn matmul_flops<D: Device>(shape: AttentionShape, q: TensorRef<'_, D>, k: TensorRef<'_, D>) -> u64 {
    let documents = (k.shape().dims()[0] / shape.longest).max(1);
    let [queries, keys] = [q, k].map(|tensor| tensor.shape().dims()[0] / documents);
    let pairs = documents as u64 * shape.visible_pairs(queries, keys);
    2 * pairs * (shape.num_heads * shape.head_dim) as u64
}

fn check_inputs<D: Device>(
    op: &'static str,
    shape: AttentionShape,
    q: TensorRef<'_, D>,
    k: TensorRef<'_, D>,
    v: TensorRef<'_, D>,
    cu_seqlens_q: TensorRef<'_, D>,
    cu_seqlens_k: TensorRef<'_, D>,
) -> Result<()> {
    check_shape(op, shape)?;
    let [tokens_q, ..] = q.dims::<3>(op, "q")?;
    q.expect(op, "q", &[tokens_q, shape.num_heads, shape.head_dim])?;
    q.expect_float(op, "q")?;
    let [tokens_k, ..] = k.dims::<3>(op, "k")?;
    k.expect(op, "k", &[tokens_k, shape.num_kv_heads, shape.head_dim])?;
    k.expect_dtype(op, "k", q.dtype())?;
    check_like(op, "v", v, k)?;
    let [bounds] = cu_seqlens_q.dims(op, "cu_seqlens_q")?;
    if bounds < 2 {
        return Err(KernelError::Shape {
            op,
            argument: "cu_seqlens_q",
            got: cu_seqlens_q.shape(),
            expected: "at least two bounds".into(),
        });
    }
    cu_seqlens_q.expect_dtype(op, "cu_seqlens_q", DType::U32)?;
    cu_seqlens_k.expect(op, "cu_seqlens_k", &[bounds])?;
    cu_seqlens_k.expect_dtype(op, "cu_seqlens_k", DType::U32)
}

fn check_shape(op: &'static str, shape: AttentionShape) -> Result<()> {
    let AttentionShape { num_heads, num_kv_heads, head_dim, window, longest } = shape;
    let max = AttentionShape::MAX_HEAD_DIM;
    let message = if num_heads == 0 || num_kv_heads == 0 || num_heads % num_kv_heads != 0 {
        format!("num_kv_heads = {num_kv_heads} does not divide num_heads = {num_heads}")
    } else if head_dim == 0 || head_dim % 2 != 0 || head_dim > max {
        format!("head_dim = {head_dim} is not an even number from 2 to {max}")
    } else if window == Some(0) {
        "window = 0 hides every key; none means no window".into()
    } else if longest == 0 {
        "longest = 0 admits no document".into()
    } else {
        return Ok(());
    };
    Err(KernelError::Parameter { op, message })
}

fn check_like<D: Device>(
    op: &'static str,
    argument: &'static str,
    tensor: TensorRef<'_, D>,
    like: TensorRef<'_, D>,
) -> Result<()> {
    tensor.expect(op, argument, like.shape().dims())?;
    tensor.expect_dtype(op, argument, like.dtype())
}

fn check_logsumexp<D: Device>(
    op: &'static str,
    shape: AttentionShape,
    tokens: usize,
    logsumexp: TensorRef<'_, D>,
) -> Result<()> {
    logsumexp.expect(op, "logsumexp", &[shape.num_heads, tokens])?;
    logsumexp.expect_dtype(op, "logsumexp", DType::F32)
}
