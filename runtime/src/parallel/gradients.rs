//! Gradients, from a unit's backward pass to their sum over micro-batches and ranks, f32.
//!
//! A unit's backward pass adds either to the sums themselves, or to a *leaf*: a zeroed buffer for one
//! micro-batch, as long as the unit needs it. Leaves are there where a rank keeps a slice only (the leaf is
//! reduced and its slice folded into the sums), and in mesh-invariant mode.
//!
//! **Mesh-invariant order.** The leaves of the global batch are added as a binary tree over their numbers.
//! The bits of a number that mean time are folded here like the digits of a counter: sums of 1, 2, 4 ...
//! leaves wait for their equals, and `log2(micro_steps)` of them exist at most. The bits that mean ranks are
//! the communicators' trees. [`Sharding::leaves`] hands the bits out.

use tisserand_collectives::{Axis, Call, Communicator, Pending, ReduceOp};
use tisserand_kernels::ops::elementwise;
use tisserand_kernels::{Block, Class, Context, DType, Device, TensorRef};

use super::Sharding;
use super::tensor::TensorParallel;
use super::weights::zeroed;
use crate::error::Result;
use crate::model::Transformer;
use crate::params::{Group, GroupLayout, PerGroup, UnitGradients, UnitLayout, per_group};

/// Gradients of all parameters.
pub struct Gradients<D: Device> {
    units: Vec<Unit<D>>,
    sharding: Sharding,
    /// Type in which gradients travel.
    wire: DType,
}

struct Unit<D: Device> {
    /// Of the micro-batch under way.
    leaf: Option<PerGroup<Block<D>>>,
    groups: PerGroup<Sums<D>>,
}

/// One flat group.
struct Sums<D: Device> {
    /// Elements of the whole, padding included.
    len: usize,
    /// First element of this rank's slice, and its length.
    slice: (usize, usize),
    /// Partial sums of 1, 2, 4 ... leaves; the last one ends as the sum of the step. Each has the elements of
    /// the whole, or of the slice.
    levels: Vec<Block<D>>,
    flight: Option<Flight<D>>,
}

/// A reduction under way.
struct Flight<D: Device> {
    pending: Pending<D>,
    /// What the reduction does not touch of its block.
    before: Option<Block<D>>,
    after: Option<Block<D>>,
    /// The block itself, where a narrower copy travels.
    original: Option<Block<D>>,
}

impl<D: Device> Gradients<D> {
    /// Takes the blocks of the sums for steps of `micro_steps` micro-batches.
    pub fn new(
        ctx: &Context<D>,
        model: &Transformer,
        sharding: Sharding,
        micro_steps: usize,
        wire: DType,
    ) -> Result<Self> {
        let levels = if sharding.mesh_invariant { micro_steps.ilog2().max(1) } else { 1 };
        let sums = |layout: &GroupLayout| -> Result<Sums<D>> {
            let (len, slice) = (sharding.padded_len(layout), sharding.slice(layout));
            let kept = if sharding.shards_gradients() { slice.len() } else { len };
            let level = |_| Ok(zeroed(ctx, Class::Gradients, DType::F32, kept)?);
            let levels = (0..levels).map(level).collect::<Result<_>>()?;
            Ok(Sums { len, slice: (slice.start, slice.len()), levels, flight: None })
        };
        let unit = |layout: &UnitLayout| -> Result<Unit<D>> {
            Ok(Unit { leaf: None, groups: per_group(layout, sums)? })
        };
        let units = model.units.iter().map(unit).collect::<Result<_>>()?;
        Ok(Gradients { units, sharding, wire })
    }

    /// Whether backward passes write leaves.
    pub fn has_leaves(sharding: &Sharding) -> bool {
        sharding.mesh_invariant || sharding.shards_gradients()
    }

    /// Whether there are sums alone: no leaf, and no reduction under way.
    pub fn are_at_rest(&self) -> bool {
        let is_at_rest = |unit: &Unit<D>| {
            let mut sums = unit.groups.iter();
            unit.leaf.is_none() && sums.all(|sums| sums.flight.is_none() && !sums.levels.is_empty())
        };
        self.units.iter().all(is_at_rest)
    }

    /// Begins a step.
    pub fn begin(&mut self, ctx: &Context<D>) -> Result<()> {
        if Self::has_leaves(&self.sharding) {
            return Ok(());
        }
        for sums in self.units.iter_mut().flat_map(|unit| &mut unit.groups) {
            ctx.device.zero(sums.levels[0].view_mut([sums.len]))?;
        }
        Ok(())
    }

    /// Makes sure that a backward pass of the unit has something to add to. A unit with several backward
    /// passes in one micro-batch (tied embeddings) has one leaf for all.
    pub fn open(&mut self, ctx: &Context<D>, unit: usize) -> Result<()> {
        let unit = &mut self.units[unit];
        if Self::has_leaves(&self.sharding) && unit.leaf.is_none() {
            let leaf = |sums: &Sums<D>| zeroed(ctx, Class::Gradients, DType::F32, sums.len);
            let [a, b, c, d] = &unit.groups;
            unit.leaf = Some([leaf(a)?, leaf(b)?, leaf(c)?, leaf(d)?]);
        }
        Ok(())
    }

    /// What the unit's backward pass adds to.
    pub fn unit_mut(&mut self, unit: usize) -> UnitGradients<'_, D> {
        let Unit { leaf, groups } = &mut self.units[unit];
        UnitGradients::new(match leaf {
            Some(leaf) => leaf.each_mut(),
            None => groups.each_mut().map(|sums| sums.levels.last_mut().expect("there is a level")),
        })
    }

    /// Adds the unit's leaf of micro-batch `index` to the sums.
    pub fn fold(&mut self, ctx: &Context<D>, unit: usize, index: usize) -> Result<()> {
        let Unit { leaf, groups } = &mut self.units[unit];
        let leaf = leaf.take().expect("a leaf is folded after the unit's backward pass");
        for (sums, mut leaf) in groups.iter_mut().zip(leaf) {
            fold(ctx, &mut sums.levels, &mut leaf, 0, index)?;
        }
        Ok(())
    }

    /// Sums over `tp` what several of its ranks have: vectors, of which each rank has seen its tokens, and the
    /// copies of keys and values. On the leaf where that is what is reduced next, else on the sums of the step.
    ///
    /// # Errors
    /// Of the communicator.
    pub fn share(&mut self, unit: usize, tp: &TensorParallel<D>) -> Result<()> {
        let Unit { leaf, groups } = &mut self.units[unit];
        for group in [Group::Copies, Group::Vectors] {
            let group_index = group as usize;
            let block = match leaf.as_mut().filter(|_| self.sharding.shards_gradients()) {
                Some(leaf) => &mut leaf[group_index],
                None => groups[group_index].levels.last_mut().expect("there is a level"),
            };
            if !block.is_empty() {
                let rest = block.split_off(0);
                block.append(tp.sum_of_group(group, rest)?);
            }
        }
        Ok(())
    }

    /// Begins to sum the unit's gradients along an axis: its leaf along `dp_shard` where a rank keeps a slice
    /// of gradients only, else the sums of the step.
    ///
    /// # Errors
    /// Of the communicator.
    pub fn reduce(
        &mut self,
        ctx: &Context<D>,
        unit: usize,
        axis: Axis,
        communicator: &mut dyn Communicator<D>,
    ) -> Result<()> {
        let Unit { leaf, groups } = &mut self.units[unit];
        let sharding = self.sharding;
        if axis == Axis::DpShard && sharding.shards_gradients() {
            let leaf = leaf.take().expect("a leaf is reduced after the unit's backward pass");
            for (sums, leaf) in groups.iter_mut().zip(leaf) {
                let call = Call::ReduceScatter(ReduceOp::Sum);
                let block = if self.wire == DType::F32 { leaf } else { narrowed(ctx, &leaf, self.wire)? };
                sums.launch(communicator, call, block, [None, None, None])?;
            }
            return Ok(());
        }
        for sums in groups {
            let mut block = sums.levels.pop().expect("one reduction of a unit at a time");
            let (start, len) = sums.slice;
            let (call, parts) = match axis {
                Axis::DpShard if sharding.shards_state() => {
                    (Call::ReduceScatter(ReduceOp::Sum), [None, None])
                }
                Axis::DpReplicate if sharding.shards_state() && !sharding.shards_gradients() => {
                    let mut slice = block.split_off(start);
                    let after = slice.split_off(len);
                    let before = std::mem::replace(&mut block, slice);
                    (Call::AllReduce(ReduceOp::Sum), [Some(before), Some(after)])
                }
                _ => (Call::AllReduce(ReduceOp::Sum), [None, None]),
            };
            let [before, after] = parts;
            if self.wire == DType::F32 {
                sums.launch(communicator, call, block, [before, after, None])?;
            } else {
                let narrow = narrowed(ctx, &block, self.wire)?;
                sums.launch(communicator, call, narrow, [before, after, Some(block)])?;
            }
        }
        Ok(())
    }

    /// Waits for [`Gradients::reduce`] and takes its result up; a leaf's is that of micro-batch `index`.
    ///
    /// # Errors
    /// Of the communicator.
    pub fn collect(&mut self, ctx: &Context<D>, unit: usize, axis: Axis, index: usize) -> Result<()> {
        let of_leaf = axis == Axis::DpShard && self.sharding.shards_gradients();
        let scattered = axis == Axis::DpShard && self.sharding.shards_state();
        for sums in &mut self.units[unit].groups {
            let Some(Flight { pending, before, after, original }) = sums.flight.take() else { continue };
            let mut block = pending.wait()?;
            if of_leaf {
                fold(ctx, &mut sums.levels, &mut block, sums.slice.0, index)?;
                continue;
            }
            if let Some(mut original) = original {
                let (start, len) = if scattered { sums.slice } else { (0, original.len()) };
                elementwise::cast(ctx, block.range(start, [len]), original.range_mut(start, [len]))?;
                block = original;
            }
            if let Some(mut whole) = before {
                whole.append(block);
                block = whole;
            }
            if let Some(after) = after {
                block.append(after);
            }
            sums.levels.push(block);
        }
        Ok(())
    }

    /// This rank's slice of the step's sum, from element `at` of the slice.
    pub fn slice(&self, unit: usize, group: usize, at: usize, len: usize) -> TensorRef<'_, D> {
        let sums = &self.units[unit].groups[group];
        let start = if self.sharding.shards_gradients() { 0 } else { sums.slice.0 };
        sums.levels.last().expect("reductions are collected before the norm").range(start + at, [len])
    }
}

impl<D: Device> Sums<D> {
    fn launch(
        &mut self,
        communicator: &mut dyn Communicator<D>,
        call: Call,
        block: Block<D>,
        [before, after, original]: [Option<Block<D>>; 3],
    ) -> Result<()> {
        // An empty group has nothing that would travel.
        let pending =
            if block.is_empty() { Pending::done(block) } else { communicator.start(call, block)? };
        self.flight = Some(Flight { pending, before, after, original });
        Ok(())
    }
}

/// A rounded copy.
fn narrowed<D: Device>(ctx: &Context<D>, block: &Block<D>, dtype: DType) -> Result<Block<D>> {
    let len = block.len();
    let mut narrow = ctx.arena.block(Class::Communication, dtype, len)?;
    elementwise::cast(ctx, block.view([len]), narrow.view_mut([len]))?;
    Ok(narrow)
}

/// Adds leaf number `index`, which begins at element `start` of its block, to the partial sums `levels`. With
/// one level they are added one after the other; with more, as a binary tree.
fn fold<D: Device>(
    ctx: &Context<D>,
    levels: &mut [Block<D>],
    leaf: &mut Block<D>,
    start: usize,
    index: usize,
) -> Result<()> {
    let len = levels[0].len();
    if levels.len() == 1 && index > 0 {
        return Ok(elementwise::add_assign(ctx, leaf.range(start, [len]), levels[0].view_mut([len]))?);
    }
    // Like the carry of a counter: each trailing one of the index is a partial sum that waits for its equal.
    let carries = index.trailing_ones() as usize;
    for level in &levels[..carries.min(levels.len())] {
        elementwise::add_assign(ctx, level.view([len]), leaf.range_mut(start, [len]))?;
    }
    let last = levels.len() - 1;
    let level = &mut levels[carries.min(last)];
    Ok(elementwise::cast(ctx, leaf.range(start, [len]), level.view_mut([len]))?)
}
