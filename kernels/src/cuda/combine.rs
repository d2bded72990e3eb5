//! Several tensors into one on a GPU: `kernels/cuda/combine.cu`.

use super::driver::Driver;
use super::{Arg, Cuda, LaunchConfig};
use crate::ops::elementwise::Combine;
use crate::{KernelError, Result, TensorMut, TensorRef, kernel_name};

/// Tensors that the kernel has parameters for. More cannot be combined in several launches: the tree has then
/// more than one result that waits for another, and there is no memory to put them.
const MAX_TENSORS: usize = 32;

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
        let message = format!("{count} tensors, but this device combines at most {MAX_TENSORS}");
        return Err(KernelError::Parameter { op: "elementwise::combine", message });
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
