//! The transformer: maths only. No communication, no schedule, no optimizer.
//!
//! Every layer has an explicit `forward` that returns its output and exactly what its `backward` needs
//! (`Saved`), so memory is visible and recompute is a choice of what to keep. `backward` adds to the
//! gradients of its parameters and returns the gradient of its input.
//!
//! - [`transformer`]: which units a model has and which parameters they own.
//! - [`block`]: the residual structure and the three recompute modes; [`attention`], [`mlp`], [`norm`],
//!   [`linear`] inside it; [`embedding`] before and [`head`] after.
//! - [`pass`]: what every layer needs besides its parameters.

pub mod attention;
pub mod block;
pub mod embedding;
pub mod head;
pub mod linear;
pub mod mlp;
pub mod norm;
pub mod pass;
pub mod transformer;

pub use pass::Pass;
pub use transformer::Transformer;
