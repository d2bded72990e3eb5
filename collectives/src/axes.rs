//! One rank's communicators, one or two per axis of the mesh.

use std::sync::Arc;

use tisserand_kernels::Device;

use crate::imagined::Watch;
use crate::{Audit, Axis, CommError, Communicator, Imagined, Mesh, Single, Workspace};

/// One of a rank's communicators, named as the fields of [`Axes`]. The collectives of one run one after the
/// other, those of different ones side by side, where whoever carries them out can do that.
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
    /// [`Axes::copies`].
    Copies,
}

impl Queue {
    /// Every communicator.
    pub const ALL: [Queue; 5] = [Queue::Gather, Queue::Reduce, Queue::Replicate, Queue::Tp, Queue::Copies];

    /// The axis along which it communicates.
    pub const fn axis(self) -> Axis {
        match self {
            Queue::Gather | Queue::Reduce => Axis::DpShard,
            Queue::Replicate => Axis::DpReplicate,
            Queue::Tp | Queue::Copies => Axis::Tp,
        }
    }

    /// The name in plans.
    pub const fn name(self) -> &'static str {
        match self {
            Queue::Gather => "gather",
            Queue::Reduce => "reduce",
            Queue::Replicate => "replicate",
            Queue::Tp => "tp",
            Queue::Copies => "copies",
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
    /// The ranks along `tp` that have the same key heads.
    pub copies: Box<dyn Communicator<D>>,
}

impl<D: Device> Axes<D> {
    /// One rank alone.
    pub fn single(device: &D) -> Self {
        let single = || Box::new(Single::new(device.clone())) as Box<dyn Communicator<D>>;
        Axes { gather: single(), reduce: single(), replicate: single(), tp: single(), copies: single() }
    }

    /// A rank of a mesh whose other ranks are imagined, on communicators that take this `workspace`; every `copies`
    /// neighbours along `tp` have the same key heads.
    pub fn imagined(mesh: Mesh, rank: usize, copies: usize, workspace: Workspace) -> Self {
        Self::made_by(mesh, rank, copies, |_, rank, size| Imagined::new(rank, size, workspace))
    }

    /// As [`Axes::imagined`]; `watch` is told of every collective.
    pub fn watched(
        mesh: Mesh,
        rank: usize,
        copies: usize,
        workspace: Workspace,
        watch: Arc<dyn Watch>,
    ) -> Self {
        Self::made_by(mesh, rank, copies, |queue, rank, size| {
            Imagined::new(rank, size, workspace).watched(queue, Arc::clone(&watch))
        })
    }

    fn made_by(
        mesh: Mesh,
        rank: usize,
        copies: usize,
        imagined: impl Fn(Queue, usize, usize) -> Imagined,
    ) -> Self {
        let make = |queue: Queue| {
            let axis = queue.axis();
            let (rank, size) = match queue {
                Queue::Copies => (mesh.coordinate(rank, axis) % copies, copies),
                _ => (mesh.coordinate(rank, axis), mesh.size(axis)),
            };
            Box::new(imagined(queue, rank, size)) as Box<dyn Communicator<D>>
        };
        Axes {
            gather: make(Queue::Gather),
            reduce: make(Queue::Reduce),
            replicate: make(Queue::Replicate),
            tp: make(Queue::Tp),
            copies: make(Queue::Copies),
        }
    }

    /// Splits the communicator of all ranks, and `inner` (all ranks as well, for calls that are waited for at
    /// once) along `tp`, where every `copies` neighbours have the same key heads.
    ///
    /// # Errors
    /// What the communicators meet.
    pub fn split(
        mesh: Mesh,
        world: &mut dyn Communicator<D>,
        inner: &mut dyn Communicator<D>,
        copies: usize,
    ) -> Result<Self, CommError> {
        let rank = world.rank();
        let along = |communicator: &mut dyn Communicator<D>, axis: Axis| {
            let others: usize = Axis::ALL
                .into_iter()
                .filter(|other| *other != axis)
                .fold(0, |color, other| color * mesh.size(other) + mesh.coordinate(rank, other));
            communicator.split(axis.name(), others, mesh.coordinate(rank, axis))
        };
        let mut tp = along(inner, Axis::Tp)?;
        let tp_rank = tp.rank();
        Ok(Axes {
            copies: tp.split("copies", tp_rank / copies, tp_rank % copies)?,
            gather: along(world, Axis::DpShard)?,
            reduce: along(world, Axis::DpShard)?,
            replicate: along(world, Axis::DpReplicate)?,
            tp,
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
