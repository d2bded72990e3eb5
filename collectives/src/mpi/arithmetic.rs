//! What is done with elements that have arrived, on the device handle of the thread that owns MPI.

use std::ops::Range;

use tisserand_kernels::ops::elementwise;
use tisserand_kernels::{Cpu, Storage, TensorRef};

use super::job::Site;
use super::memory::Buffers;
use crate::messages;
use crate::{CommError, ReduceOp};

/// Elements that pass through one step of a combination, over all ranks: some milliseconds, after which other
/// communicators get their turn.
const COMBINED_AT_ONCE: usize = 1 << 22;

/// Copies elements of the block to as many elements further behind.
pub(super) fn copy_within(
    site: &Site,
    buffers: &mut Buffers,
    from: Range<usize>,
    to: Range<usize>,
) -> Result<(), CommError> {
    if let Some(block) = buffers.block.as_mut().filter(|_| !from.is_empty()) {
        let mut behind = block.split_off(to.start);
        site.device.copy(block.range(from.start, [from.len()]), behind.range_mut(0, [from.len()]))?;
        block.append(behind);
    }
    Ok(())
}

/// Combines the next elements of this rank's slice, from `done`; returns how many are done, none if all are.
pub(super) fn combine_some(
    site: &Site,
    op: ReduceOp,
    buffers: &mut Buffers,
    done: usize,
) -> Result<Option<usize>, CommError> {
    let Buffers { block: Some(block), workspace: Some(workspace), .. } = buffers else { return Ok(None) };
    let (len, size, rank) = (block.len(), site.size, site.rank);
    let slice = messages::slice(len, size, rank);
    let piece = (COMBINED_AT_ONCE / size).max(1024).min(slice.len() - done);
    let others: Vec<TensorRef<'_, Cpu>> = (0..size)
        .filter(|peer| *peer != rank)
        .map(|peer| workspace.range(messages::slot(len, size, rank, peer).start + done, [piece]))
        .collect();
    let (before, after) = others.split_at(rank);
    let own = block.range_mut(slice.start + done, [piece]);
    elementwise::combine(&site.device, op, before, own, after)?;
    Ok((done + piece < slice.len()).then_some(done + piece))
}
