//! Model, step, optimizer, data, checkpoints and trainer of Tisserand.

pub mod error;
pub mod files;
pub mod log;
pub mod model_config;
pub mod run;

pub use error::{Error, Result};
