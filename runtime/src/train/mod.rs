//! A training run from its run file to its exit code, on one rank. Nothing here is generic over devices.
//!
//! - `opening`: folder, lock, host table; [`setup`]: plan, engine; [`corpus`]: data; `start`: where the weights come from.
//! - [`trainer`]: the loop over steps; `agreement`: what ranks agree on between them; `pace`: how long
//!   they take.
//! - [`saving`]: snapshots of the engine and the checkpoints written from them; `save_time`: how long that takes;
//!   `limits`: when a run must stop to have that time.
//! - [`report`]: what a run tells while it runs: log line, metrics, TensorBoard, status.
//! - [`evaluation`]: validation losses.
//! - [`measure`]: steps that are timed, without what a run keeps.
//!
//! Every rank runs all of it; rank 0 (the *lead*) decides what must be one decision and writes what must be
//! written once.

mod agreement;
pub mod corpus;
pub mod evaluation;
mod limits;
pub mod measure;
mod opening;
mod pace;
pub mod report;
mod save_time;
pub mod saving;
pub mod setup;
pub(crate) mod start;
mod tracing;
pub mod trainer;

pub use setup::{DeviceChoice, TrainOptions};

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tisserand_collectives::ControlPlane;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::run::{BlackBox, Start, StopFlag};

/// How long a rank that ends because of a failure waits for its record of collectives to be written.
const FLIGHT_MAX: Duration = Duration::from_secs(2);

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

/// Trains as `config` says, from the newest checkpoint in its folder if there is one. Every rank calls it. An error
/// or a panic is told to the others ([`ControlPlane::fail`]), who return [`Error::Peer`]; which failure was the
/// first is the control plane's to say, and so status.json and the log of rank 0 name the same as everybody.
pub fn train(
    config: Config,
    options: TrainOptions,
    device: DeviceChoice,
    control: Arc<dyn ControlPlane>,
    stop: StopFlag,
) -> Result<Outcome> {
    control.progress().note(|activity| activity.action = Some("start".into()));
    let (mut folder, mut logger, start) = (None, None, Start::default());
    let (black_box, total_steps) = (BlackBox::default(), config.training.steps);
    let run = || {
        let opened = setup::open_folder(&config, &options, control.as_ref())?;
        folder = Some(opened.clone());
        let (control, start) = (Arc::clone(&control), start.clone());
        let run = setup::Run::new(config, options, opened, device, control, stop, start, &black_box)?;
        logger = Some(Arc::clone(&run.logger));
        trainer::Trainer::run(run)
    };
    let ended =
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(Error::panicked(panic.as_ref())));
    let Err(error) = ended else { return ended };
    control.fail(error.failure(control.rank()));
    black_box.wait(FLIGHT_MAX);
    let error = match control.failure() {
        Some(first) if !error.is_own() => Error::Peer(first),
        _ => error,
    };
    if control.rank() == 0 {
        // What is wrong with the folder is said by the error itself, or has no bearing on it.
        let _ = start.ended(error.exit_code());
        logger.iter().for_each(|logger| logger.error(&error.to_string()));
        folder.iter().for_each(|folder| report::failed(folder, &error, total_steps));
    }
    Err(error)
}
