//! The compute copy of all parameters: whole on every rank, or a slice that is gathered when a unit needs it.
//!
//! A gather begins one unit ahead of its use and is waited for at the use. While it is under way its block
//! belongs to the communicator, so nothing can read half of it.

use tisserand_collectives::{Call, Communicator, Pending};
use tisserand_kernels::{Block, Class, Context, DType, Device, TensorMut, TensorRef};

use super::Sharding;
use crate::error::Result;
use crate::model::Transformer;
use crate::params::{GroupLayout, PerGroup, UnitWeights, per_group};

/// The compute copy, per unit and group.
pub struct Weights<D: Device> {
    units: Vec<PerGroup<GroupWeights<D>>>,
    sharding: Sharding,
    dtype: DType,
    communicator: Box<dyn Communicator<D>>,
}

struct GroupWeights<D: Device> {
    /// Elements of the whole, padding included.
    len: usize,
    /// First element of this rank's slice.
    start: usize,
    /// This rank's slice, where the whole is there only now and then.
    slice: Option<Block<D>>,
    whole: Whole<D>,
}

enum Whole<D: Device> {
    Absent,
    Coming(Pending<D>),
    Here(Block<D>),
}

impl<D: Device> Weights<D> {
    /// Takes the blocks, zeroed; padding stays zero.
    pub fn new(
        ctx: &Context<D>,
        model: &Transformer,
        sharding: Sharding,
        dtype: DType,
        communicator: Box<dyn Communicator<D>>,
    ) -> Result<Self> {
        let group = |layout: &GroupLayout| -> Result<GroupWeights<D>> {
            let (len, range) = (sharding.padded_len(layout), sharding.slice(layout));
            let (slice, whole) = match sharding.shards_parameters() {
                true => (Some(zeroed(ctx, Class::Weights, dtype, range.len())?), Whole::Absent),
                false => (None, Whole::Here(zeroed(ctx, Class::Weights, dtype, len)?)),
            };
            Ok(GroupWeights { len, start: range.start, slice, whole })
        };
        let units = model.units.iter().map(|unit| per_group(unit, group)).collect::<Result<_>>()?;
        Ok(Weights { units, sharding, dtype, communicator })
    }

    /// One unit's parameters, whole.
    ///
    /// # Panics
    /// Unless [`Weights::ready`] was called since the last [`Weights::gather`].
    pub fn unit(&self, unit: usize) -> UnitWeights<'_, D> {
        UnitWeights::new(self.units[unit].each_ref().map(|group| match &group.whole {
            Whole::Here(block) => block,
            _ => panic!("the schedule gathers a unit before it uses it"),
        }))
    }

    /// Begins to make a unit whole. What is whole is gathered again only where ranks update slices of it.
    ///
    /// # Errors
    /// Of the communicator.
    pub fn gather(&mut self, ctx: &Context<D>, unit: usize) -> Result<()> {
        for group in &mut self.units[unit] {
            // An empty group has nothing that would travel.
            if group.len == 0 {
                group.whole = Whole::Here(ctx.arena.block(Class::Communication, self.dtype, 0)?);
                continue;
            }
            let whole = match (std::mem::replace(&mut group.whole, Whole::Absent), &group.slice) {
                (Whole::Absent, Some(slice)) => {
                    let mut whole = ctx.arena.block(Class::Communication, self.dtype, group.len)?;
                    let here = whole.range_mut(group.start, [slice.len()]);
                    ctx.device.copy(slice.view([slice.len()]), here)?;
                    whole
                }
                (Whole::Here(whole), None) => whole,
                _ => panic!("the schedule gathers a unit once and releases it before it gathers it again"),
            };
            group.whole = Whole::Coming(self.communicator.start(Call::AllGather, whole)?);
        }
        Ok(())
    }

    /// Waits until a unit is whole.
    ///
    /// # Errors
    /// Of the communicator.
    pub fn ready(&mut self, unit: usize) -> Result<()> {
        for group in &mut self.units[unit] {
            if let Whole::Coming(_) = group.whole {
                let Whole::Coming(pending) = std::mem::replace(&mut group.whole, Whole::Absent) else {
                    unreachable!("just matched");
                };
                group.whole = Whole::Here(pending.wait()?);
            }
        }
        Ok(())
    }

    /// Whether a unit is whole, or will be.
    pub fn is_gathered(&self, unit: usize) -> bool {
        self.units[unit].iter().all(|group| !matches!(group.whole, Whole::Absent))
    }

    /// Frees what was gathered; a unit that is always whole stays.
    pub fn release(&mut self, unit: usize) {
        for group in self.units[unit].iter_mut().filter(|group| group.slice.is_some()) {
            group.whole = Whole::Absent;
        }
    }

    /// This rank's slice of a group, from element `at` of the slice.
    pub fn slice(&self, unit: usize, group: usize, at: usize, len: usize) -> TensorRef<'_, D> {
        let group = &self.units[unit][group];
        match (&group.slice, &group.whole) {
            (Some(slice), _) => slice.range(at, [len]),
            (None, Whole::Here(whole)) => whole.range(group.start + at, [len]),
            _ => panic!("a slice is read only when no gather is under way"),
        }
    }

    /// As [`Weights::slice`], writable.
    pub fn slice_mut(&mut self, unit: usize, group: usize, at: usize, len: usize) -> TensorMut<'_, D> {
        let group = &mut self.units[unit][group];
        match (&mut group.slice, &mut group.whole) {
            (Some(slice), _) => slice.range_mut(at, [len]),
            (None, Whole::Here(whole)) => whole.range_mut(group.start + at, [len]),
            _ => panic!("a slice is written only when no gather is under way"),
        }
    }

    /// Waits for every gather under way.
    ///
    /// # Errors
    /// Of the communicator.
    pub fn settle(&mut self) -> Result<()> {
        (0..self.units.len()).try_for_each(|unit| self.ready(unit))
    }

    /// After slices were set from outside: makes the units whole that are always whole.
    ///
    /// # Errors
    /// Of the communicator.
    pub fn publish(&mut self, ctx: &Context<D>) -> Result<()> {
        if self.sharding.shards_state() && !self.sharding.shards_parameters() {
            (0..self.units.len()).try_for_each(|unit| self.gather(ctx, unit))?;
            self.settle()?;
        }
        Ok(())
    }

    /// The communicator of gathers.
    pub fn communicator(&self) -> &dyn Communicator<D> {
        self.communicator.as_ref()
    }
}

/// A block of zeros.
pub(crate) fn zeroed<D: Device>(
    ctx: &Context<D>,
    class: Class,
    dtype: DType,
    len: usize,
) -> tisserand_kernels::Result<Block<D>> {
    let mut block = ctx.arena.block(class, dtype, len)?;
    ctx.device.zero(block.view_mut([len]))?;
    Ok(block)
}
