//! 200 steps by the trainer itself: whether the loss falls as it must, whether every step moves the bytes that it should,
//! and how long it waits for them.

use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use serde_json::json;
use tisserand_collectives::{Axis, Channel, Collective, ControlPlane};
use tisserand_kernels::Device;
use tisserand_runtime::config::Config;
use tisserand_runtime::files::io_error;
use tisserand_runtime::log::{Record, StepRecord};
use tisserand_runtime::plan::formulas;
use tisserand_runtime::run::StopFlag;
use tisserand_runtime::train::{self, DeviceChoice, TrainOptions};
use tisserand_runtime::{Error, Result};

use super::audited::{Audited, Observed, Seen};
use super::record::Stage;
use crate::device::Reached;
use crate::{env, placement};

/// Steps of the training.
pub(super) const STEPS: u64 = 200;

/// The mean of the last steps' losses must be below this, in nats per token. The first is ln 320 = 5.8. What cannot be
/// known of the text is which of four words comes, three times a sentence of about ten tokens: 0.4.
const LOSS_BELOW: f64 = 1.0;

/// Steps whose losses are averaged, and steps at the start that are not counted for times.
const AVERAGED: usize = 20;

/// Trains; the stages are rank 0's.
pub(super) fn run<D: Device>(
    reached: Reached<D>,
    control: &Arc<dyn ControlPlane>,
    config: &Config,
) -> Result<Vec<Stage>> {
    let begun = Instant::now();
    let seen = Observed::default();
    let choice = audited(reached.into_choice(), &seen);
    let job = env::job()?;
    // Ranks that share cores or a GPU prove as much, only later.
    let placement = placement::settle(control.as_ref(), &choice, job.node.as_deref(), true)?;
    let hosts = placement.map(|placement| placement.hosts).unwrap_or_default();
    let options =
        TrainOptions { quiet: true, job, process: env::process(), hosts, ..TrainOptions::default() };
    train::train(config.clone(), options, choice, Arc::clone(control), StopFlag::new())?;
    let seconds = begun.elapsed().as_secs_f64();
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let difference = seen.difference.as_ref().map(|what| format!("rank {}: {what}", control.rank()));
    let Some(all) = control.gather(Channel::Step, difference.unwrap_or_default().into_bytes())? else {
        return Ok(Vec::new());
    };
    let difference = all.into_iter().find(|text| !text.is_empty());
    let difference = difference.map(|text| String::from_utf8_lossy(&text).into_owned());
    let steps = steps(&config.run.dir.join("metrics.jsonl"))?;
    Ok(vec![losses(&steps, seconds)?, bytes(&seen, difference), overlap(&steps)])
}

/// The same device, whose engine is watched.
fn audited(choice: DeviceChoice, seen: &Observed) -> DeviceChoice {
    let DeviceChoice { caps, make, .. } = choice;
    let seen = Arc::clone(seen);
    let make = Box::new(move |model, step, arena_bytes| {
        let due = formulas::traffic(&model, &step, caps);
        let engine = make(model, step, arena_bytes)?;
        Ok(Box::new(Audited::new(engine, due, seen)) as Box<_>)
    });
    DeviceChoice { make, ..choice }
}

fn steps(metrics: &Path) -> Result<Vec<StepRecord>> {
    let text = fs::read_to_string(metrics).map_err(|error| io_error("read", metrics, &error))?;
    let records = text.lines().filter_map(|line| match serde_json::from_str(line) {
        Ok(Record::Step(step)) => Some(*step),
        _ => None,
    });
    Ok(records.collect())
}

fn losses(steps: &[StepRecord], seconds: f64) -> Result<Stage> {
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else {
        return Err(Error::fault("the training has written no step into metrics.jsonl"));
    };
    let tail = &steps[steps.len().saturating_sub(AVERAGED)..];
    let loss = tail.iter().map(|step| f64::from(step.loss)).sum::<f64>() / tail.len() as f64;
    let passed = loss < LOSS_BELOW && last.step == STEPS && last.skipped == 0;
    Ok(Stage {
        name: "training",
        passed,
        seconds,
        message: format!(
            "{} steps, loss {:.2} to {loss:.2} (must be below {LOSS_BELOW:.2}), {:.0} tokens/s",
            last.step, first.loss, last.tokens_per_s
        ),
        figures: json!({
            "steps": last.step,
            "first_loss": first.loss,
            "last_loss": loss,
            "loss_below": LOSS_BELOW,
            "skipped": last.skipped,
            "losses": steps.iter().map(|step| step.loss).collect::<Vec<_>>(),
            "step_s": mean(steps, |step| Some(step.step_s)),
            "tokens_per_s": mean(steps, |step| Some(step.tokens_per_s)),
            "memory_used_bytes": last.memory_used_bytes,
            "memory_planned_bytes": last.memory_planned_bytes,
        }),
    })
}

fn bytes(seen: &Seen, difference: Option<String>) -> Stage {
    let along = |axis: Axis| {
        let audit = &seen.last[axis as usize];
        let kinds = Collective::ALL.into_iter().filter(|kind| audit.of(*kind).calls > 0).map(|kind| {
            let traffic = audit.of(kind);
            (
                kind.name().to_owned(),
                json!({ "calls": traffic.calls, "payload_bytes": traffic.payload_bytes }),
            )
        });
        (axis.name().to_owned(), kinds.collect::<serde_json::Map<_, _>>().into())
    };
    let moved: u64 =
        seen.last.iter().flat_map(|a| Collective::ALL.map(|kind| a.of(kind).payload_bytes)).sum();
    let passed = difference.is_none() && seen.steps == STEPS;
    Stage {
        name: "byte audit",
        passed,
        seconds: 0.0,
        message: difference.unwrap_or_else(|| {
            format!(
                "{} steps of {moved} bytes each, as the formulas of docs/communication.md have it",
                seen.steps
            )
        }),
        figures: json!({
            "steps": seen.steps,
            "step": Axis::ALL.map(along).into_iter().collect::<serde_json::Map<_, _>>(),
        }),
    }
}

/// What a machine hides of so small a model is told, and judged by nobody.
fn overlap(steps: &[StepRecord]) -> Stage {
    let exposed = mean(steps, |step| step.exposed_communication);
    Stage {
        name: "overlap",
        passed: exposed.is_none_or(f64::is_finite),
        seconds: 0.0,
        message: match exposed {
            Some(share) => format!("{:.0} % of a step waits for communication", 100.0 * share),
            None => "one rank: nothing is communicated".to_owned(),
        },
        figures: json!({ "exposed_communication": exposed }),
    }
}

/// Over the steps behind the first ones.
fn mean(steps: &[StepRecord], of: impl Fn(&StepRecord) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = steps.iter().skip(AVERAGED).filter_map(of).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
