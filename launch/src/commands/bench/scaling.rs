//! `tisserand bench scaling`: what it was asked for becomes a sweep, or one line that says what is wrong, before
//! anything runs.

use std::path::Path;

use tisserand_runtime::config::{Config, DeviceKind};
use tisserand_runtime::files::io_error;
use tisserand_runtime::plan::machine::Machine;
use tisserand_runtime::train::measure::MeasuredData;
use tisserand_runtime::{Error, Result};

use super::sweeping::Sweeping;
use crate::cli::bench::{Launcher, Scaling};
use crate::commands::{DONE, FAILED};
use crate::ranks::Ranks;
use crate::scaling::predict::Prediction;
use crate::scaling::store::Store;
use crate::scaling::sweep::{self, Kind, Sweep};
use crate::scaling::{csv, html, tex, text};
use crate::{env, output};

/// Measures every point that is not there yet, and reports all of them.
pub(super) fn run(arguments: &Scaling) -> Result<u8> {
    let machine = arguments.profile.as_deref().map(Machine::load).transpose()?;
    check_place(arguments)?;
    let (sweep, configs) = sweep(arguments, machine.as_ref())?;
    let machine = machine.map(|machine| on_nodes(machine, &sweep));
    let first = &configs[0];
    let store = Store::open(&arguments.out, &sweep, arguments.resume, first.run.group.as_deref())?;
    let predictions: Vec<Option<Prediction>> = configs
        .iter()
        .map(|config| machine.as_ref().map(|machine| Prediction::new(machine, config)).transpose())
        .collect::<Result<_>>()?;
    let report =
        Sweeping { sweep: &sweep, store: &store, configs: &configs }.run(machine.as_ref(), &predictions)?;
    store.write(&store.result("json"), &report)?;
    store.write_text(&store.result("csv"), &csv::report(&report))?;
    store.write_text(&store.result("tex"), &tex::report(&report))?;
    store.write_text(&store.result("html"), &html::report(&report))?;
    if arguments.json {
        let json = serde_json::to_string(&report)
            .map_err(|error| Error::fault(format!("cannot print the report: {error}")))?;
        output::line(&json)?;
    } else {
        output::piece(&text::report(&report))?;
    }
    eprintln!("results: {}", store.result("html").display());
    Ok(if report.failures.is_empty() { DONE } else { FAILED })
}

/// The driver is one process, and an allocation has the nodes that are asked for.
fn check_place(arguments: &Scaling) -> Result<()> {
    let ranks = Ranks::discover(&env::variable).map_err(|error| Error::input(error.to_string()))?;
    if ranks.world_size > 1 {
        return Err(Error::input(format!(
            "bench scaling starts the ranks itself, but this process is {}; hint: start it once, from the batch script",
            ranks.describe()
        )));
    }
    let Some(most) = arguments.nodes.iter().max() else { return Ok(()) };
    let allocated = env::variable("SLURM_JOB_NUM_NODES").or_else(|| env::variable("SLURM_NNODES"));
    let Some(allocated) = allocated else {
        return Err(Error::input(format!(
            "--nodes {most}: this is no Slurm allocation; hint: sbatch launch/scaling.sbatch or salloc, or --ranks \
             for this machine alone"
        )));
    };
    if allocated.parse::<usize>().is_ok_and(|allocated| *most > allocated) {
        return Err(Error::input(format!("--nodes {most}: this Slurm allocation has {allocated} nodes")));
    }
    Ok(())
}

/// The sweep, and the run of each point.
fn sweep(arguments: &Scaling, machine: Option<&Machine>) -> Result<(Sweep, Vec<Config>)> {
    let of_nodes = !arguments.nodes.is_empty();
    let unit = if of_nodes { "nodes" } else { "ranks" };
    let counts = sweep::ascending(if of_nodes { arguments.nodes.clone() } else { arguments.ranks.clone() });
    let kind = if arguments.weak { Kind::Weak } else { Kind::Strong };
    let run_file = &arguments.run_file;
    let text = std::fs::read_to_string(&run_file.path)
        .map_err(|error| io_error("read the run file", &run_file.path, &error))?;
    let mut sweep = Sweep {
        kind,
        unit: unit.to_owned(),
        ranks_per_unit: if of_nodes { ranks_per_node(arguments, machine)? } else { 1 },
        warmup: arguments.warmup,
        steps: arguments.steps,
        repeats: arguments.repeats,
        data: if arguments.synthetic { MeasuredData::Synthetic } else { MeasuredData::OfRun },
        launcher: launcher(arguments)?.to_owned(),
        launcher_args: arguments.launcher_arg.clone(),
        point_minutes: arguments.point_minutes,
        run_file: text,
        run_file_path: run_file.path.display().to_string(),
        sets: run_file.sets.clone(),
        global_batches: Vec::new(),
        counts,
    };
    check_processes(&sweep)?;
    let smallest = configure(&sweep, &run_file.path, sweep.counts[0])?;
    sweep.global_batches = sweep::global_batches(kind, unit, smallest.training.global_batch, &sweep.counts)?;
    let configs = sweep.counts.iter().map(|&count| configure(&sweep, &run_file.path, count));
    let configs: Vec<Config> = configs.collect::<Result<_>>()?;
    Ok((sweep, configs))
}

/// Every point runs this program: what it cannot do none of them can.
fn check_processes(sweep: &Sweep) -> Result<()> {
    let ranks = sweep.ranks(sweep.largest());
    if cfg!(feature = "processes") || sweep.launcher == "threads" || ranks == 1 {
        return Ok(());
    }
    Err(Error::input(format!(
        "--{} {}: {ranks} ranks started by {} are processes, and this program was built without MPI and NCCL; hint: \
         cargo build --release --features mpi (nccl for GPUs), or --ranks for threads of this machine",
        sweep.unit,
        sweep.largest(),
        sweep.launcher,
    )))
}

fn configure(sweep: &Sweep, path: &Path, count: usize) -> Result<Config> {
    let config = Config::load(path, &sweep.sets_of(count), Some(sweep.ranks(count)), &env::variable);
    sweep::of_point(sweep, count, config)
}

fn ranks_per_node(arguments: &Scaling, machine: Option<&Machine>) -> Result<usize> {
    let of_slurm = || env::variable("SLURM_NTASKS_PER_NODE").and_then(|tasks| tasks.parse().ok());
    let of_profile = || machine.map(|machine| machine.node.gpus);
    arguments.ranks_per_node.or_else(of_slurm).or_else(of_profile).ok_or_else(|| {
        Error::input(
            "--nodes: how many ranks has a node? hint: --ranks-per-node 4, or sbatch --ntasks-per-node=4",
        )
    })
}

fn launcher(arguments: &Scaling) -> Result<&'static str> {
    let of_nodes = !arguments.nodes.is_empty();
    let launcher = match (arguments.launcher, of_nodes) {
        (None | Some(Launcher::Srun), true) => "srun",
        (None | Some(Launcher::Threads), false) => "threads",
        (Some(Launcher::Mpirun), false) => "mpirun",
        (Some(_), true) => {
            return Err(Error::input(
                "--nodes: ranks on several nodes are started by srun; hint: --launcher srun",
            ));
        }
        (Some(Launcher::Srun), false) => {
            return Err(Error::input(
                "--launcher srun: it starts ranks by node; hint: --nodes instead of --ranks",
            ));
        }
    };
    if launcher == "threads" && !arguments.launcher_arg.is_empty() {
        return Err(Error::input(format!(
            "--launcher-arg={}: ranks that are threads have no launcher; hint: --launcher mpirun",
            arguments.launcher_arg[0]
        )));
    }
    Ok(launcher)
}

/// The profile with nodes as they are here.
fn on_nodes(mut machine: Machine, sweep: &Sweep) -> Machine {
    if sweep.unit == "nodes" {
        machine.node.gpus = sweep.ranks_per_unit;
    }
    machine
}

/// What a reader should know before using a figure.
pub(super) fn notes(sweep: &Sweep, config: &Config, machine: Option<&Machine>) -> Vec<String> {
    let mut notes = Vec::new();
    if cfg!(debug_assertions) {
        notes.push(
            "measured with a development build; release builds are what runs use, and faster".to_owned(),
        );
    }
    if let Some(machine) = machine.filter(|_| config.run.device == DeviceKind::Cpu) {
        notes.push(format!(
            "run.device = \"cpu\", but the profile {} describes \"{}\": MFU and predictions are only as good as that \
             profile describes these CPUs",
            machine.name, machine.gpu.name
        ));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let here = if sweep.unit == "nodes" { sweep.ranks_per_unit } else { sweep.largest() };
    if config.run.device == DeviceKind::Cpu && here > cores {
        notes.push(format!(
            "{here} ranks share {cores} processors of this machine: they slow each other down"
        ));
    }
    notes
}
