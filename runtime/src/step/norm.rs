//! What the whole mesh must know before it updates: the loss of the global batch and the norm of its gradient.
//! Every element of every parameter counts once, whatever the mesh.

use tisserand_collectives::{Call, Communicator, ReduceOp};
use tisserand_kernels::ops::{CHUNK, grad_norm};
use tisserand_kernels::{Block, Class, Context, DType, Device};

use crate::error::Result;
use crate::model::Transformer;
use crate::parallel::{Gradients, Sharding, TensorParallel};
use crate::params::Group;

/// `[2]`: cross-entropy and z-loss over all micro-batches of all ranks, as a binary tree over the micro-batches
/// in the order of their numbers ([`Sharding::leaves`]). `losses` is [2, micro_steps].
pub(super) fn sum_of_losses<D: Device>(
    ctx: &Context<D>,
    sharding: &Sharding,
    losses: &Block<D>,
    shard: &mut dyn Communicator<D>,
    replicate: &mut dyn Communicator<D>,
) -> Result<Block<D>> {
    let micro_steps = losses.len() / 2;
    let mut all = ctx.arena.block(Class::Workspace, DType::F32, losses.len())?;
    ctx.device.copy(losses.view([losses.len()]), all.view_mut([losses.len()]))?;
    if sharding.shards_gradients() {
        all = all_reduced(shard, all)?;
    }
    let mut sums = ctx.arena.block(Class::Workspace, DType::F32, 2)?;
    for row in 0..2 {
        let row_losses = all.range_mut(row * micro_steps, [micro_steps]);
        grad_norm::tree_sum(ctx, row_losses, sums.range_mut(row, [1]))?;
    }
    if !sharding.shards_gradients() {
        sums = all_reduced(shard, sums)?;
    }
    all_reduced(replicate, sums)
}

/// `[1]`: the sum of squares of all gradients. Sums of chunks by flat index, then a tree over them: over this
/// rank's, and the results along `dp_shard` and `tp`; in mesh-invariant mode over those of all slices, gathered, so that
/// the tree is the same for every mesh.
pub(super) fn sum_of_squares<D: Device>(
    ctx: &Context<D>,
    model: &Transformer,
    sharding: &Sharding,
    gradients: &Gradients<D>,
    shard: &mut dyn Communicator<D>,
    tp: &TensorParallel<D>,
) -> Result<Block<D>> {
    let groups = chunks_of_groups(model, sharding, |group| tp.speaks_for(group));
    let chunks: usize = groups.iter().map(|group| group.here).sum();
    // Room for every slice where they are to be gathered; this rank's lies at its place.
    let gathers = sharding.mesh_invariant && sharding.shards_state();
    let (slots, start) = if gathers { (shard.size(), shard.rank() * chunks) } else { (1, 0) };
    let mut partials = ctx.arena.block(Class::Workspace, DType::F32, slots * chunks)?;
    let mut at = start;
    for group in &groups {
        let squares = gradients.slice(group.unit, group.group, 0, group.here * CHUNK);
        grad_norm::sum_of_squares(ctx, squares, partials.range_mut(at, [group.here]))?;
        at += group.here;
    }
    let mut sum = ctx.arena.block(Class::Workspace, DType::F32, 1)?;
    if !gathers {
        grad_norm::tree_sum(ctx, partials.view_mut([chunks]), sum.view_mut([1]))?;
        let sum = if sharding.shards_state() { all_reduced(shard, sum)? } else { sum };
        return summed_over_tp(tp, sum);
    }
    let partials = shard.run(Call::AllGather, partials)?;
    let mut ordered = in_flat_order(ctx, &groups, &partials, chunks)?;
    let len = ordered.len();
    grad_norm::tree_sum(ctx, ordered.view_mut([len]), sum.view_mut([1]))?;
    summed_over_tp(tp, sum)
}

/// Chunks of a flat group.
struct GroupChunks {
    unit: usize,
    group: usize,
    /// In this rank's slice, as in every other.
    here: usize,
    /// In the group, without the padding that depends on the mesh.
    all: usize,
}

/// Of the groups that this rank speaks for along `tp`.
fn chunks_of_groups(
    model: &Transformer,
    sharding: &Sharding,
    speaks_for: impl Fn(Group) -> bool,
) -> Vec<GroupChunks> {
    let mut groups = Vec::with_capacity(Group::COUNT * model.units.len());
    for (unit, layout) in model.units.iter().enumerate() {
        for group in Group::ALL.into_iter().filter(|group| speaks_for(*group)) {
            let (group, layout) = (group as usize, &layout.groups[group as usize]);
            let all = layout.len.div_ceil(CHUNK);
            let here = if sharding.shards_state() { sharding.slice(layout).len() / CHUNK } else { all };
            groups.push(GroupChunks { unit, group, here, all });
        }
    }
    groups
}

/// From slice by slice to group by group, without the padding of groups.
fn in_flat_order<D: Device>(
    ctx: &Context<D>,
    groups: &[GroupChunks],
    partials: &Block<D>,
    chunks_per_slice: usize,
) -> Result<Block<D>> {
    let total = groups.iter().map(|group| group.all).sum();
    let mut ordered = ctx.arena.block(Class::Workspace, DType::F32, total)?;
    let (mut from, mut to) = (0, 0);
    for group in groups {
        for (slice, first) in (0..group.all).step_by(group.here.max(1)).enumerate() {
            let count = group.here.min(group.all - first);
            let source = partials.range(slice * chunks_per_slice + from, [count]);
            ctx.device.copy(source, ordered.range_mut(to + first, [count]))?;
        }
        from += group.here;
        to += group.all;
    }
    Ok(ordered)
}

fn summed_over_tp<D: Device>(tp: &TensorParallel<D>, sum: Block<D>) -> Result<Block<D>> {
    if tp.place().size == 1 { Ok(sum) } else { tp.run(Call::AllReduce(ReduceOp::Sum), sum) }
}

/// The sum over an axis; over one rank there is nothing to add.
fn all_reduced<D: Device>(communicator: &mut dyn Communicator<D>, block: Block<D>) -> Result<Block<D>> {
    if communicator.size() == 1 {
        return Ok(block);
    }
    Ok(communicator.run(Call::AllReduce(ReduceOp::Sum), block)?)
}
