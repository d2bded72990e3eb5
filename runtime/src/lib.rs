//! Model, step, optimizer, data, checkpoints and trainer of Tisserand.

pub mod config;
pub mod error;
pub mod hf_config;
pub mod model_config;

pub use config::Config;
pub use error::{Error, Result};
