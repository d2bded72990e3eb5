//! One rank's communicators, one or two per axis of the mesh.

use std::sync::Arc;

use tisserand_kernels::Device;

use crate::imagined::Watch;
use crate::{Audit, Axis, CommError, Communicator, Imagined, Mesh, Single};

/// One of a rank's communicators, named as the fields of [`Axes`]. The collectives of one run one after the
/// other, those of different ones side by side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// [`Axes::gather`].
    Gather,
    /// [`Axes::reduce`].
    Reduce,
    /// [`Axes::replicate`].
    Replicate,
    /// [`Axes::tp`].
    Tp,
}

impl Queue {
    /// Every communicator.
    pub const ALL: [Queue; 4] = [Queue::Gather, Queue::Reduce, Queue::Replicate, Queue::Tp];

    /// The axis along which it communicates.
    pub const fn axis(self) -> Axis {
        match self {
            Queue::Gather | Queue::Reduce => Axis::DpShard,
            Queue::Replicate => Axis::DpReplicate,
            Queue::Tp => Axis::Tp,
        }
    }

    /// The name in plans.
    pub const fn name(self) -> &'static str {
        match self {
            Queue::Gather => "gather",
            Queue::Reduce => "reduce",
            Queue::Replicate => "replicate",
            Queue::Tp => "tp",
        }
    }
}

/// The communicators of one rank.
pub struct Axes<D: Device> {
    /// Gathers of parameters along `dp_shard`: apart from the reductions, so that neither stands behind the other.
    pub gather: Box<dyn Communicator<D>>,
    /// Reductions of gradients along `dp_shard`.
    pub reduce: Box<dyn Communicator<D>>,
    /// Reductions along `dp_replicate`.
    pub replicate: Box<dyn Communicator<D>>,
    /// Everything inside of layers.
    pub tp: Box<dyn Communicator<D>>,
}

impl<D: Device> Axes<D> {
    /// One rank alone.
    pub fn single(device: &D) -> Self {
        let single = || Box::new(Single::new(device.clone())) as Box<dyn Communicator<D>>;
        Axes { gather: single(), reduce: single(), replicate: single(), tp: single() }
    }

    /// A rank of a mesh whose other ranks are imagined.
    pub fn imagined(mesh: Mesh, rank: usize) -> Self {
        Self::made_by(|queue| {
            let axis = queue.axis();
            Imagined::new(mesh.coordinate(rank, axis), mesh.size(axis))
        })
    }

    /// As [`Axes::imagined`]; `watch` is told of every collective.
    pub fn watched(mesh: Mesh, rank: usize, watch: Arc<dyn Watch>) -> Self {
        Self::made_by(|queue| {
            let axis = queue.axis();
            Imagined::watched(mesh.coordinate(rank, axis), mesh.size(axis), queue, Arc::clone(&watch))
        })
    }

    fn made_by(imagined: impl Fn(Queue) -> Imagined) -> Self {
        let make = |queue| Box::new(imagined(queue)) as Box<dyn Communicator<D>>;
        Axes {
            gather: make(Queue::Gather),
            reduce: make(Queue::Reduce),
            replicate: make(Queue::Replicate),
            tp: make(Queue::Tp),
        }
    }

    /// Splits the communicator of all ranks, and `inner` (all ranks as well, for calls that are waited for at
    /// once) along `tp`.
    ///
    /// # Errors
    /// What the communicators meet.
    pub fn split(
        mesh: Mesh,
        world: &mut dyn Communicator<D>,
        inner: &mut dyn Communicator<D>,
    ) -> Result<Self, CommError> {
        let rank = world.rank();
        let along = |communicator: &mut dyn Communicator<D>, axis: Axis| {
            let others: usize = Axis::ALL
                .into_iter()
                .filter(|other| *other != axis)
                .fold(0, |color, other| color * mesh.size(other) + mesh.coordinate(rank, other));
            communicator.split(axis.name(), others, mesh.coordinate(rank, axis))
        };
        Ok(Axes {
            gather: along(world, Axis::DpShard)?,
            reduce: along(world, Axis::DpShard)?,
            replicate: along(world, Axis::DpReplicate)?,
            tp: along(inner, Axis::Tp)?,
        })
    }

    /// Calls and bytes so far along an axis.
    pub fn audit(&self, axis: Axis) -> Audit {
        match axis {
            Axis::DpReplicate => self.replicate.audit(),
            Axis::DpShard => self.gather.audit().and(&self.reduce.audit()),
            Axis::Tp => self.tp.audit(),
        }
    }
}
