//! Attention on a GPU: on tensor cores where rows can be moved 16 bytes at a time, a warp per row elsewhere.

mod geometry;

use super::driver::Driver;
use super::launch::extent;
use super::{Arg, Cuda};
use crate::ops::attention::{AttentionKernels, AttentionShape};
use crate::{DType, Result, TensorMut, TensorRef};
use geometry::{Kernels, Pass};

impl<Dr: Driver> AttentionKernels for Cuda<Dr> {
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
        _by_token: TensorMut<'_, Self>,
    ) -> Result<()> {
        let kernels = kernels(shape, &[q, k, v, out.as_ref()]);
        let mut inputs = [Arg::Absent; 14];
        problem(&mut inputs, shape, q, k, cu_seqlens_q, cu_seqlens_k);
        inputs[11..].copy_from_slice(&[q.into(), k.into(), v.into()]);
        let args = joined::<16, _>(&inputs, &[out.into(), logsumexp.into()]);
        let config = kernels.config(Pass::Forward, tokens(q), shape.num_heads);
        self.launch(kernels.name(Pass::Forward), config, &args)
    }

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
    ) -> Result<()> {
        let kernels = kernels(shape, &[q, k, v, dout, dq.as_ref(), dk.as_ref(), dv.as_ref()]);
        let mut delta = workspace.rows(0, logsumexp.len());
        let mut inputs = [Arg::Absent; 16];
        problem(&mut inputs, shape, q, k, cu_seqlens_q, cu_seqlens_k);
        inputs[11..].copy_from_slice(&[q.into(), k.into(), v.into(), logsumexp.into(), dout.into()]);
        let config = kernels.config(Pass::BackwardQueries, tokens(q), shape.num_heads);
        let args = joined::<18, _>(&inputs, &[dq.into(), delta.reborrow().into()]);
        self.launch(kernels.name(Pass::BackwardQueries), config, &args)?;
        let config = kernels.config(Pass::BackwardKeys, tokens(k), shape.num_kv_heads);
        let args = joined::<19, _>(&inputs, &[delta.as_ref().into(), dk.into(), dv.into()]);
        self.launch(kernels.name(Pass::BackwardKeys), config, &args)
    }
}

/// The kernels for tensors of these heads: all of one dtype, in these places.
fn kernels<Dr: Driver>(shape: AttentionShape, tensors: &[TensorRef<'_, Cuda<Dr>>]) -> Kernels {
    let are_aligned = tensors.iter().all(|tensor| tensor.offset_bytes.is_multiple_of(geometry::CHUNK_BYTES));
    match tensors[0].dtype() {
        DType::F32 => Kernels::PlainF32,
        _ if are_aligned => Kernels::of_bf16(shape.head_dim),
        _ => Kernels::PlainBf16,
    }
}

/// `N` arguments: some, and then the others.
fn joined<'a, const N: usize, M>(first: &[Arg<'a, M>], others: &[Arg<'a, M>]) -> [Arg<'a, M>; N] {
    let mut args = [Arg::Absent; N];
    args[..first.len()].copy_from_slice(first);
    args[first.len()..].copy_from_slice(others);
    args
}

fn tokens<Dr: Driver>(rows: TensorRef<'_, Cuda<Dr>>) -> usize {
    rows.shape().dims()[0]
}

/// The first eleven arguments, those of `Problem` in `kernels/cuda/attention_visible.cuh`.
fn problem<'a, Dr: Driver>(
    args: &mut [Arg<'a, Dr::Memory>],
    shape: AttentionShape,
    q: TensorRef<'_, Cuda<Dr>>,
    k: TensorRef<'_, Cuda<Dr>>,
    cu_seqlens_q: TensorRef<'a, Cuda<Dr>>,
    cu_seqlens_k: TensorRef<'a, Cuda<Dr>>,
) {
    let window = shape.window.map_or(u32::MAX, |window| window.min(u32::MAX as usize) as u32);
    args[..11].copy_from_slice(&[
        cu_seqlens_q.into(),
        cu_seqlens_k.into(),
        extent(cu_seqlens_q.len()),
        extent(tokens(q)),
        extent(tokens(k)),
        extent(shape.num_heads),
        extent(shape.num_kv_heads),
        extent(shape.head_dim),
        Arg::U32(window),
        Arg::F32(shape.scale()),
        Arg::F32(shape.scale() * std::f32::consts::LOG2_E),
    ]);
}
