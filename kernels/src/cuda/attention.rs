//! Attention on a GPU.

use super::driver::Driver;
use super::{Cuda, not_there};
use crate::ops::attention::{AttentionKernels, AttentionShape};
use crate::{Result, TensorMut, TensorRef};

impl<Dr: Driver> AttentionKernels for Cuda<Dr> {
    fn attention_forward(
        &self,
        _shape: AttentionShape,
        _q: TensorRef<'_, Self>,
        _k: TensorRef<'_, Self>,
        _v: TensorRef<'_, Self>,
        _cu_seqlens_q: TensorRef<'_, Self>,
        _cu_seqlens_k: TensorRef<'_, Self>,
        _out: TensorMut<'_, Self>,
        _logsumexp: TensorMut<'_, Self>,
        _by_token: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("attention: attention_forward")
    }

    fn attention_backward(
        &self,
        _shape: AttentionShape,
        _q: TensorRef<'_, Self>,
        _k: TensorRef<'_, Self>,
        _v: TensorRef<'_, Self>,
        _cu_seqlens_q: TensorRef<'_, Self>,
        _cu_seqlens_k: TensorRef<'_, Self>,
        _logsumexp: TensorRef<'_, Self>,
        _dout: TensorRef<'_, Self>,
        _dq: TensorMut<'_, Self>,
        _dk: TensorMut<'_, Self>,
        _dv: TensorMut<'_, Self>,
        _workspace: TensorMut<'_, Self>,
    ) -> Result<()> {
        not_there("attention: attention_backward")
    }
}
