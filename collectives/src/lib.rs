//! Communication between ranks: the mesh, placements of tensors on it, communicators over its axes, and
//! the control plane.
//!
//! A size of one is ordinary: [`Single`] is a communicator like any other, so the code above never asks
//! whether it is alone. Communicators of several ranks implement the same trait.

pub mod audit;
pub mod communicator;
pub mod control;
pub mod mesh;
pub mod placement;
mod single;

pub use audit::{Audit, Collective, Traffic};
pub use communicator::{CommError, Communicator, Pending, ReduceOp};
pub use control::{Alone, ControlPlane};
pub use mesh::{Axis, Mesh};
pub use placement::Placement;
pub use single::Single;
