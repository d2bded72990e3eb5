//! How a rank reaches the others, whichever device it takes.

use std::time::Duration;

use tisserand_collectives::threads::{self, Seat};
use tisserand_collectives::{Axes, Failure, Mesh, Overlap, Progress, Workspace};
use tisserand_kernels::{Cpu, Device};
use tisserand_runtime::Result;

#[cfg(feature = "gpu")]
use super::gpu::Gpu;
#[cfg(feature = "processes")]
use crate::processes;

/// How a rank reaches the others.
pub enum Link {
    /// There are none.
    Alone,
    /// Threads of this process.
    Threads(ThreadSeats),
    /// Processes.
    #[cfg(feature = "processes")]
    Processes(processes::Seat),
}

impl Link {
    /// Whether a library carries bytes from process to process.
    pub fn is_of_processes(&self) -> bool {
        !matches!(self, Link::Alone | Link::Threads(_))
    }

    /// What is to be done after the first step.
    pub(super) fn trust(&self) -> Box<dyn FnOnce() + Send> {
        match self {
            // Threads compare their calls as they meet, at no cost.
            Link::Alone | Link::Threads(_) => Box::new(|| {}),
            #[cfg(feature = "processes")]
            Link::Processes(seat) => seat.trust(),
        }
    }
}

/// The places of a thread-rank before it has a device, for each kind of device that this build has. Of each two: one
/// for calls in the background, one for those inside of layers.
pub struct ThreadSeats {
    cpu: [Seat<Cpu>; 2],
    #[cfg(feature = "gpu")]
    gpu: [Seat<Gpu>; 2],
}

/// Ends calls that wait.
pub(crate) type Aborter = Box<dyn Fn(&Failure) + Send + Sync>;

impl ThreadSeats {
    /// Those of so many ranks. A call that some rank has not joined after `timeout` fails.
    pub fn of(ranks: usize, timeout: Duration) -> Vec<Self> {
        let cpu = pairs(ranks, timeout);
        #[cfg(feature = "gpu")]
        let seats = cpu.zip(pairs(ranks, timeout)).map(|(cpu, gpu)| ThreadSeats { cpu, gpu });
        #[cfg(not(feature = "gpu"))]
        let seats = cpu.map(|cpu| ThreadSeats { cpu });
        seats.collect()
    }

    /// Those for CPUs.
    pub fn cpu(self) -> [Seat<Cpu>; 2] {
        self.cpu
    }

    /// What ends the calls of all ranks.
    pub fn aborters(&self) -> Vec<Aborter> {
        let cpu = self.cpu.iter().map(boxed);
        #[cfg(feature = "gpu")]
        let aborters = cpu.chain(self.gpu.iter().map(boxed));
        #[cfg(not(feature = "gpu"))]
        let aborters = cpu;
        aborters.collect()
    }
}

fn boxed<D: Device>(seat: &Seat<D>) -> Aborter {
    Box::new(seat.aborter())
}

fn pairs<D: Device>(ranks: usize, timeout: Duration) -> impl Iterator<Item = [Seat<D>; 2]> {
    let seats = || threads::seats(ranks, timeout).into_iter();
    seats().zip(seats()).map(|(background, inner)| [background, inner])
}

/// A device by which ranks reach each other.
pub(super) trait Linked: Device {
    /// Its seats among those of a thread-rank.
    fn seats(seats: ThreadSeats) -> [Seat<Self>; 2];

    /// Its communicators among processes.
    ///
    /// # Errors
    /// They do not start, or cannot serve this device.
    #[cfg(feature = "processes")]
    fn processes(
        &self,
        seat: processes::Seat,
        mesh: Mesh,
        copies: usize,
        progress: &Progress,
    ) -> Result<Axes<Self>>;

    /// What those take from the arena.
    #[cfg(feature = "processes")]
    fn workspace_of_processes(seat: &processes::Seat) -> Workspace;

    /// What the communicators of a link take from the arena.
    fn workspace(link: &Link) -> Workspace {
        match link {
            Link::Alone | Link::Threads(_) => Workspace::None,
            #[cfg(feature = "processes")]
            Link::Processes(seat) => Self::workspace_of_processes(seat),
        }
    }

    /// The communicators of a rank along the axes of the mesh; see [`Axes::split`].
    ///
    /// # Errors
    /// As those of the link.
    fn axes(&self, link: Link, mesh: Mesh, copies: usize, progress: &Progress) -> Result<Axes<Self>> {
        match link {
            Link::Alone => Ok(Axes::single(self)),
            Link::Threads(seats) => {
                let [world, inner] = Self::seats(seats);
                let mut world = world.take(self, Overlap::Background, progress.clone())?;
                let mut inner = inner.take(self, Overlap::None, progress.clone())?;
                Ok(Axes::split(mesh, &mut world, &mut inner, copies)?)
            }
            #[cfg(feature = "processes")]
            Link::Processes(seat) => self.processes(seat, mesh, copies, progress),
        }
    }
}

impl Linked for Cpu {
    fn seats(seats: ThreadSeats) -> [Seat<Self>; 2] {
        seats.cpu()
    }

    #[cfg(feature = "mpi")]
    fn processes(
        &self,
        seat: processes::Seat,
        mesh: Mesh,
        copies: usize,
        progress: &Progress,
    ) -> Result<Axes<Self>> {
        seat.over_mpi(self, mesh, copies, progress)
    }

    #[cfg(all(feature = "processes", not(feature = "mpi")))]
    fn processes(&self, _: processes::Seat, _: Mesh, _: usize, _: &Progress) -> Result<Axes<Self>> {
        Err(tisserand_runtime::Error::input(
            "run.device = \"cpu\" with processes: this program was built without MPI; hint: cargo build --release \
             --features mpi, or run.device = \"cuda\", or ranks that are threads",
        ))
    }

    #[cfg(feature = "processes")]
    fn workspace_of_processes(_: &processes::Seat) -> Workspace {
        Workspace::Mpi
    }
}

#[cfg(feature = "gpu")]
impl Linked for Gpu {
    fn seats(seats: ThreadSeats) -> [Seat<Self>; 2] {
        seats.gpu
    }

    #[cfg(feature = "nccl")]
    fn processes(
        &self,
        seat: processes::Seat,
        mesh: Mesh,
        copies: usize,
        _: &Progress,
    ) -> Result<Axes<Self>> {
        seat.over_nccl(self, mesh, copies)
    }

    #[cfg(all(feature = "processes", not(feature = "nccl")))]
    fn processes(&self, _: processes::Seat, _: Mesh, _: usize, _: &Progress) -> Result<Axes<Self>> {
        Err(tisserand_runtime::Error::input(
            "run.device = \"cuda\" with processes: this program was built without NCCL; hint: cargo build --release \
             --features nccl, or run.device = \"cpu\", or ranks that are threads",
        ))
    }

    #[cfg(feature = "processes")]
    fn workspace_of_processes(seat: &processes::Seat) -> Workspace {
        Workspace::Nccl(seat.sums())
    }
}
