//! From a run file to everything that the first step needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tisserand_collectives::ControlPlane;
use tisserand_kernels::device::Caps;
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;
use tisserand_kernels::ops::step_scalars::StepScalars;

use super::evaluation::ValidationData;
use crate::checkpoint::{self, CheckpointReader, HfFolder, Source as CheckpointSource, TrainerState};
use crate::config::{Config, InitLoad, RecomputeMode};
use crate::data::{self, BatchShape, Dataset, DatasetConfig, StepOrder, ValidationSet};
use crate::engine::{Engine, Part};
use crate::error::{Error, Result};
use crate::files::io_error;
use crate::log::{Logger, units};
use crate::model::Transformer;
use crate::model::block::Recompute;
use crate::plan::{self, Plan};
use crate::run::{self, HostRow, LineageEntry, ProcessDescription, RunFolder, RunLock, StopFlag};
use crate::step::{StateDTypes, StepConfig};
use crate::tokenizer::Tokenizer;

/// What the command line says beside the run file.
#[derive(Clone, Debug, Default)]
pub struct TrainOptions {
    /// The run file as the user wrote it, kept in the run folder.
    pub run_toml: String,
    /// Refuse a folder that holds anything.
    pub fresh: bool,
    /// Keys that may differ from those the run began with.
    pub allow_change: Vec<String>,
    /// Nothing on standard output.
    pub quiet: bool,
    /// Name of the job: Slurm's id, or "local".
    pub job_id: String,
    /// How the process was started.
    pub process: ProcessDescription,
}

/// Makes the engine of a run, given model, step and the size of the arena.
pub type MakeEngine = Box<dyn FnOnce(Transformer, StepConfig, usize) -> Result<Box<dyn Engine>>>;

/// The device that `launch` chose.
pub struct DeviceChoice {
    /// What the plan must know of it.
    pub caps: Caps,
    /// For the log: "cpu, 2 threads".
    pub description: String,
    /// Makes the engine.
    pub make: MakeEngine,
}

/// A run that is ready for its next step.
pub struct Run {
    pub(super) config: Config,
    pub(super) folder: RunFolder,
    pub(super) lock: RunLock,
    pub(super) logger: Arc<Logger>,
    pub(super) control: Box<dyn ControlPlane>,
    pub(super) stop: StopFlag,
    pub(super) engine: Box<dyn Engine>,
    pub(super) plan: Plan,
    pub(super) dataset: Arc<Dataset>,
    pub(super) order: StepOrder,
    pub(super) validation: Vec<ValidationData>,
    pub(super) unigram_entropy: Option<f64>,
    pub(super) tokenizer: Option<PathBuf>,
    pub(super) state: TrainerState,
    pub(super) resumed_from: Option<PathBuf>,
    pub(super) job_id: String,
    pub(super) started: Instant,
}

/// Opens the run folder; `--fresh` refuses one that holds anything.
pub fn open_folder(config: &Config, options: &TrainOptions) -> Result<RunFolder> {
    if options.fresh {
        RunFolder::require_empty(&config.run.dir)?;
    }
    RunFolder::open(&config.run.dir, config.run.group.as_deref())
}

/// What the model is trained on.
struct Corpus {
    dataset: Dataset,
    validation: Vec<ValidationData>,
    tokenizer: Option<PathBuf>,
    unigram_entropy: Option<f64>,
}

impl Run {
    /// Takes the lock, prepares data, plans, makes the engine and sets its weights.
    pub fn new(
        config: Config,
        options: TrainOptions,
        folder: RunFolder,
        device: DeviceChoice,
        control: Box<dyn ControlPlane>,
        stop: StopFlag,
    ) -> Result<Run> {
        let started = Instant::now();
        let job_id = options.job_id.clone();
        let mut notices = Vec::new();
        let lock = folder.lock(&job_id, |notice| notices.push(notice.to_owned()))?;
        let differences = check_changes(&config, &folder, &options)?;
        let job = folder.next_job(&job_id, &options.process)?;
        job.write_hosts(&[host_row(control.as_ref(), &device.description)])?;
        let logger = Arc::new(Logger::new(Some(&job.log_file()), options.quiet)?);
        notices.iter().for_each(|notice| logger.warn(notice));

        let newest = newest_checkpoint(&folder, &logger)?;
        let corpus = open_corpus(&config, &folder, &logger, newest.is_some(), options.quiet)?;
        let order = StepOrder::new(config.training.global_batch, &skipped(&config))?;
        corpus.dataset.check_epochs(order.samples_of_run(config.training.steps))?;

        let model = Transformer::new(config.model.clone());
        check_optimizer_groups(&config, &model, &logger);
        let step = step_config(&config, &model);
        let plan = plan::train(device.caps, &model, &step, config.training.seq_len)?;
        logger.line(&describe(&config, &plan, &device.description));
        let mut engine = (device.make)(model, step, plan.arena_bytes)?;

        let state = match &newest {
            Some(dir) => continue_run(engine.as_mut(), dir, config.run.seed)?,
            None => begin_run(engine.as_mut(), &config, &logger)?,
        };
        folder.write_run_toml(&options.run_toml)?;
        folder.write_resolved_toml(&config.to_toml())?;
        let from_step = newest.as_ref().map(|_| state.step);
        folder.append_lineage(LineageEntry::now(&job_id, from_step, differences))?;
        let Corpus { dataset, validation, tokenizer, unigram_entropy } = corpus;
        Ok(Run {
            config,
            folder,
            lock,
            logger,
            control,
            stop,
            engine,
            plan,
            dataset: Arc::new(dataset),
            order,
            validation,
            unigram_entropy,
            tokenizer,
            state,
            resumed_from: newest,
            job_id,
            started,
        })
    }
}

/// The checkpoint to go on from; `None` in a folder without any.
///
/// # Errors
/// Input, if there are checkpoints and none is whole: to begin anew would write over what may be saved yet.
fn newest_checkpoint(folder: &RunFolder, logger: &Logger) -> Result<Option<PathBuf>> {
    let newest = checkpoint::latest(&folder.checkpoints())?;
    match (newest.checkpoint, newest.warning) {
        (None, Some(warning)) => Err(Error::input(format!(
            "{}: {warning}; hint: put an undamaged step back, or begin anew with another run.dir",
            folder.checkpoints().display()
        ))),
        (found, warning) => {
            warning.iter().for_each(|warning| logger.warn(warning));
            Ok(found.map(|(_, dir)| dir))
        }
    }
}

fn host_row(control: &dyn ControlPlane, device: &str) -> HostRow {
    HostRow {
        rank: control.rank(),
        local_rank: control.rank(),
        host: run::host::host_name(),
        pid: std::process::id(),
        device: device.to_owned(),
    }
}

/// Steps whose data is passed over.
pub fn skipped(config: &Config) -> Vec<[u64; 2]> {
    config.data.skip.iter().map(|&(first, last)| [first, last]).collect()
}

/// Refuses a run file that changes what the run in this folder trains; returns all differences.
fn check_changes(
    config: &Config,
    folder: &RunFolder,
    options: &TrainOptions,
) -> Result<Vec<run::Difference>> {
    let Some(text) = folder.read_resolved_toml()? else { return Ok(Vec::new()) };
    let path = folder.resolved_toml().display().to_string();
    let before = Config::parse(&text, &path, &[], &|_| None)?;
    let differences = crate::config::diff(&before, config);
    crate::config::refuse_changes(&differences, &options.allow_change)?;
    let entry = |d: crate::config::Difference| run::Difference {
        key: d.key,
        old: serde_json::Value::String(d.old),
        new: serde_json::Value::String(d.new),
    };
    Ok(differences.into_iter().map(entry).collect())
}

/// Builds or opens datasets and tokenizer, and checks that they agree with the model.
fn open_corpus(
    config: &Config,
    folder: &RunFolder,
    logger: &Logger,
    begun: bool,
    quiet: bool,
) -> Result<Corpus> {
    let mut tokenizer_path = config.tokenizer.path.clone();
    let mut sources: Vec<data::Source> = Vec::new();
    if let Some(prepare) = &config.data.prepare {
        let prepare = data::Prepare { text: prepare.text.clone(), vocab_size: prepare.vocab_size };
        let dir = folder.dir().join("data");
        let progress = if quiet { data::Progress::Quiet } else { data::Progress::Stderr };
        // A run that has begun keeps the data that it began with.
        let when_changed =
            if begun { data::prepare::WhenChanged::Keep } else { data::prepare::WhenChanged::Rebuild };
        let prepared = data::prepare(&prepare, &dir, when_changed, progress)?;
        if let data::Outcome::Built(_) = prepared.outcome {
            share_all(folder, &dir)?;
        }
        logger.line(&describe_prepared(&prepared, prepare.vocab_size));
        tokenizer_path = Some(prepared.tokenizer);
        sources.push(data::Source {
            path: prepared.dataset.display().to_string(),
            weight: 1.0,
            max_epochs: None,
        });
    }
    sources.extend(config_sources(config));
    if let Some(path) = &tokenizer_path {
        check_vocabulary(config, path)?;
    }
    let dataset = Dataset::open(&sources, dataset_config(config))?;
    let validation = open_validation(config, &dataset)?;
    let unigram_entropy = match config.data.prepare {
        Some(_) => Some(data::unigram_entropy(&dataset)?),
        None => None,
    };
    Ok(Corpus { dataset, validation, tokenizer: tokenizer_path, unigram_entropy })
}

/// Gives a folder and its files to `run.group`.
fn share_all(folder: &RunFolder, dir: &Path) -> Result<()> {
    let fail = |error: std::io::Error| io_error("read folder", dir, &error);
    folder.access().share(dir)?;
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        folder.access().share(&entry.map_err(fail)?.path())?;
    }
    Ok(())
}

fn config_sources(config: &Config) -> impl Iterator<Item = data::Source> + '_ {
    config.data.sources.iter().map(|source| data::Source {
        path: source.path.display().to_string(),
        weight: source.weight,
        max_epochs: source.max_epochs,
    })
}

/// The sources of a run whose data has been prepared already.
pub fn sources(config: &Config) -> Result<Vec<data::Source>> {
    if config.data.prepare.is_none() {
        return Ok(config_sources(config).collect());
    }
    let prefix = config.run.dir.join("data").join("train");
    if !prefix.with_extension("idx").is_file() {
        return Err(Error::input(format!(
            "{}: the data of this run is not prepared; hint: start it with tisserand train",
            prefix.display()
        )));
    }
    Ok(vec![data::Source { path: prefix.display().to_string(), weight: 1.0, max_epochs: None }])
}

/// How datasets are read.
pub fn dataset_config(config: &Config) -> DatasetConfig {
    DatasetConfig {
        seq_len: config.training.seq_len,
        vocab_size: config.model.vocab_size,
        seed: config.run.seed,
        validation_fraction: config.data.validation_fraction,
    }
}

/// Validation sets of their own, then the held-out documents of each source.
pub fn open_validation(config: &Config, dataset: &Dataset) -> Result<Vec<ValidationData>> {
    let mut sets = Vec::new();
    for set in &config.data.validation {
        let path = set.path.display().to_string();
        sets.push(ValidationSet::open(&set.name, &path, config.training.seq_len, config.model.vocab_size)?);
    }
    sets.extend(dataset.held_out().iter().cloned());
    let shape = batch_shape(config);
    Ok(sets.into_iter().map(|set| ValidationData::new(set, shape, config.eval.max_tokens)).collect())
}

/// Shape of a micro-batch.
pub fn batch_shape(config: &Config) -> BatchShape {
    BatchShape { micro_batch: config.training.micro_batch, document_mask: config.data.document_mask }
}

fn check_vocabulary(config: &Config, path: &Path) -> Result<()> {
    let tokens = Tokenizer::open(path)?.vocab_size();
    let rows = config.model.vocab_size;
    if tokens > rows {
        return Err(Error::input(format!(
            "{}: the tokenizer has {tokens} entries, but model.vocab_size = {rows}; hint: set \
             model.vocab_size = {} or more",
            path.display(),
            tokens.next_multiple_of(128)
        )));
    }
    Ok(())
}

fn check_optimizer_groups(config: &Config, model: &Transformer, logger: &Logger) {
    let names: Vec<&str> =
        model.units.iter().flat_map(|unit| unit.params()).map(|param| param.name.as_str()).collect();
    for pattern in config.optimizer.unmatched_patterns(&names) {
        logger.warn(&format!("optimizer.groups: no parameter matches {pattern:?}"));
    }
}

/// The step of a run on one rank.
pub fn step_config(config: &Config, model: &Transformer) -> StepConfig {
    let mode = match config.recompute.mode {
        RecomputeMode::None => Recompute::None,
        RecomputeMode::Selective => Recompute::Selective,
        RecomputeMode::Full => Recompute::Full,
    };
    let recompute = |block| if block < config.recompute.blocks { mode } else { Recompute::None };
    StepConfig {
        tokens: config.training.micro_batch * config.training.seq_len,
        micro_steps: config.grad_accum(),
        positions: config.training.seq_len,
        dtypes: StateDTypes {
            compute: config.precision.compute,
            master: config.precision.master,
            moments: config.precision.moments,
        },
        recompute: (0..model.blocks.len()).map(recompute).collect(),
        cross_entropy: CrossEntropyParams { z_loss: config.training.z_loss as f32 },
        optimizer: config.optimizer.clone(),
    }
}

/// Start values, or those that `[init] from` names.
fn begin_run(engine: &mut dyn Engine, config: &Config, logger: &Logger) -> Result<TrainerState> {
    let fresh = TrainerState { seed: config.run.seed, ..TrainerState::default() };
    let Some(from) = &config.init.from else {
        engine.initialize(config.run.seed)?;
        set_scalars(engine, &fresh)?;
        return Ok(fresh);
    };
    let resolved = checkpoint::resolve(from)?;
    resolved.warning.iter().for_each(|warning| logger.warn(warning));
    logger.line(&format!("weights from {}", from.display()));
    let needs_optimizer = config.init.load != InitLoad::Weights;
    match resolved.source {
        CheckpointSource::HfFolder(dir) if needs_optimizer => Err(Error::input(format!(
            "init.load = \"{}\" needs a checkpoint, but init.from = {} is a Hugging Face folder without \
             optimizer state; hint: init.load = \"weights\"",
            config.init.load.name(),
            dir.display()
        ))),
        CheckpointSource::HfFolder(dir) => {
            load_weights(engine, &HfFolder::open(&dir)?)?;
            set_scalars(engine, &fresh)?;
            Ok(fresh)
        }
        CheckpointSource::Checkpoint(dir) => {
            let reader = CheckpointReader::open(&dir)?;
            let state = match config.init.load {
                InitLoad::Weights => {
                    load_weights(engine, &reader.weights)?;
                    fresh
                }
                InitLoad::WeightsOptimizer => {
                    load_checkpoint(engine, &reader)?;
                    TrainerState { num_updates: reader.trainer.num_updates, ..fresh }
                }
                InitLoad::All => {
                    check_steps_left(config, from, reader.trainer.step)?;
                    load_checkpoint(engine, &reader)?;
                    TrainerState { seed: config.run.seed, ..reader.trainer }
                }
            };
            set_scalars(engine, &state)?;
            Ok(state)
        }
    }
}

/// `init.load = "all"` goes on after the step of the checkpoint, so there must be a step after it.
fn check_steps_left(config: &Config, from: &Path, step: u64) -> Result<()> {
    let total = config.training.steps;
    if step < total {
        return Ok(());
    }
    Err(Error::input(format!(
        "init.load = \"all\" goes on after step {step} of init.from = {}, but training has {total} steps; hint: \
         more training.steps, or init.load = \"weights+optimizer\"",
        from.display()
    )))
}

/// Everything as it was when the checkpoint was taken.
fn continue_run(engine: &mut dyn Engine, dir: &Path, seed: u64) -> Result<TrainerState> {
    let reader = CheckpointReader::open(dir)?;
    load_checkpoint(engine, &reader)?;
    let state = TrainerState { seed, ..reader.trainer };
    set_scalars(engine, &state)?;
    Ok(state)
}

fn load_weights(engine: &mut dyn Engine, folder: &HfFolder) -> Result<()> {
    for (name, shape) in parameters(engine) {
        let values = folder.tensors.read_shaped(&name, &shape)?;
        engine.write(&name, Part::Master, &values)?;
    }
    Ok(())
}

fn load_checkpoint(engine: &mut dyn Engine, reader: &CheckpointReader) -> Result<()> {
    for (name, shape) in parameters(engine) {
        for (part, prefix) in super::saving::OPTIMIZER_PARTS {
            let values = reader.optimizer.read_shaped(&format!("{prefix}.{name}"), &shape)?;
            engine.write(&name, part, &values)?;
        }
    }
    Ok(())
}

fn parameters(engine: &dyn Engine) -> Vec<(String, Vec<usize>)> {
    let params = engine.model().units.iter().flat_map(|unit| unit.params());
    params.map(|param| (param.name.clone(), param.shape.clone())).collect()
}

/// The state that the device keeps from step to step.
fn set_scalars(engine: &mut dyn Engine, state: &TrainerState) -> Result<()> {
    engine.set_scalars(&StepScalars {
        num_updates: state.num_updates as u32,
        skipped_total: state.skipped_total as u32,
        skipped_in_row: state.skipped_in_row as u32,
        first_skipped_step: (state.step + 1 - state.skipped_in_row) as u32,
        ..StepScalars::default()
    })
}

fn describe(config: &Config, plan: &Plan, device: &str) -> String {
    let training = &config.training;
    format!(
        "{}: {} parameters, {} steps of {} sequences of {} tokens ({} micro-batches of {}), {} on {device}, \
         arena {}",
        config.run.name,
        units::count(plan.num_parameters as u64),
        training.steps,
        training.global_batch,
        training.seq_len,
        config.grad_accum(),
        training.micro_batch,
        config.precision.compute,
        units::bytes(plan.arena_bytes as u64),
    )
}

fn describe_prepared(prepared: &data::Prepared, vocab_size: usize) -> String {
    let place = prepared.dataset.display();
    match prepared.outcome {
        data::Outcome::Built(report) => format!(
            "data: {} documents, {} tokens by a new tokenizer of {vocab_size} entries, in {place}",
            units::count(report.documents),
            units::count(report.tokens),
        ),
        data::Outcome::Reused => format!("data: {place}, as built before"),
        data::Outcome::Kept => {
            format!("data: {place}, as this run began with it; the texts have changed since")
        }
    }
}
