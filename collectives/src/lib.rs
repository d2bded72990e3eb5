//! Communication between ranks: the mesh, placements of tensors on it, communicators over its axes, and
//! the control plane.
//!
//! - [`communicator`]: the trait, its calls, its errors. Start here. [`pending`]: a collective under way.
//! - [`Single`]: one rank; [`threads`]: ranks that are threads of one process; [`mpi`]: ranks that are
//!   processes, behind the feature of that name; [`Imagined`]: for dry runs.
//! - [`Axes`]: one rank's communicators along the axes of the mesh.
//! - [`control`]: small host-side agreements, and the news that a rank has died.
//! - [`mesh`], [`placement`]: pure arithmetic; [`audit`]: what was moved; [`trace`]: when.
//!
//! A size of one is ordinary: [`Single`] is a communicator like any other, so the code above never asks
//! whether it is alone.

pub mod audit;
mod axes;
pub mod communicator;
pub mod control;
mod imagined;
pub mod mesh;
pub mod mpi;
pub mod pending;
pub mod placement;
mod single;
pub mod threads;
pub mod trace;

pub use audit::{Audit, Collective, Traffic};
pub use axes::{Axes, Queue};
pub use communicator::{Call, CommError, Communicator, ReduceOp};
pub use control::{Alone, Channel, ControlPlane, Failure, Memory, Progress, Tcp};
pub use imagined::{Imagined, Watch, Workspace};
pub use mesh::{Axis, Mesh};
pub use pending::{Completion, Pending};
pub use placement::Placement;
pub use single::Single;
pub use threads::{Overlap, Threads};
pub use trace::Trace;
