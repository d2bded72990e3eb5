//! Communicators over NCCL, for the GPUs of processes.

use std::sync::Arc;

use tisserand_collectives::nccl::{Library, Nccl, Search};
use tisserand_collectives::{Axes, ControlPlane, Mesh};
use tisserand_kernels::Cuda;
use tisserand_kernels::cuda::driver::cudarc::Cudarc;
use tisserand_runtime::{Error, Result};

use super::{Seat, Started};
use crate::env;

impl Seat {
    /// Loads NCCL and makes a communicator for each axis of the mesh; see [`Axes::split`].
    ///
    /// # Errors
    /// There is no NCCL here that will do, or it does not start.
    pub fn over_nccl(self, device: &Cuda<Cudarc>, mesh: Mesh, copies: usize) -> Result<Axes<Cuda<Cudarc>>> {
        let home = env::variable("NCCL_HOME").map(Into::into);
        let search = Search { file: self.library, home, launch_order: env::variable(env::NCCL_LAUNCH_ORDER) };
        let library = Library::load(&search).map_err(|error| Error::input(error.to_string()))?;
        let control: Arc<dyn ControlPlane> =
            self.control.upgrade().ok_or_else(|| Error::fault("the control plane has ended"))?;
        if self.ranks.rank == 0 {
            eprintln!("{}{}", library.describe(), one_at_a_time(&library));
        }
        let mut world = Nccl::start(library, device, control, self.sums, self.timeout)?;
        let mut inner = world.beside();
        let axes = Axes::split(mesh, &mut world, &mut inner, copies)?;
        let handle = world.handle();
        let trust = Box::new(move || handle.set_checked(false));
        *self.world.lock() = Some(Started { _world: Box::new(()), trust });
        Ok(axes)
    }
}

/// What to add to a library's description.
fn one_at_a_time(library: &Library) -> String {
    if library.keeps_order() {
        return String::new();
    }
    let variable = env::NCCL_LAUNCH_ORDER;
    format!(
        ", one collective at a time; hint: {variable}=1 lets those of several axes overlap (NCCL 2.26 or newer)"
    )
}
