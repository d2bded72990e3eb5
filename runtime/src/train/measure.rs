//! Steps that are timed, on one rank: what `tisserand bench scaling` runs. Engine, data and agreements between ranks
//! are those of a training run; what a run keeps (checkpoints, metrics, status) is not there.
//!
//! A step is timed from the wait for its data until the device has done all of it: every step ends as a logged step of
//! a run does, with a look at the device's scalars.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tisserand_collectives::{Audit, Axis, Channel, ControlPlane};
use tisserand_kernels::ops::step_scalars::StepScalars;

use super::corpus::{self, Corpus, batch_shape};
use super::setup::{DeviceChoice, sharding, skipped, step_config};
use super::start;
use super::trainer::step_inputs;
use crate::config::Config;
use crate::data::{self, Loader, LoaderConfig, StepBatch, StepOrder};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::log::Logger;
use crate::model::Transformer;
use crate::opener::Opener;
use crate::plan::{self, Plan};
use crate::run::RunFolder;

/// What measured steps train on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasuredData {
    /// What the run file names, read as training reads it.
    OfRun,
    /// One batch of random tokens in whole sequences, made once: nothing is read.
    Synthetic,
}

/// Where the time of one step went, in seconds, as one rank saw it.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StepTime {
    /// From begin to end.
    pub total_s: f64,
    /// The step's actions, without waiting for other ranks.
    pub compute_s: f64,
    /// Waiting for collectives that no computation hides.
    pub exposed_s: f64,
    /// Waiting for the batch.
    pub data_s: f64,
}

impl StepTime {
    /// What is left: the ranks' agreement on the number of labelled tokens.
    pub fn other_s(&self) -> f64 {
        (self.total_s - self.compute_s - self.exposed_s - self.data_s).max(0.0)
    }
}

/// A model in training whose steps are timed.
pub struct Measurement {
    config: Config,
    control: Arc<dyn ControlPlane>,
    engine: Box<dyn Engine>,
    batches: Batches,
    after_first_step: Option<Box<dyn FnOnce() + Send>>,
    /// Steps done.
    step: u64,
    /// What the run needs and does.
    pub plan: Plan,
}

enum Batches {
    Read(Loader),
    Same(StepBatch),
}

impl Measurement {
    /// Prepares data, plans, makes the engine and sets start values, for a run of at most `steps` steps. Every rank
    /// calls it. Only `data.prepare` writes anything, into `run.dir`.
    ///
    /// # Errors
    /// As the start of a training run.
    pub fn new(
        config: Config,
        device: DeviceChoice,
        control: Arc<dyn ControlPlane>,
        data: MeasuredData,
        steps: u64,
    ) -> Result<Self> {
        let rank = control.rank();
        let model = Transformer::sharded(config.model.clone(), sharding(&config, rank).tp());
        let step = step_config(&config, &model, rank);
        let plan = plan::train(device.caps, &model, &step, config.training.seq_len, device.workspace)?;
        let batches = match data {
            MeasuredData::OfRun => Batches::Read(open(&config, control.as_ref(), &device.opener, steps)?),
            MeasuredData::Synthetic => Batches::Same(synthetic(&config, rank)),
        };
        let mut engine = (device.make)(model, step, plan.arena_bytes)?;
        start::begin(engine.as_mut(), &config, &Logger::silent(), control.as_ref(), &device.opener)?;
        engine.publish()?;
        let after_first_step = Some(device.after_first_step);
        Ok(Measurement { config, control, engine, batches, after_first_step, step: 0, plan })
    }

    /// Runs and times so many steps more.
    ///
    /// # Errors
    /// As steps of a run; one whose gradient is not finite is an error too, since it updates nothing.
    pub fn steps(&mut self, count: u64) -> Result<Vec<StepTime>> {
        self.control.barrier(Channel::Step)?;
        let mut times = Vec::with_capacity(count as usize);
        for _ in 0..count {
            times.push(self.timed_step()?);
        }
        self.control.barrier(Channel::Step)?;
        Ok(times)
    }

    fn timed_step(&mut self) -> Result<StepTime> {
        let begin = Instant::now();
        let trace = self.control.progress().trace().clone();
        let batch = self.batches.next()?;
        let got_data = Instant::now();
        let is_first = self.engine.sharding().coordinate(Axis::Tp) == 0;
        let mine = if is_first { batch.valid_tokens } else { 0 };
        let valid_tokens = self.control.sum(Channel::Step, mine)?;
        self.step += 1;
        let inputs = step_inputs(&self.config, self.step, valid_tokens);
        // Waits before the step are nobody's.
        trace.take_waited();
        let computing = Instant::now();
        self.engine.train(&inputs, &batch.micro_batches)?;
        if let Some(after_first_step) = self.after_first_step.take() {
            after_first_step();
        }
        let scalars = self.engine.scalars()?;
        let end = Instant::now();
        // The device has answered, so all waits of the step have their times.
        let exposed = trace.take_waited();
        self.batches.recycle(batch);
        check_finite(&scalars)?;
        let seconds = |time: Duration| time.as_secs_f64();
        Ok(StepTime {
            total_s: seconds(end - begin),
            compute_s: (seconds(end - computing) - seconds(exposed)).max(0.0),
            exposed_s: seconds(exposed),
            data_s: seconds(got_data - begin),
        })
    }

    /// The loss of the last step, nats per token.
    ///
    /// # Errors
    /// The device fails.
    pub fn loss(&self) -> Result<f32> {
        Ok(self.engine.scalars()?.loss)
    }

    /// Calls and payload of this rank so far, by axis in the order of [`Axis::ALL`].
    pub fn traffic(&self) -> [Audit; 3] {
        Axis::ALL.map(|axis| self.engine.audit(axis))
    }
}

fn check_finite(scalars: &StepScalars) -> Result<()> {
    if scalars.skipped_total == 0 && scalars.failed == 0 {
        return Ok(());
    }
    Err(Error::fault(format!(
        "the gradient of step {} is not finite, so nothing was updated; hint: a lower optimizer.lr",
        scalars.first_skipped_step.max(1)
    )))
}

impl Batches {
    fn next(&mut self) -> Result<StepBatch> {
        match self {
            Batches::Read(loader) => loader.next(),
            Batches::Same(batch) => Ok(std::mem::take(batch)),
        }
    }

    fn recycle(&mut self, used: StepBatch) {
        match self {
            Batches::Read(loader) => loader.recycle(used),
            Batches::Same(batch) => *batch = used,
        }
    }
}

/// The data of the run file, prepared by rank 0 where it asks for that.
fn open(config: &Config, control: &dyn ControlPlane, opener: &Opener, steps: u64) -> Result<Loader> {
    if control.rank() == 0 && config.data.prepare.is_some() {
        let folder = RunFolder::open(&config.run.dir, config.run.group.as_deref())?;
        corpus::prepare(config, &folder, &Logger::silent(), false, data::Progress::Quiet)?;
    }
    control.barrier(Channel::Step)?;
    let dataset = Corpus::open(config, control, opener)?.dataset;
    let order = StepOrder::new(config.training.global_batch, &skipped(config))?;
    dataset.check_epochs(order.samples_of_run(steps))?;
    let shape = batch_shape(config);
    let leaves = sharding(config, control.rank()).leaves(config.grad_accum());
    let prefetch_batches = config.data.prefetch_batches;
    Loader::new(Arc::new(dataset), LoaderConfig { order, shape, leaves, prefetch_batches, first_step: 0 })
}

/// Random tokens for this rank's part of a step; ranks along `tp` get the same ones.
fn synthetic(config: &Config, rank: usize) -> StepBatch {
    let training = &config.training;
    let leaves = sharding(config, rank).leaves(config.grad_accum());
    let seed = config.run.seed;
    let micro_batches: Vec<_> = leaves
        .into_iter()
        .map(|leaf| {
            let first = (leaf * training.micro_batch) as u64;
            let sequences = first..first + training.micro_batch as u64;
            data::MicroBatch::random(sequences, training.seq_len, config.model.vocab_size, seed)
        })
        .collect();
    let valid_tokens = micro_batches.iter().map(|batch| batch.valid_tokens).sum();
    StepBatch { step: 0, micro_batches, valid_tokens }
}
