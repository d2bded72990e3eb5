//! Model, step, optimizer, data, checkpoints and trainer of Tisserand.
//!
//! The way of one training step: [`train::trainer`] takes a batch from [`data`] and hands it to an
//! [`engine`], which runs the actions of [`step`] over the layers of [`model`]. [`plan`] runs the same
//! actions on a device that only counts. [`parallel`] says which rank has what.

pub mod build;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod decoder;
pub mod engine;
pub mod error;
pub mod files;
pub mod hf_config;
pub mod inference;
pub mod log;
pub mod model;
pub mod model_config;
pub mod network;
pub mod opener;
pub mod parallel;
pub mod params;
pub mod plan;
pub mod run;
pub mod sampling;
mod snapshot;
pub mod step;
pub mod tokenizer;
pub mod train;

pub use error::{Error, Result};
