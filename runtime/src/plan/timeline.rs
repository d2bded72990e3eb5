//! A step as it happens on one rank: every op with its cost, every collective begun and waited for, in order.
//!
//! It is recorded, not made: a dry run of the real step, on a device and communicators that are watched. Of a
//! step with many micro-batches the first [`RECORDED`] are recorded; those between look like the second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tisserand_collectives::{Axes, Collective, Mesh, Progress, Queue, Watch, Workspace};
use tisserand_kernels::device::Caps;
use tisserand_kernels::ops::step_scalars::StepScalars;
use tisserand_kernels::{Context, Cost, DType, DryRun};

use crate::data::MicroBatch;
use crate::engine::Engine;
use crate::error::Result;
use crate::model::Transformer;
use crate::step::{Action, Executor, StepConfig};

/// Micro-batches of a step that are recorded at most.
pub const RECORDED: usize = 3;

/// One thing that happens.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Event {
    /// An action begins; what follows belongs to it.
    Action(Action),
    /// An op is put into the compute queue.
    Op(Cost),
    /// A collective is begun, behind everything in the compute queue so far.
    Begin(Begun),
    /// What follows waits for this collective, by its place among all that were begun.
    Wait(usize),
    /// A step ends.
    StepEnd,
}

/// A collective.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Begun {
    /// The communicator.
    pub queue: Queue,
    /// What it does.
    pub kind: Collective,
    /// Bytes of the full tensor.
    pub payload_bytes: usize,
}

/// Two steps of one rank, one after the other: what the first leaves under way the second waits for.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// In order.
    pub events: Vec<Event>,
    /// Micro-batches of each recorded step.
    pub recorded_micro_steps: usize,
    /// Micro-batches of a step of the run.
    pub micro_steps: usize,
    /// Tokens of a micro-batch of one data-parallel rank.
    pub tokens: usize,
    /// Sizes of the axes.
    pub mesh: Mesh,
    /// Type of weights and activations.
    pub compute: DType,
    /// Arena that the recorded steps took; that of the run is at least as large.
    pub arena_bytes: usize,
}

impl Timeline {
    /// Records two steps on a device with these caps.
    ///
    /// # Errors
    /// As a step meets them.
    pub fn record(caps: Caps, model: &Transformer, config: &StepConfig) -> Result<Timeline> {
        let micro_steps = config.micro_steps;
        let config = StepConfig { micro_steps: micro_steps.min(RECORDED), ..config.clone() };
        let recorder = Arc::new(Recorder::default());
        let ops = Arc::clone(&recorder);
        let device = DryRun::watched(caps, Arc::new(move |cost| ops.push(Event::Op(cost))));
        let ctx = Context::new(device, DryRun::CAPACITY_BYTES)?;
        let arena = ctx.arena.clone();
        let (mesh, rank) = (config.sharding.mesh, config.sharding.rank);
        let copies = config.sharding.tp().copies(model.config.num_kv_heads);
        let watch = Arc::clone(&recorder) as Arc<dyn Watch>;
        let axes = Axes::watched(mesh, rank, copies, Workspace::None, watch);
        let mut executor = Executor::new(ctx, model.clone(), config.clone(), axes, Progress::default())?;
        executor.publish()?;
        recorder.restart();
        let micro_batches = vec![MicroBatch::empty(config.tokens); config.micro_steps];
        for _ in 0..2 {
            let before = |action| recorder.push(Event::Action(action));
            executor.train_watched(&StepScalars::default(), &micro_batches, before)?;
            recorder.push(Event::StepEnd);
        }
        drop(executor);
        Ok(Timeline {
            events: std::mem::take(&mut recorder.log().events),
            recorded_micro_steps: config.micro_steps,
            micro_steps,
            tokens: config.tokens,
            mesh,
            compute: config.dtypes.compute,
            arena_bytes: arena.high_water_bytes(),
        })
    }
}

/// Writes down what device and communicators tell.
#[derive(Default)]
struct Recorder {
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    events: Vec<Event>,
    begun: usize,
}

impl Recorder {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: Event) {
        self.log().events.push(event);
    }

    /// Forgets what happened before the first step; nothing of it is under way.
    fn restart(&self) {
        *self.log() = Log::default();
    }
}

impl Watch for Recorder {
    fn begun(&self, queue: Queue, kind: Collective, payload_bytes: usize) -> usize {
        let mut log = self.log();
        log.events.push(Event::Begin(Begun { queue, kind, payload_bytes }));
        log.begun += 1;
        log.begun - 1
    }

    fn awaited(&self, number: usize) {
        self.push(Event::Wait(number));
    }
}
