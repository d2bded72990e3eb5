//! Several tensors into one on a GPU: `kernels/cuda/combine.cu`.

use super::driver::Driver;
use super::{Arg, Cuda, LaunchConfig};
use crate::ops::elementwise::Combine;
use crate::{DType, KernelError, Result, Shape, TensorMut, TensorRef, kernel_name};

/// Tensors that the kernel has parameters for, and that of stacks of floating-point tensors counts. What is too much
/// for one launch cannot be combined in several: the tree has then more than one result that waits for another, and
/// there is no memory to put them.
const MAX_TENSORS: usize = 32;
const MAX_STACKED: usize = 8 * 1023;

/// Parameters before the tensors: `own`, its number, their number, their length.
const LEADING: usize = 4;

/// `own` = the tree over `before`, `own`, `after`.
///
/// # Panics
/// If the tensors are so long that the kernel cannot count them: no buffer of training comes near.
pub(super) fn combine<Dr: Driver>(
    device: &Cuda<Dr>,
    how: Combine,
    before: &[TensorRef<'_, Cuda<Dr>>],
    own: TensorMut<'_, Cuda<Dr>>,
    after: &[TensorRef<'_, Cuda<Dr>>],
) -> Result<()> {
    let (own_index, count) = (before.len(), before.len() + 1 + after.len());
    if count > MAX_TENSORS {
        return combine_stack(device, how, before, own, after);
    }
    let (len, dtype) = (own.len(), own.dtype());
    assert!(len < 1 << 33, "{len} elements: the kernel counts packs in 32 bits");
    let kernel = match how {
        Combine::Sum => kernel_name!("combine_sum", any dtype),
        Combine::Max => kernel_name!("combine_max", any dtype),
    };
    let mut args = [Arg::Absent; LEADING + MAX_TENSORS];
    args[..LEADING].copy_from_slice(&[
        own.into(),
        (own_index as u32).into(),
        (count as u32).into(),
        (len as u64).into(),
    ]);
    let tensors = &mut args[LEADING..];
    for (arg, tensor) in tensors.iter_mut().zip(before) {
        *arg = (*tensor).into();
    }
    for (arg, tensor) in tensors[own_index + 1..].iter_mut().zip(after) {
        *arg = (*tensor).into();
    }
    device.launch(kernel, LaunchConfig::elements(len, dtype.size_bytes()), &args)
}

/// As [`combine`], for more tensors than the kernel has parameters for.
///
/// # Errors
/// If the others do not lie as communicators receive them, one behind the other.
fn combine_stack<Dr: Driver>(
    device: &Cuda<Dr>,
    how: Combine,
    before: &[TensorRef<'_, Cuda<Dr>>],
    own: TensorMut<'_, Cuda<Dr>>,
    after: &[TensorRef<'_, Cuda<Dr>>],
) -> Result<()> {
    let (own_index, count, dtype) = (before.len(), before.len() + 1 + after.len(), own.dtype());
    let is_float = matches!(dtype, DType::F32 | DType::Bf16);
    let others = stacked(before, after).filter(|_| is_float && count <= MAX_STACKED);
    let Some(others) = others else {
        let message = format!(
            "{count} tensors, but this device combines at most {MAX_TENSORS}, or {MAX_STACKED} of f32 or bf16 that lie \
             one behind the other"
        );
        return Err(KernelError::Parameter { op: "elementwise::combine", message });
    };
    let kernel = match how {
        Combine::Sum => kernel_name!("stack_sum", dtype),
        Combine::Max => kernel_name!("stack_max", dtype),
    };
    let len = own.len();
    let args =
        [own.into(), others.into(), (own_index as u32).into(), (count as u32).into(), (len as u64).into()];
    device.launch(kernel, LaunchConfig::elements(len, DType::F32.size_bytes()), &args)
}

/// Tensors that lie one behind the other, as one.
fn stacked<'a, Dr: Driver>(
    before: &[TensorRef<'a, Cuda<Dr>>],
    after: &[TensorRef<'a, Cuda<Dr>>],
) -> Option<TensorRef<'a, Cuda<Dr>>> {
    let mut all = before.iter().chain(after);
    let first = all.next()?;
    let mut end = first.offset_bytes + first.size_bytes();
    for next in all {
        if !std::ptr::eq(next.memory, first.memory) || next.offset_bytes != end {
            return None;
        }
        end += next.size_bytes();
    }
    let shape = Shape::new(&[before.len() + after.len(), first.len()]);
    Some(TensorRef::new(first.memory, first.offset_bytes, first.dtype(), shape))
}
