//! One rank's communicators, one or two per axis of the mesh.

use tisserand_kernels::Device;

use crate::{Audit, Axis, CommError, Communicator, Imagined, Mesh, Single, Workspace};

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
        let of = |rank, size| Box::new(Imagined::new(rank, size, workspace)) as Box<dyn Communicator<D>>;
        let imagined = |axis| of(mesh.coordinate(rank, axis), mesh.size(axis));
        Axes {
            gather: imagined(Axis::DpShard),
            reduce: imagined(Axis::DpShard),
            replicate: imagined(Axis::DpReplicate),
            tp: imagined(Axis::Tp),
            copies: of(mesh.coordinate(rank, Axis::Tp) % copies, copies),
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
