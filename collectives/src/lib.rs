//! Communication between ranks: the mesh, placements of tensors on it, communicators over its axes, and
//! the control plane.
//!
//! - [`communicator`]: the trait, its calls, its errors. Start here. [`pending`]: a collective under way.
//! - [`Single`]: one rank; [`threads`]: ranks that are threads of one process; [`mpi`], [`nccl`]: ranks that are
//!   processes, with CPUs and with GPUs, behind the features of those names; [`Imagined`]: for dry runs.
//!   `messages`, `header`: what some of them have in common.
//! - [`Axes`]: one rank's communicators along the axes of the mesh.
//! - [`control`]: small host-side agreements, and the news that a rank has died.
//! - [`mesh`], [`placement`]: pure arithmetic; [`audit`]: what was moved; [`trace`]: when; [`flight`]: the
//!   newest of it, always; [`bandwidth`]: how fast, by size.
//!
//! A size of one is ordinary: [`Single`] is a communicator like any other, so the code above never asks
//! whether it is alone.

#[cfg(test)]
extern crate self as tisserand_collectives;

pub mod audit;
mod axes;
pub mod bandwidth;
pub mod communicator;
#[cfg(test)]
#[path = "../tests/conformance/mod.rs"]
mod conformance;
pub mod control;
#[cfg(any(feature = "mpi", feature = "nccl"))]
mod end_process;
pub mod flight;
#[cfg(any(feature = "mpi", feature = "nccl", test))]
mod header;
mod imagined;
pub mod mesh;
#[cfg(any(feature = "mpi", feature = "nccl", test))]
mod messages;
pub mod mpi;
pub mod nccl;
pub mod pending;
pub mod placement;
mod single;
pub mod threads;
pub mod trace;

pub use audit::{Audit, Collective, Traffic};
pub use axes::{Axes, Queue};
pub use communicator::{Call, CommError, Communicator, ReduceOp};
pub use control::{Alone, Channel, ControlPlane, Failure, Meeting, Memory, Progress, Tcp};
#[cfg(any(feature = "mpi", feature = "nccl"))]
pub use end_process::end_process;
pub use imagined::{Imagined, Watch, Workspace};
pub use mesh::{Axis, Mesh};
pub use pending::{Completion, Pending, Queued};
pub use placement::Placement;
pub use single::Single;
pub use threads::{Overlap, Threads};
pub use trace::Trace;
