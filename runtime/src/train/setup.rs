//! From a run file to everything that the first step needs, on every rank. Rank 0 decides and writes for all.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tisserand_collectives::{Channel, ControlPlane, Mesh, Workspace};
use tisserand_kernels::device::Caps;
use tisserand_kernels::ops::cross_entropy::CrossEntropyParams;

use super::corpus::{self, Corpus};
use super::opening::{self, Opening};
use super::start;
use crate::checkpoint::{self, TrainerState};
use crate::config::{Config, DeviceKind, RecomputeMode};
use crate::data::{self, StepOrder};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::log::{Logger, units};
use crate::model::Transformer;
use crate::model::block::Recompute;
use crate::opener::Opener;
use crate::parallel::Sharding;
use crate::plan::{self, Plan};
use crate::run::{
    BlackBox, GpuRow, HostRow, JobFacts, LineageEntry, ProcessDescription, RunFolder, RunLock, Start,
    StopFlag,
};
use crate::step::{StateDTypes, StepConfig};

/// What the command line says beside the run file.
#[derive(Clone, Debug, Default)]
pub struct TrainOptions {
    /// The run file as the user wrote it, at rank 0, which keeps it in the run folder.
    pub run_toml: String,
    /// Refuse a folder that holds anything.
    pub fresh: bool,
    /// Keys that may differ from those the run began with.
    pub allow_change: Vec<String>,
    /// Nothing on standard output.
    pub quiet: bool,
    /// The job that this start is part of.
    pub job: JobFacts,
    /// How the process was started.
    pub process: ProcessDescription,
    /// Lines for the log of rank 0: how the ranks found each other, and where they are.
    pub notices: Vec<String>,
    /// The same, of what may be a mistake.
    pub warnings: Vec<String>,
    /// Where every rank is, at rank 0.
    pub hosts: Vec<HostRow>,
}

/// Makes the engine of a rank, given model, step and the size of the arena.
pub type MakeEngine = Box<dyn FnOnce(Transformer, StepConfig, usize) -> Result<Box<dyn Engine>>>;

/// The device that `launch` chose for a rank.
pub struct DeviceChoice {
    /// What the plan must know of it.
    pub caps: Caps,
    /// For the log: "cpu, 2 threads".
    pub description: String,
    /// Place among the ranks of its machine.
    pub local_rank: usize,
    /// How the ranks of its machine open what all of them read.
    pub opener: Opener,
    /// The GPU, if it is one.
    pub gpu: Option<GpuRow>,
    /// What its communicators take from the arena.
    pub workspace: Workspace,
    /// Makes the engine.
    pub make: MakeEngine,
    /// Called once this process has done a step: all ranks have then called the same, in the same order.
    pub after_first_step: Box<dyn FnOnce() + Send>,
}

/// A run that is ready for its next step, on one rank.
pub struct Run {
    pub(super) config: Config,
    pub(super) folder: RunFolder,
    /// On rank 0.
    pub(super) lock: Option<RunLock>,
    pub(super) logger: Arc<Logger>,
    pub(super) control: Arc<dyn ControlPlane>,
    pub(super) stop: StopFlag,
    pub(super) engine: Box<dyn Engine>,
    /// See [`DeviceChoice`]; none after the first step.
    pub(super) after_first_step: Option<Box<dyn FnOnce() + Send>>,
    pub(super) plan: Plan,
    pub(super) dataset: Arc<data::Dataset>,
    pub(super) order: StepOrder,
    pub(super) validation: Vec<super::evaluation::ValidationData>,
    /// Of prepared data, on rank 0.
    pub(super) unigram_entropy: Option<f64>,
    pub(super) tokenizer: Option<PathBuf>,
    pub(super) state: TrainerState,
    pub(super) resumed_from: Option<PathBuf>,
    pub(super) job: JobFacts,
    /// Its entry in lineage.json, on rank 0.
    pub(super) start: Start,
    /// Where each rank is. On rank 0; elsewhere empty.
    pub(super) hosts: Vec<HostRow>,
    pub(super) started: Instant,
}

/// Opens the run folder, rank 0 first; `--fresh` refuses one that holds anything.
pub fn open_folder(config: &Config, options: &TrainOptions, control: &dyn ControlPlane) -> Result<RunFolder> {
    let (dir, group) = (&config.run.dir, config.run.group.as_deref());
    if control.rank() > 0 {
        control.barrier(Channel::Step)?;
        return RunFolder::join(dir, group);
    }
    if options.fresh {
        RunFolder::require_empty(dir)?;
    }
    let folder = RunFolder::open(dir, group)?;
    control.barrier(Channel::Step)?;
    Ok(folder)
}

impl Run {
    /// Takes the lock, prepares data, plans, makes the engine and sets its weights.
    pub fn new(
        config: Config,
        options: TrainOptions,
        folder: RunFolder,
        device: DeviceChoice,
        control: Arc<dyn ControlPlane>,
        stop: StopFlag,
        start: Start,
        black_box: &BlackBox,
    ) -> Result<Run> {
        let started = Instant::now();
        let is_lead = control.rank() == 0;
        let lead = if is_lead { Some(Opening::new(&config, &folder, &options)?) } else { None };
        opening::note_place(control.as_ref(), &device, options.job.node.as_deref());
        let own_job = lead.as_ref().map(|lead| lead.job.clone());
        let job_folder = opening::agreed_job(control.as_ref(), &folder, own_job)?;
        black_box.arm(control.as_ref(), &job_folder);
        let (lock, logger, differences) = match lead {
            Some(lead) => (Some(lead.lock), lead.logger, lead.differences),
            None => (None, Logger::silent(), Vec::new()),
        };
        let logger = Arc::new(logger);

        let newest = agreed_checkpoint(&folder, &logger, control.as_ref())?;
        if is_lead {
            // Before what takes long: a start that is ended in the middle of it counts as one.
            let from_step = newest.as_deref().and_then(checkpoint::step_of);
            folder.begin_start(&start, LineageEntry::now(&options.job, from_step, differences))?;
            let progress = if options.quiet { data::Progress::Quiet } else { data::Progress::Stderr };
            corpus::prepare(&config, &folder, &logger, newest.is_some(), progress)?;
        }
        control.barrier(Channel::Step)?;
        let Corpus { dataset, validation, tokenizer } =
            Corpus::open(&config, control.as_ref(), &device.opener)?;
        let order = StepOrder::new(config.training.global_batch, &skipped(&config))?;
        dataset.check_epochs(order.samples_of_run(config.training.steps))?;
        let wants_entropy = is_lead && config.data.prepare.is_some();
        let unigram_entropy = if wants_entropy { Some(data::unigram_entropy(&dataset)?) } else { None };

        let model = Transformer::sharded(config.model.clone(), sharding(&config, control.rank()).tp());
        let step = step_config(&config, &model, control.rank());
        let plan = plan::train(device.caps, &model, &step, config.training.seq_len, device.workspace)?;
        if is_lead {
            check_optimizer_groups(&config, &model, &logger);
            check_vocabulary_rows(&config, &logger);
            logger.line(&describe(&config, &plan, &device.description));
        }
        let mut engine = (device.make)(model, step, plan.arena_bytes)?;
        let state = match &newest {
            Some(dir) => {
                start::resume(engine.as_mut(), dir, config.run.seed, control.as_ref(), &device.opener)?
            }
            None => start::begin(engine.as_mut(), &config, &logger, control.as_ref(), &device.opener)?,
        };
        engine.publish()?;
        if is_lead {
            folder.write_run_toml(&options.run_toml)?;
            folder.write_resolved_toml(&config.to_toml())?;
        }
        Ok(Run {
            config,
            folder,
            lock,
            logger,
            control,
            stop,
            engine,
            after_first_step: Some(device.after_first_step),
            plan,
            dataset: Arc::new(dataset),
            order,
            validation,
            unigram_entropy,
            tokenizer,
            state,
            resumed_from: newest,
            job: options.job,
            start,
            hosts: options.hosts,
            started,
        })
    }
}

/// The checkpoint that all ranks go on from: the newest one that rank 0 sees.
fn agreed_checkpoint(
    folder: &RunFolder,
    logger: &Logger,
    control: &dyn ControlPlane,
) -> Result<Option<PathBuf>> {
    let mine = if control.rank() == 0 { newest_checkpoint(folder, logger)? } else { None };
    broadcast_path(control, mine)
}

/// Rank 0's path, at every rank.
pub(super) fn broadcast_path(control: &dyn ControlPlane, path: Option<PathBuf>) -> Result<Option<PathBuf>> {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let bytes = path.map_or_else(Vec::new, |path| path.into_os_string().into_vec());
    let bytes = control.broadcast(Channel::Step, bytes)?;
    Ok((!bytes.is_empty()).then(|| PathBuf::from(OsString::from_vec(bytes))))
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

/// Steps whose data is passed over.
pub fn skipped(config: &Config) -> Vec<[u64; 2]> {
    config.data.skip.iter().map(|&(first, last)| [first, last]).collect()
}

fn check_optimizer_groups(config: &Config, model: &Transformer, logger: &Logger) {
    let names: Vec<&str> =
        model.units.iter().flat_map(|unit| unit.params()).map(|param| param.name.as_str()).collect();
    for pattern in config.optimizer.unmatched_patterns(&names) {
        logger.warn(&format!("optimizer.groups: no parameter matches {pattern:?}"));
    }
}

/// Rows of the output layer that no 16 bytes begin are moved element by element.
fn check_vocabulary_rows(config: &Config, logger: &Logger) {
    const CHUNK: usize = 8;
    let (vocab_size, tp) = (config.model.vocab_size, config.mesh.tp);
    if config.run.device == DeviceKind::Cuda && !vocab_size.div_ceil(tp).is_multiple_of(CHUNK) {
        logger.warn(&format!(
            "model.vocab_size = {vocab_size} is no multiple of {}: on a GPU two of the output layer's three products \
             are several times slower; hint: {}, whose last rows no token uses",
            CHUNK * tp,
            vocab_size.next_multiple_of(8 * CHUNK * tp)
        ));
    }
}

/// A rank's part of a run's mesh.
pub fn sharding(config: &Config, rank: usize) -> Sharding {
    let mesh = &config.mesh;
    Sharding {
        mesh: Mesh::new(mesh.dp_replicate, mesh.dp_shard, mesh.tp),
        rank,
        zero: mesh.zero,
        mesh_invariant: config.determinism.mesh_invariant,
    }
}

/// The step of a run on one rank.
pub fn step_config(config: &Config, model: &Transformer, rank: usize) -> StepConfig {
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
        reduce: config.precision.reduce,
        recompute: (0..model.blocks.len()).map(recompute).collect(),
        cross_entropy: CrossEntropyParams { z_loss: config.training.z_loss as f32 },
        optimizer: config.optimizer.clone(),
        sharding: sharding(config, rank),
        cuda_graph: config.run.cuda_graph,
    }
}

fn describe(config: &Config, plan: &Plan, device: &str) -> String {
    let training = &config.training;
    format!(
        "{}: {} parameters, {} steps of {} sequences of {} tokens ({} micro-batches of {}), {} on {}{device}, \
         arena {}",
        config.run.name,
        units::count(plan.num_parameters as u64),
        training.steps,
        training.global_batch,
        training.seq_len,
        config.grad_accum(),
        training.micro_batch,
        config.precision.compute,
        describe_mesh(config),
        units::bytes(plan.arena_bytes as u64),
    )
}

/// "4 ranks (dp_shard 4, ZeRO 3), each "; nothing for one rank.
fn describe_mesh(config: &Config) -> String {
    let mesh = &config.mesh;
    let ranks = mesh.dp() * mesh.tp;
    if ranks == 1 {
        return String::new();
    }
    let axes = [("dp_replicate", mesh.dp_replicate), ("dp_shard", mesh.dp_shard), ("tp", mesh.tp)];
    let axes: Vec<String> =
        axes.iter().filter(|(_, size)| *size > 1).map(|(name, size)| format!("{name} {size}")).collect();
    format!("{ranks} ranks ({}, ZeRO {}), each ", axes.join(", "), mesh.zero)
}
