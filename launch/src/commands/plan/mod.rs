//! `tisserand plan`

mod json;
mod text;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use tisserand_collectives::Workspace;
use tisserand_runtime::config::{Config, Ranks};
use tisserand_runtime::model::Transformer;
use tisserand_runtime::plan::estimate::Estimate;
use tisserand_runtime::plan::machine::{CUDA_CAPS, Machine};
use tisserand_runtime::plan::search;
use tisserand_runtime::plan::storage::Storage;
use tisserand_runtime::plan::timeline::Timeline;
use tisserand_runtime::plan::{self, Plan};
use tisserand_runtime::train::setup::{sharding, step_config};
use tisserand_runtime::{Error, Result};

use super::{DONE, load};
use crate::{cli, device, env, output};

/// Candidates that a search prints.
const SHOWN: usize = 10;

/// Everything that is known of a run before it starts.
pub(super) struct Report {
    pub(super) config: Config,
    pub(super) plan: Plan,
    pub(super) storage: Storage,
    /// Only with a profile.
    pub(super) prediction: Option<Prediction>,
}

/// What a profile adds.
pub(super) struct Prediction {
    pub(super) machine: Machine,
    outside_bytes: u64,
    pub(super) estimate: Estimate,
}

impl Prediction {
    pub(super) fn needed_bytes(&self, plan: &Plan) -> u64 {
        plan.arena_bytes as u64 + self.outside_bytes
    }
}

/// Runs one step without data and prints what it took.
pub(super) fn run(arguments: &cli::Plan) -> Result<u8> {
    let machine = machine(arguments)?;
    let ranks = ranks(arguments, machine.as_ref())?;
    if arguments.search {
        let machine =
            machine.ok_or_else(|| Error::input("--search: on which GPUs? hint: --profile h100-sxm"))?;
        return search(arguments, ranks, &machine);
    }
    let report = Report::new(load(&arguments.run_file, ranks)?, machine)?;
    output::piece(&if arguments.json { json::report(&report) } else { text::report(&report) })?;
    Ok(DONE)
}

/// The profile, with nodes of as many GPUs as the command line says.
fn machine(arguments: &cli::Plan) -> Result<Option<Machine>> {
    let Some(profile) = &arguments.profile else { return Ok(None) };
    let mut machine = Machine::load(profile)?;
    machine.node.gpus = arguments.gpus_per_node.unwrap_or(machine.node.gpus);
    Ok(Some(machine))
}

fn ranks(arguments: &cli::Plan, machine: Option<&Machine>) -> Result<Ranks> {
    let Some(nodes) = arguments.nodes else { return Ok(arguments.ranks) };
    match arguments.gpus_per_node.or(machine.map(|machine| machine.node.gpus)) {
        Some(gpus) => Ok(Some(nodes * gpus)),
        None => Err(Error::input(format!("--nodes {nodes}: of how many ranks? hint: --gpus-per-node 4"))),
    }
}

impl Report {
    /// Runs the step without data.
    pub(super) fn new(config: Config, machine: Option<Machine>) -> Result<Report> {
        let model = Transformer::sharded(config.model.clone(), sharding(&config, 0).tp());
        let step = step_config(&config, &model, 0);
        // A profile is one of GPUs, whatever the run file computes on.
        let (caps, workspace) = match machine {
            Some(_) => (CUDA_CAPS, Workspace::Nccl(device::sums(&config))),
            None => device::to_plan(&config),
        };
        let plan = plan::train(caps, &model, &step, config.training.seq_len, workspace)?;
        let storage = Storage::new(&config, &model)?;
        let predict = |machine: Machine| -> Result<Prediction> {
            let timeline = Timeline::record(caps, &model, &step)?;
            let outside_bytes = machine.outside_bytes(&timeline.mesh);
            let estimate = Estimate::new(&machine, &timeline, &plan.model_flops);
            Ok(Prediction { machine, outside_bytes, estimate })
        };
        let prediction = machine.map(predict).transpose()?;
        Ok(Report { config, plan, storage, prediction })
    }
}

fn search(arguments: &cli::Plan, ranks: Ranks, machine: &Machine) -> Result<u8> {
    let run_file = &arguments.run_file;
    let configure = |sets: &[String], ranks: Ranks| {
        let sets = [&run_file.sets[..], sets].concat();
        Config::load(&run_file.path, &sets, ranks, &env::variable)
    };
    let ranks = match ranks {
        Some(ranks) => ranks,
        None => {
            let mesh = configure(&[], None)?.mesh;
            mesh.dp() * mesh.tp
        }
    };
    let bar = Bar { started: Instant::now(), on_terminal: std::io::stderr().is_terminal() };
    let found = search::search(
        &|sets| configure(sets, Some(ranks)),
        ranks,
        machine,
        CUDA_CAPS,
        SHOWN,
        &|done, of| bar.show(done, of),
    );
    bar.clear();
    let found = found?;
    let seconds = bar.started.elapsed().as_secs_f64();
    let found = match arguments.json {
        true => json::found(&found, ranks, machine),
        false => text::found(&found, ranks, machine, seconds),
    };
    output::piece(&found)?;
    Ok(DONE)
}

/// How far a search is, once it takes more than two seconds.
struct Bar {
    started: Instant,
    on_terminal: bool,
}

impl Bar {
    fn is_shown(&self) -> bool {
        self.on_terminal && self.started.elapsed() > Duration::from_secs(2)
    }

    fn show(&self, done: usize, of: usize) {
        if self.is_shown() {
            eprint!("\rsearch: {done} of {of} meshes");
        }
    }

    fn clear(&self) {
        if self.is_shown() {
            eprint!("\r\x1b[K");
        }
    }
}
