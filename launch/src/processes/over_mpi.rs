//! Communicators over MPI, which starts when the device is there.

use tisserand_collectives::mpi::{self, Mpi};
use tisserand_collectives::{Axes, Communicator, ControlPlane, Failure, Mesh, Progress};
use tisserand_kernels::Cpu;
use tisserand_runtime::{Error, Result};

use super::{Seat, Started, pmi};
use crate::env;

impl Seat {
    /// Starts MPI and splits it along the axes of the mesh; see [`Axes::split`].
    ///
    /// # Errors
    /// The launcher does not tell MPI what it needs, MPI does not start, or it counts the ranks differently.
    pub fn over_mpi(self, device: &Cpu, mesh: Mesh, copies: usize, progress: &Progress) -> Result<Axes<Cpu>> {
        pmi::check(&self.ranks, &mpi::library(), &env::variable)?;
        let mut world = Mpi::start(device, progress.clone(), self.timeout)?;
        let handle = world.handle();
        if let Some(control) = self.control.upgrade() {
            control.on_failure(Box::new(move |failure: &Failure| handle.abort(failure.clone())));
        }
        let (rank, size) = (world.rank(), world.size());
        if (rank, size) != (self.ranks.rank, self.ranks.world_size) {
            let hint = "hint: start it with the mpirun of the MPI library that it was built with";
            let said = self.ranks.describe();
            return Err(Error::input(format!(
                "MPI counts this process as rank {rank} of {size}, but it is {said}; {hint}"
            )));
        }
        // Every communicator of MPI goes on by itself, so calls inside of layers need no world of their own; but
        // both are borrowed at once.
        let mut inner = world.split("world", 0, rank)?;
        let axes = Axes::split(mesh, &mut world, inner.as_mut(), copies)?;
        let handle = world.handle();
        let trust = Box::new(move || handle.set_checked(false));
        *self.world.lock() = Some(Started { _world: Box::new(world), trust });
        Ok(axes)
    }
}
