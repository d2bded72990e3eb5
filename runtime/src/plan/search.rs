//! Which mesh, ZeRO stage, micro-batch and recomputation fit a machine and take the shortest time.
//!
//! Candidates are sets of `--set` overrides: the run file itself says which are admissible, so the search knows
//! no rule of its own. Every candidate that is ranked was executed on a dry run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tisserand_collectives::Workspace;
use tisserand_kernels::device::Caps;

use super::estimate::Estimate;
use super::machine::Machine;
use super::timeline::Timeline;
use super::{ModelFlops, Plan};
use crate::config::{Config, Mesh, RecomputeMode};
use crate::error::{Error, Result};
use crate::model::Transformer;
use crate::train::setup::{sharding, step_config};

/// Micro-batches above this many sequences are not tried.
const LARGEST_MICRO_BATCH: usize = 32;

/// A run file with overrides.
pub type Configure<'a> = &'a (dyn Fn(&[String]) -> Result<Config> + Sync);

/// A way to run that fits.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The overrides that make it.
    pub sets: Vec<String>,
    /// Sizes of the axes, and ZeRO stage.
    pub mesh: Mesh,
    /// Sequences per forward.
    pub micro_batch: usize,
    /// Micro-batches of a step.
    pub grad_accum: usize,
    /// What is computed again.
    pub recompute: RecomputeMode,
    /// Arena and allowance outside of it.
    pub needed_bytes: u64,
    /// The prediction.
    pub estimate: Estimate,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The best, fastest first.
    pub best: Vec<Candidate>,
    /// Steps that were executed on a dry run.
    pub executed: usize,
    /// Ways that fit.
    pub fitting: usize,
    /// Meshes that the run file refuses, say because its batch does not divide.
    pub refused: usize,
}

/// One mesh and ZeRO stage, all of whose micro-batches are tried in turn.
struct Trial {
    dp_replicate: usize,
    dp_shard: usize,
    tp: usize,
    zero: u8,
}

/// Tries everything for `ranks` ranks. `progress` is told (done, of) after every mesh.
///
/// # Errors
/// Input, if the run file refuses every mesh, or nothing fits.
pub fn search(
    configure: Configure<'_>,
    ranks: usize,
    machine: &Machine,
    caps: Caps,
    keep: usize,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Found> {
    let trials = trials(ranks, machine.node.gpus);
    let worker = Worker { configure, machine, caps, executed: AtomicUsize::new(0) };
    let (next, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results = Mutex::new((Vec::new(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(trials.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(trial) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = worker.candidates(trial);
                    let mut results = results.lock().expect("no thread panics with it");
                    match result {
                        Ok(candidates) => results.0.extend(candidates),
                        Err(error) => results.1.push(error),
                    }
                    progress(ended.fetch_add(1, Ordering::Relaxed) + 1, trials.len());
                }
            });
        }
    });
    let (mut candidates, refusals) = results.into_inner().expect("no thread panics with it");
    if refusals.len() == trials.len() {
        return Err(refusals.into_iter().next().unwrap_or_else(|| Error::fault("no mesh to try")));
    }
    if candidates.is_empty() {
        return Err(Error::input(format!(
            "nothing fits {} of {} with {ranks} ranks; hint: more ranks, or a smaller model",
            crate::log::units::bytes(machine.gpu.memory_bytes),
            machine.gpu.name
        )));
    }
    candidates.sort_by(|a: &Candidate, b: &Candidate| a.estimate.step_s.total_cmp(&b.estimate.step_s));
    let (fitting, executed) = (candidates.len(), worker.executed.load(Ordering::Relaxed));
    Ok(Found { best: worker.exact(candidates, keep)?, executed, fitting, refused: refusals.len() })
}

fn trials(ranks: usize, node: usize) -> Vec<Trial> {
    let divisors = |n: usize| (1..=n).filter(move |d| n.is_multiple_of(*d));
    let mut trials = Vec::new();
    for tp in divisors(ranks).take_while(|tp| *tp <= node) {
        for dp_shard in divisors(ranks / tp) {
            // A shard of one is the whole, whatever the stage; and stage 0 shards nothing.
            let stages = if dp_shard == 1 { 0..=0 } else { 1..=3 };
            let dp_replicate = ranks / tp / dp_shard;
            trials.extend(stages.map(|zero| Trial { dp_replicate, dp_shard, tp, zero }));
        }
    }
    trials
}

struct Worker<'a> {
    configure: Configure<'a>,
    machine: &'a Machine,
    caps: Caps,
    executed: AtomicUsize,
}

impl Worker<'_> {
    /// For every micro-batch the least recomputation that fits: more of it takes longer and saves nothing
    /// that is needed. Where a micro-batch does not fit, a larger one does not.
    fn candidates(&self, trial: &Trial) -> Result<Vec<Candidate>> {
        let smallest = (self.configure)(&trial.sets(1, RecomputeMode::Full))?;
        let model = Transformer::sharded(smallest.model.clone(), sharding(&smallest, 0).tp());
        if least_bytes(&smallest, &model) > self.machine.gpu.memory_bytes as f64 {
            return Ok(Vec::new());
        }
        let sequences = smallest.grad_accum();
        let sizes = (1..=LARGEST_MICRO_BATCH.min(sequences)).filter(|size| sequences.is_multiple_of(*size));
        let mut found = Vec::new();
        for micro_batch in sizes {
            let before = found.len();
            for mode in [RecomputeMode::None, RecomputeMode::Selective, RecomputeMode::Full] {
                let sets = trial.sets(micro_batch, mode);
                let Ok(config) = (self.configure)(&sets) else { continue };
                if let Some(candidate) = self.candidate(sets, &config, &model)? {
                    found.push(candidate);
                    break;
                }
            }
            if found.len() == before {
                break;
            }
        }
        Ok(found)
    }

    fn candidate(
        &self,
        sets: Vec<String>,
        config: &Config,
        model: &Transformer,
    ) -> Result<Option<Candidate>> {
        self.executed.fetch_add(1, Ordering::Relaxed);
        let timeline = Timeline::record(self.caps, model, &step_config(config, model, 0))?;
        if timeline.arena_bytes as u64 > self.machine.arena_capacity_bytes(&timeline.mesh) {
            return Ok(None);
        }
        let flops = ModelFlops::new(model, config.training.seq_len);
        Ok(Some(Candidate {
            sets,
            mesh: config.mesh,
            micro_batch: config.training.micro_batch,
            grad_accum: config.grad_accum(),
            recompute: config.recompute.mode,
            needed_bytes: timeline.arena_bytes as u64 + self.machine.outside_bytes(&timeline.mesh),
            estimate: Estimate::new(self.machine, &timeline, &flops),
        }))
    }

    /// The first `keep` with their exact arenas: the timeline has few micro-batches and no evaluation.
    fn exact(&self, candidates: Vec<Candidate>, keep: usize) -> Result<Vec<Candidate>> {
        let mut best = Vec::new();
        for mut candidate in candidates {
            if best.len() == keep {
                break;
            }
            let config = (self.configure)(&candidate.sets)?;
            let model = Transformer::sharded(config.model.clone(), sharding(&config, 0).tp());
            let step = step_config(&config, &model, 0);
            let Plan { arena_bytes, .. } =
                super::train(self.caps, &model, &step, config.training.seq_len, Workspace::None)?;
            candidate.needed_bytes = arena_bytes as u64 + self.machine.outside_bytes(&step.sharding.mesh);
            if candidate.needed_bytes <= self.machine.gpu.memory_bytes {
                best.push(candidate);
            }
        }
        Ok(best)
    }
}

impl Trial {
    fn sets(&self, micro_batch: usize, mode: RecomputeMode) -> Vec<String> {
        let Trial { dp_replicate, dp_shard, tp, zero } = self;
        vec![
            format!("mesh.dp_replicate={dp_replicate}"),
            format!("mesh.dp_shard={dp_shard}"),
            format!("mesh.tp={tp}"),
            format!("mesh.zero={zero}"),
            format!("training.micro_batch={micro_batch}"),
            format!("recompute.mode=\"{}\"", mode.name()),
            "recompute.blocks=\"all\"".to_owned(),
        ]
    }
}

/// Bytes of parameters, gradients and optimizer state that a rank has at least: matrices cut by `tp`, and what
/// the ZeRO stage shards cut by `dp_shard`.
fn least_bytes(config: &Config, model: &Transformer) -> f64 {
    let (mesh, precision) = (&config.mesh, &config.precision);
    let parameters = model.num_parameters() as f64 / mesh.tp as f64;
    let part = |stage: u8| if mesh.zero >= stage { mesh.dp_shard as f64 } else { 1.0 };
    let weights = precision.compute.size_bytes() as f64 / part(3);
    let gradients = 4.0 / part(2);
    let state = (precision.master.size_bytes() + 2 * precision.moments.size_bytes()) as f64 / part(1);
    parameters * (weights + gradients + state)
}
