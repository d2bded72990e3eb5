//! How a model is spread over ranks, and the only place where model code meets communication.
//!
//! - [`sharding`]: which slice of every flat group a rank owns; pure arithmetic.
//! - [`weights`]: the compute copy of the parameters, gathered when a unit needs it.
//! - [`tensor`]: what layers gather and sum along `tp`.
//! - [`gradients`]: from a unit's backward pass to the sum over ranks and micro-batches.

pub mod gradients;
pub mod sharding;
pub mod tensor;
pub mod weights;

pub use gradients::Gradients;
pub use sharding::Sharding;
pub use tensor::{TensorParallel, TpRank};
pub use weights::Weights;
