//! Model, step, optimizer, data, checkpoints and trainer of Tisserand.

pub mod data;
pub mod error;
pub mod model_config;
pub mod tokenizer;

pub use error::{Error, Result};
