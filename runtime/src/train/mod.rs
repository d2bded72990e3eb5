//! A training run from its run file to its exit code. Nothing here is generic over devices.
//!
//! - [`setup`]: folder, lock, data, plan, engine, and where the weights come from.
//! - [`trainer`]: the loop over steps.
//! - [`saving`]: snapshots of the engine and the checkpoints written from them.
//! - [`report`]: what a run tells while it runs: log line, metrics, TensorBoard, status.
//! - [`evaluation`]: validation losses.

pub mod evaluation;
pub mod report;
pub mod saving;
pub mod setup;
pub mod trainer;

pub use setup::{DeviceChoice, TrainOptions};

use tisserand_collectives::ControlPlane;

use crate::config::Config;
use crate::error::Result;
use crate::run::StopFlag;

/// How a run ended without an error.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// All steps are done; exit code 0.
    Finished,
    /// Stopped early with a checkpoint, for this reason: run me again; exit code 75.
    Stopped(String),
}

impl Outcome {
    /// The exit code of the command.
    pub fn exit_code(&self) -> u8 {
        match self {
            Outcome::Finished => 0,
            Outcome::Stopped(_) => 75,
        }
    }
}

/// Trains as `config` says, from the newest checkpoint in its folder if there is one.
pub fn train(
    config: Config,
    options: TrainOptions,
    device: DeviceChoice,
    control: Box<dyn ControlPlane>,
    stop: StopFlag,
) -> Result<Outcome> {
    let folder = setup::open_folder(&config, &options)?;
    let folder_of_failure = folder.clone();
    let run = setup::Run::new(config, options, folder, device, control, stop);
    let ended = run.and_then(trainer::Trainer::run);
    if let Err(error) = &ended {
        report::failed(&folder_of_failure, error);
    }
    ended
}
