//! Runs of several ranks, as a user starts them: whatever the mesh, the same weights, losses and checkpoints; and
//! whatever ends a run, a message that says what happened and checkpoints to go on from.
//!
//! - [`equal`]: meshes beside one rank; [`folder`]: what a run of several ranks leaves behind.
//! - [`resume`]: from any mesh to any mesh, by stops and by crashes.
//! - [`failures`]: ranks that die, are late or meet bad input; [`faulty`] is the program that does so.
//! - [`idle`]: runs that come nowhere; [`slow`]: ranks that others wait for.
//! - [`refusals`]: ranks and meshes that do not fit.
//!
//! With `TISSERAND_FULL=1` products of meshes and modes are run whole, not a covering part.

mod equal;
mod failures;
mod faulty;
mod folder;
mod idle;
mod refusals;
mod resume;
#[path = "../support/run.rs"]
mod run;
mod slow;
mod support;
