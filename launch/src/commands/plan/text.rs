//! A plan for people.

use tisserand_collectives::{Axis, Collective};
use tisserand_runtime::log::units;
use tisserand_runtime::plan::machine::Machine;
use tisserand_runtime::plan::search::Found;
use tisserand_runtime::plan::storage::Files;

use super::{Prediction, Report};

/// Everything, section by section.
pub(super) fn report(report: &Report) -> String {
    let mut text = head(report);
    text += &memory(report);
    text += &ops(report);
    text += &traffic(report);
    text += &storage(report);
    if let Some(prediction) = &report.prediction {
        text += &times(report, prediction);
    }
    text
}

fn head(report: &Report) -> String {
    let Report { config, plan, .. } = report;
    let mesh = &config.mesh;
    let ranks = mesh.dp() * mesh.tp;
    let flops = plan.model_flops;
    format!(
        "{}: {} parameters, {} steps of {} tokens, {} micro-batch{} of {} sequence{} per step\n\
         {ranks} rank{}: dp_replicate {}, dp_shard {}, tp {}, ZeRO {}, recompute {}\n\
         model FLOPs per token: {:.4e} (6N + 12Lhs, attention whole), {:.4e} (6N + 6Lhs, causal)\n",
        config.run.name,
        plan.num_parameters,
        config.training.steps,
        config.tokens_per_step(),
        config.grad_accum(),
        if config.grad_accum() == 1 { "" } else { "es" },
        config.training.micro_batch,
        plural(config.training.micro_batch),
        plural(ranks),
        mesh.dp_replicate,
        mesh.dp_shard,
        mesh.tp,
        mesh.zero,
        config.recompute.mode.name(),
        flops.full,
        flops.causal,
    )
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn row(name: &str, bytes: u64) -> String {
    format!("  {name:<24} {:>12}  {bytes}\n", units::bytes(bytes))
}

fn memory(report: &Report) -> String {
    let Report { plan, storage, .. } = report;
    let mut text = "\narena of each rank, at its peak\n".to_owned();
    for (class, bytes) in plan.classes() {
        text += &row(class.name(), bytes as u64);
    }
    text += &row("gaps", plan.gaps_bytes() as u64);
    text += &row("total", plan.arena_bytes as u64);
    text += &format!("  at its peak in: {}\n", plan.peak_at);
    if let Some(prediction) = &report.prediction {
        let Prediction { machine, outside_bytes, .. } = prediction;
        let (needed, capacity) = (prediction.needed_bytes(plan), machine.gpu.memory_bytes);
        text += &row("outside of the arena", *outside_bytes);
        text += &row("needed", needed);
        let verdict = match needed <= capacity {
            true => format!("fits: {} free", units::bytes(capacity - needed)),
            false => format!("does not fit: {} too much; hint: --search", units::bytes(needed - capacity)),
        };
        text += &row(&machine.gpu.name, capacity);
        text += &format!("  {verdict}\n");
    }
    text += "\nhost memory of each rank (pinned where the device is a GPU)\n";
    text += &row("snapshot being saved", storage.snapshot_bytes);
    text += &row("batches read ahead", storage.batches_bytes);
    text
}

fn ops(report: &Report) -> String {
    let plan = &report.plan;
    let row = |name: &str, calls: u64, flops: u64, bytes: u64| {
        let gflop = flops as f64 / 1e9;
        format!("  {name:<32} {calls:>9} {gflop:>14.3} {:>12}\n", units::bytes(bytes))
    };
    let mut text =
        format!("\n{:<34} {:>9} {:>14} {:>12}\n", "one step, by op", "calls", "GFLOP", "least bytes");
    for total in &plan.step {
        text += &row(total.cost.op, total.calls, total.cost.flops, total.cost.bytes);
    }
    let calls = plan.step.iter().map(|total| total.calls).sum();
    text + &row("total", calls, plan.step_flops(), plan.step_bytes())
}

fn traffic(report: &Report) -> String {
    let mut text = String::new();
    for ((axis, audit), ranks) in Axis::ALL.into_iter().zip(&report.plan.traffic).zip(sizes(report)) {
        for kind in Collective::ALL {
            let traffic = audit.of(kind);
            if traffic.calls == 0 || ranks == 1 {
                continue;
            }
            let sent = (traffic.payload_bytes as f64 * kind.sent_per_payload(ranks)) as u64;
            text += &format!(
                "  {:<14} {:<17} {:>9} {:>14} {:>12}\n",
                axis.name(),
                kind.name(),
                traffic.calls,
                units::bytes(traffic.payload_bytes),
                units::bytes(sent)
            );
        }
    }
    if text.is_empty() {
        return text;
    }
    let head = "communication of each rank, one step";
    format!("\n{head:<36} {:>7} {:>14} {:>12}\n{text}", "calls", "payload", "sent (ring)")
}

fn sizes(report: &Report) -> [usize; 3] {
    let mesh = &report.config.mesh;
    [mesh.dp_replicate, mesh.dp_shard, mesh.tp]
}

fn storage(report: &Report) -> String {
    let storage = &report.storage;
    let row = |name: &str, files: Files| {
        format!("  {name:<24} {:>12}  {} files\n", units::bytes(files.bytes), files.files)
    };
    let policy = &report.config.checkpoint;
    let cadence = match (storage.written, policy.every_minutes) {
        (Some(written), _) => format!("{written} in the whole run"),
        (None, Some(minutes)) => match &report.prediction {
            Some(prediction) => {
                let steps = 60.0 * minutes / prediction.estimate.step_s;
                format!("every {minutes} minutes, about {} steps", units::count(steps.max(1.0) as u64))
            }
            None => format!("every {minutes} minutes"),
        },
        (None, None) => "one, at the end of a job".to_owned(),
    };
    let mut text = format!("\ncheckpoints: {cadence}\n");
    text += &row("each", storage.checkpoint);
    if storage.kept_weights > 0 {
        text += &row("weights alone, each", storage.weights);
    }
    text += &row("kept at the end", storage.at_end);
    text += &format!(
        "  {} complete, {} of weights alone; one complete more while one is written\n",
        storage.kept, storage.kept_weights
    );
    text
}

fn times(report: &Report, prediction: &Prediction) -> String {
    let Prediction { machine, estimate, .. } = prediction;
    let mut text =
        format!("\npredicted for {}: {}, {} to a node\n", machine.name, machine.gpu.name, machine.node.gpus);
    let share = |name: &str, seconds: f64| {
        format!("  {name:<24} {:>12} {:>6.1} %\n", units::period(seconds), 100.0 * seconds / estimate.step_s)
    };
    text += &share("a step", estimate.step_s);
    text += &share("bound by arithmetic", estimate.compute_s);
    text += &share("bound by memory", estimate.memory_s);
    text += &share("gaps between kernels", estimate.launch_s);
    for (queue, seconds) in tisserand_collectives::Queue::ALL.into_iter().zip(estimate.exposed_s) {
        if seconds > 0.0 {
            text += &share(&format!("waiting for {}", queue.name()), seconds);
        }
    }
    text += &format!("  what bounds it: {}\n", estimate.bound.name());
    let peak = machine.peak_flop_per_s(report.config.precision.compute);
    let executed = report.plan.step_flops() as f64 / estimate.step_s / peak;
    text += &format!(
        "  {} tokens/s per GPU, MFU {:.1} % (attention whole), {:.1} % (causal), HFU {:.1} %\n",
        units::rate(estimate.tokens_per_s_per_gpu),
        100.0 * estimate.mfu.full,
        100.0 * estimate.mfu.causal,
        100.0 * executed,
    );
    let run = estimate.step_s * report.config.training.steps as f64;
    text += &format!("  the whole run: {}, without validation and checkpoints\n", units::duration(run));
    text
}

/// The table of a search.
pub(super) fn found(found: &Found, ranks: usize, machine: &Machine, seconds: f64) -> String {
    let mut text = format!(
        "{ranks} ranks of {} ({}, {} to a node): {} ways fit, {} steps executed in {seconds:.1} s; the fastest\n\n",
        machine.name, machine.gpu.name, machine.node.gpus, found.fitting, found.executed,
    );
    text += "replicate  shard   tp  zero  micro  accum  recompute       memory      step    MFU  tokens/s/GPU  bound\n";
    for candidate in &found.best {
        let (mesh, estimate) = (&candidate.mesh, &candidate.estimate);
        text += &format!(
            "{:>9} {:>6} {:>4} {:>5} {:>6} {:>6}  {:<10} {:>11} {:>9} {:>5.1}% {:>13}  {}\n",
            mesh.dp_replicate,
            mesh.dp_shard,
            mesh.tp,
            mesh.zero,
            candidate.micro_batch,
            candidate.grad_accum,
            candidate.recompute.name(),
            units::bytes(candidate.needed_bytes),
            units::period(estimate.step_s),
            100.0 * estimate.mfu.full,
            units::rate(estimate.tokens_per_s_per_gpu),
            estimate.bound.name(),
        );
    }
    if let Some(best) = found.best.first() {
        let sets: Vec<String> = best.sets.iter().map(|set| format!("--set '{set}'")).collect();
        text += &format!("\nthe first: {}\n", sets.join(" "));
    }
    text
}
