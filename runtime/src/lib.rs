//! Model, step, optimizer, data, checkpoints and trainer of Tisserand.

pub mod checkpoint;
pub mod error;
pub mod model_config;

pub use error::{Error, Result};
