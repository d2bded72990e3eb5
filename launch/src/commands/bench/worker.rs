//! `tisserand bench worker`: one point of a sweep, on each of its ranks. Rank 0 writes what all have measured.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tisserand_collectives::{Audit, Axis, Channel, Collective, ControlPlane};
use tisserand_runtime::config::{Config, DeviceKind};
use tisserand_runtime::files::Access;
use tisserand_runtime::log::clock;
use tisserand_runtime::run::host::host_name;
use tisserand_runtime::train::measure::{MeasuredData, Measurement, StepTime};
use tisserand_runtime::{Error, Result};

use crate::cli::bench::Worker;
use crate::commands::{DONE, FAILED, load_on};
use crate::device::{self, Place};
use crate::env;
use crate::node::Node;
use crate::placement;
use crate::ranks::Ranks;
use crate::scaling::energy::{Energy, Meter, Reading};
use crate::scaling::environment::Program;
use crate::scaling::record::{MeshSizes, PointRecord, RankRow, TrafficRow};
use crate::scaling::statistics::Summary;
use crate::world::{self, World};

/// Measures, on this process's rank or on all of them.
pub(super) fn run(arguments: &Worker) -> Result<u8> {
    world::enter(arguments.ranks, |ranks, world| {
        if arguments.attached && ranks.rank == 0 {
            end_with_input()?;
        }
        on_ranks(arguments, ranks, world)
    })
}

/// A sweep that was killed must not leave its point behind.
fn end_with_input() -> Result<()> {
    let watch = || {
        // Nothing is sent; an error is an end too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        eprintln!("error: the sweep that started this point has ended");
        std::process::exit(FAILED.into());
    };
    std::thread::Builder::new()
        .name("sweep".to_owned())
        .spawn(watch)
        .map(drop)
        .map_err(|error| Error::fault(format!("cannot start the thread that watches the sweep: {error}")))
}

fn on_ranks(arguments: &Worker, ranks: &Ranks, world: World) -> Result<u8> {
    let mut node = Node::of(ranks);
    let (config, _) = load_on(&mut node, &arguments.run_file, world.size(ranks))?;
    world.run(ranks, &mut node, &config, |place, control| {
        if arguments.bandwidth {
            let records = device::bandwidth::all_reduces(&config, place, control.as_ref())?;
            write(arguments, control.as_ref(), &records)
        } else {
            let record = measure(&config, arguments, place, &control)?;
            record.map_or(Ok(()), |record| write(arguments, control.as_ref(), &record))
        }
    })?;
    Ok(DONE)
}

/// At rank 0.
fn write(arguments: &Worker, control: &dyn ControlPlane, value: &impl Serialize) -> Result<()> {
    if control.rank() > 0 {
        return Ok(());
    }
    let text = serde_json::to_vec(value)
        .map_err(|error| Error::fault(format!("cannot encode {}: {error}", arguments.write.display())))?;
    Access::umask().write_atomic(&arguments.write, &text)
}

/// What each rank tells rank 0.
#[derive(Serialize, Deserialize)]
struct Told {
    row: RankRow,
    /// Of the ranks that read it for their node: what the node took, or why that is not known.
    energy: Option<std::result::Result<Energy, String>>,
}

/// The record, at rank 0.
fn measure(
    config: &Config,
    arguments: &Worker,
    place: Place,
    control: &Arc<dyn ControlPlane>,
) -> Result<Option<PointRecord>> {
    let data = if arguments.synthetic { MeasuredData::Synthetic } else { MeasuredData::OfRun };
    let (warmup, count) = (arguments.warmup as u64, arguments.steps as u64);
    let local_rank = place.local_rank;
    let device = device::choose(config, place)?;
    let job = env::job()?;
    let placement =
        placement::settle(control.as_ref(), &device, job.node.as_deref(), config.run.oversubscribe)?;
    if let Some(placement) = placement {
        placement.table.iter().chain(&placement.warning).for_each(|line| eprintln!("{line}"));
        #[cfg(feature = "mpi")]
        eprintln!("{}", tisserand_collectives::mpi::library());
    }
    let description = device.description.clone();
    let mut measurement =
        Measurement::new(config.clone(), device, Arc::clone(control), data, warmup + count)?;
    // Begun before the warm-up: the first sample of a GPU's power takes a second.
    let meter = (local_rank == 0).then(|| Meter::new(config.run.device == DeviceKind::Cuda));
    measurement.steps(warmup)?;
    let (reading, before) = (meter.as_ref().map(Meter::begin), measurement.traffic());
    let steps = measurement.steps(count)?;
    let energy = reading.map(Reading::end);
    let traffic = measurement.traffic();
    let row = rank_row(control.rank(), local_rank, description, &steps)?;
    let told = serde_json::to_vec(&Told { row, energy })
        .map_err(|error| Error::fault(format!("cannot encode a rank's times: {error}")))?;
    let Some(all) = control.gather(Channel::Step, told)? else { return Ok(None) };
    let all: Vec<Told> = all
        .iter()
        .map(|told| serde_json::from_slice(told))
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::fault(format!("a rank's times cannot be read: {error}")))?;
    let mut record = record(config, &measurement, data, warmup, steps)?;
    record.traffic = rows(config, &before, &traffic, count);
    (record.energy, record.energy_missing) = energy_of(&all);
    record.rank_rows = all.into_iter().map(|told| told.row).collect();
    Ok(Some(record))
}

fn rank_row(rank: usize, local_rank: usize, device: String, steps: &[StepTime]) -> Result<RankRow> {
    let of = |part: fn(&StepTime) -> f64| {
        Summary::of(steps.iter().map(part)).ok_or_else(|| Error::fault("no step was timed"))
    };
    let (step_s, compute_s) = (of(|step| step.total_s)?, of(|step| step.compute_s)?);
    let (exposed_s, data_s) = (of(|step| step.exposed_s)?.mean, of(|step| step.data_s)?.mean);
    let mean = StepTime { total_s: step_s.mean, compute_s: compute_s.mean, exposed_s, data_s };
    Ok(RankRow { rank, local_rank, host: host_name(), device, step_s, compute_s, mean })
}

/// What does not depend on other ranks.
fn record(
    config: &Config,
    measurement: &Measurement,
    data: MeasuredData,
    warmup_steps: u64,
    steps: Vec<StepTime>,
) -> Result<PointRecord> {
    let (mesh, plan) = (&config.mesh, &measurement.plan);
    Ok(PointRecord {
        time: clock::rfc3339(SystemTime::now()),
        program: Program::this().named(),
        ranks: mesh.dp() * mesh.tp,
        mesh: MeshSizes {
            dp_replicate: mesh.dp_replicate,
            dp_shard: mesh.dp_shard,
            tp: mesh.tp,
            zero: mesh.zero,
        },
        global_batch: config.training.global_batch,
        micro_batch: config.training.micro_batch,
        grad_accum: config.grad_accum(),
        tokens_per_step: config.tokens_per_step(),
        compute_dtype: config.precision.compute.to_string(),
        data,
        parameters: plan.num_parameters,
        flops_per_token_full: plan.model_flops.full,
        flops_per_token_causal: plan.model_flops.causal,
        executed_flops_per_step: plan.step_flops(),
        arena_bytes: plan.arena_bytes,
        warmup_steps,
        steps,
        rank_rows: Vec::new(),
        traffic: Vec::new(),
        loss: measurement.loss()?,
        energy: None,
        energy_missing: None,
    })
}

/// Kinds of collectives that were called along axes of several ranks.
fn rows(config: &Config, before: &[Audit; 3], after: &[Audit; 3], steps: u64) -> Vec<TrafficRow> {
    let sizes = [config.mesh.dp_replicate, config.mesh.dp_shard, config.mesh.tp];
    let mut rows = Vec::new();
    for ((axis, ranks), (before, after)) in Axis::ALL.into_iter().zip(sizes).zip(before.iter().zip(after)) {
        let audit = after.since(before);
        for kind in Collective::ALL.into_iter().filter(|kind| ranks > 1 && audit.of(*kind).calls > 0) {
            let traffic = audit.of(kind);
            let payload = traffic.payload_bytes as f64 / steps as f64;
            rows.push(TrafficRow {
                axis: axis.name().to_owned(),
                kind: kind.name().to_owned(),
                calls_per_step: traffic.calls as f64 / steps as f64,
                payload_bytes_per_step: payload,
                sent_bytes_per_step: payload * kind.sent_per_payload(ranks),
            });
        }
    }
    rows
}

/// All nodes together, or why one of them does not know.
fn energy_of(all: &[Told]) -> (Option<Energy>, Option<String>) {
    let mut sum: Option<Energy> = None;
    for told in all {
        match &told.energy {
            None => {}
            Some(Err(why)) => return (None, Some(format!("{}: {why}", told.row.host))),
            Some(Ok(energy)) => {
                sum = Some(match sum {
                    None => energy.clone(),
                    Some(sum) => sum.and(energy.clone()),
                });
            }
        }
    }
    (sum, None)
}
