//! Snapshots of the engine, and the checkpoints that a background thread writes from them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::save_time::SaveTime;
use crate::checkpoint::{
    BackgroundSaver, Crew, Documents, Job, MeshAxes, Piece, Retention, SaveJob, SaveOptions, Saved, Snapshot,
    TensorData, TensorSpec, TrainerState, WeightsJob,
};
use crate::config::Config;
use crate::engine::{Engine, Part, SavedRun};
use crate::error::Result;
use crate::hf_config;
use crate::params::ParamSpec;
use crate::run::RunFolder;
use crate::tokenizer::Tokenizer;

/// What the optimizer part of a checkpoint holds, and the prefixes of the names there.
pub const OPTIMIZER_PARTS: [(Part, &str); 3] =
    [(Part::Master, "master"), (Part::ExpAvg, "exp_avg"), (Part::ExpAvgSq, "exp_avg_sq")];

/// When checkpoints are due, and the thread that writes them.
pub struct Saving {
    saver: BackgroundSaver,
    crew: Crew,
    checkpoints_dir: PathBuf,
    weights_dir: PathBuf,
    retention: Retention,
    options: SaveOptions,
    every_steps: Option<u64>,
    every: Option<Duration>,
    weights_every_steps: Option<u64>,
    config_json: String,
    tokenizer: Option<PathBuf>,
    mesh: MeshAxes,
    last_save: Instant,
    time: SaveTime,
    snapshot_s: f64,
}

impl Saving {
    /// Starts the thread.
    pub(super) fn new(
        config: &Config,
        folder: &RunFolder,
        tokenizer: Option<PathBuf>,
        crew: Crew,
        time: SaveTime,
    ) -> Result<Self> {
        let policy = &config.checkpoint;
        let mesh = &config.mesh;
        // Who writes it needs it, and reads the tokenizer for it.
        let config_json =
            if crew.is_lead() { config_json(config, tokenizer.as_deref())? } else { String::new() };
        Ok(Saving {
            saver: BackgroundSaver::start()?,
            crew,
            checkpoints_dir: folder.checkpoints(),
            weights_dir: folder.dir().join("weights"),
            options: SaveOptions { access: folder.access().clone(), ..SaveOptions::default() },
            retention: retention(config),
            every_steps: policy.every_steps,
            every: policy.every_minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes)),
            weights_every_steps: policy.weights_every_steps,
            config_json,
            tokenizer,
            mesh: MeshAxes {
                dp_replicate: mesh.dp_replicate,
                dp_shard: mesh.dp_shard,
                tp: mesh.tp,
                ..MeshAxes::default()
            },
            last_save: Instant::now(),
            time,
            snapshot_s: 0.0,
        })
    }

    /// Whether a checkpoint should be taken after `step`.
    pub fn is_due(&self, step: u64) -> bool {
        self.every_steps.is_some_and(|every| step.is_multiple_of(every))
            || self.every.is_some_and(|every| self.last_save.elapsed() >= every)
    }

    /// Whether the weights alone should be written after `step`.
    pub fn weights_are_due(&self, step: u64) -> bool {
        self.weights_every_steps.is_some_and(|every| step.is_multiple_of(every))
    }

    /// How long a save takes.
    pub(super) fn time(&self) -> &SaveTime {
        &self.time
    }

    /// The result of a save that ended since the last call.
    pub fn poll(&mut self) -> Option<Result<Saved>> {
        let ended = self.saver.poll();
        self.note(ended)
    }

    /// Waits for the save under way.
    pub fn wait(&mut self) -> Option<Result<Saved>> {
        let ended = self.saver.wait();
        self.note(ended)
    }

    fn note(&mut self, ended: Option<Result<Saved>>) -> Option<Result<Saved>> {
        if let Some(Ok(saved)) = &ended {
            self.time.measured(self.snapshot_s + saved.seconds);
        }
        ended
    }

    /// Copies the engine's state and hands it to the thread; returns the seconds that training stood still.
    /// The thread must be idle: call [`Saving::wait`] before.
    pub fn checkpoint(&mut self, engine: &mut dyn Engine, state: &TrainerState) -> Result<f64> {
        let start = Instant::now();
        let snapshot = Snapshot { weights: weights(engine)?, optimizer: optimizer(engine)? };
        let documents = Documents {
            trainer: state.clone(),
            config_json: self.config_json.clone(),
            tokenizer: self.tokenizer.clone(),
            mesh: self.mesh,
        };
        self.saver.submit(Job::Checkpoint(Box::new(SaveJob {
            checkpoints_dir: self.checkpoints_dir.clone(),
            crew: self.crew.clone(),
            snapshot,
            documents,
            options: self.options.clone(),
            retention: Some(self.retention),
        })))?;
        self.last_save = Instant::now();
        self.snapshot_s = start.elapsed().as_secs_f64();
        Ok(self.snapshot_s)
    }

    /// Copies the weights and hands them to the thread.
    pub fn weights(&mut self, engine: &mut dyn Engine, step: u64) -> Result<()> {
        self.saver.submit(Job::Weights(WeightsJob {
            weights_dir: self.weights_dir.clone(),
            crew: self.crew.clone(),
            step,
            weights: weights(engine)?,
            config_json: self.config_json.clone(),
            tokenizer: self.tokenizer.clone(),
            options: self.options.clone(),
        }))
    }
}

/// Which checkpoints the run keeps.
pub fn retention(config: &Config) -> Retention {
    let policy = &config.checkpoint;
    Retention {
        keep_last: policy.keep_last,
        keep_every_steps: policy.keep_every_steps,
        keep_every_tokens: None,
    }
}

/// The text of `weights/config.json`.
fn config_json(config: &Config, tokenizer: Option<&Path>) -> Result<String> {
    let eos = match tokenizer {
        Some(path) => Tokenizer::open(path)?.end_of_text(),
        None => None,
    };
    let special = hf_config::SpecialTokens { bos: None, eos };
    Ok(format!("{:#}\n", hf_config::write(&config.model, config.precision.compute, special)?))
}

fn weights(engine: &mut dyn Engine) -> Result<Vec<TensorData>> {
    tensors(engine, Part::Weights, None)
}

fn optimizer(engine: &mut dyn Engine) -> Result<Vec<TensorData>> {
    let mut all = Vec::new();
    for (part, prefix) in OPTIMIZER_PARTS {
        all.extend(tensors(engine, part, Some(prefix))?);
    }
    Ok(all)
}

/// All tensors of a part, with what this rank writes of them.
fn tensors(engine: &mut dyn Engine, part: Part, prefix: Option<&str>) -> Result<Vec<TensorData>> {
    let (dtype, model) = (engine.dtype(part), engine.model());
    let params: Vec<&ParamSpec> = model.units.iter().flat_map(|unit| unit.params()).collect();
    let tensor = |param: &ParamSpec| {
        let name = prefix.map_or_else(|| param.name.clone(), |prefix| format!("{prefix}.{}", param.name));
        TensorData { spec: TensorSpec::new(name, param.shape.clone(), dtype), pieces: Vec::new() }
    };
    let names: HashMap<String, usize> =
        params.iter().enumerate().map(|(i, param)| (param.name.clone(), i)).collect();
    let mut tensors: Vec<TensorData> = params.into_iter().map(tensor).collect();
    for SavedRun { name, start, bytes } in engine.snapshot(part)? {
        tensors[names[&name]].pieces.push(Piece::owned(start, bytes));
    }
    Ok(tensors)
}
