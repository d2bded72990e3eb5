//! The step as data: a list of actions, made by [`schedule`] and run by [`executor`] on the network and
//! its [`state`]; `recorded` replays it without a walk over the actions.

pub mod action;
pub mod executor;
mod norm;
mod notes;
mod recorded;
pub mod schedule;
pub mod state;

pub use action::Action;
pub use executor::{Executor, StepConfig};
pub use state::{OptimizerState, StateDTypes};
