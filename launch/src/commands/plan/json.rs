//! A plan for scripts: one JSON object. Bytes, seconds and FLOPs are numbers, without rounding.

use serde_json::{Map, Value, json};
use tisserand_collectives::{Axis, Collective, Queue};
use tisserand_runtime::config::Mesh;
use tisserand_runtime::plan::estimate::Estimate;
use tisserand_runtime::plan::machine::Machine;
use tisserand_runtime::plan::search::Found;
use tisserand_runtime::plan::storage::Files;
use tisserand_runtime::plan::{PeakAt, Plan};

use super::{Prediction, Report};

/// Everything that `text` prints, and more digits.
pub(super) fn report(report: &Report) -> String {
    let Report { config, plan, storage, prediction } = report;
    let classes: Map<String, Value> =
        plan.classes().map(|(class, bytes)| (class.name().to_owned(), json!(bytes))).collect();
    let ops: Vec<Value> = plan
        .step
        .iter()
        .map(|total| {
            let cost = total.cost;
            json!({"op": cost.op, "calls": total.calls, "flops": cost.flops, "bytes": cost.bytes})
        })
        .collect();
    let object = json!({
        "name": config.run.name,
        "parameters": plan.num_parameters,
        "ranks": config.mesh.dp() * config.mesh.tp,
        "mesh": mesh(&config.mesh),
        "tokens_per_step": config.tokens_per_step(),
        "micro_batch": config.training.micro_batch,
        "grad_accum": config.grad_accum(),
        "recompute": config.recompute.mode.name(),
        "arena_bytes": plan.arena_bytes,
        "arena_bytes_by_class": classes,
        "arena_gaps_bytes": plan.gaps_bytes(),
        "arena_peak_at": peak_at(&plan.peak_at),
        "step_flops": plan.step_flops(),
        "step_least_bytes": plan.step_bytes(),
        "ops": ops,
        "collectives": collectives(&config.mesh, plan),
        "model_flops_per_token": {"full": plan.model_flops.full, "causal": plan.model_flops.causal},
        "checkpoint_bytes": storage.checkpoint.bytes,
        "checkpoints": {
            "each": files(storage.checkpoint),
            "weights": files(storage.weights),
            "written": storage.written,
            "kept": storage.kept,
            "kept_weights": storage.kept_weights,
            "at_end": files(storage.at_end),
        },
        "host_bytes": {"snapshot": storage.snapshot_bytes, "batches": storage.batches_bytes},
        "prediction": prediction.as_ref().map(|prediction| predicted(plan, prediction)),
    });
    format!("{object}\n")
}

fn mesh(mesh: &Mesh) -> Value {
    json!({
        "dp_replicate": mesh.dp_replicate,
        "dp_shard": mesh.dp_shard,
        "tp": mesh.tp,
        "zero": mesh.zero,
    })
}

fn files(files: Files) -> Value {
    json!({"files": files.files, "bytes": files.bytes})
}

fn peak_at(peak: &PeakAt) -> Value {
    match peak {
        PeakAt::Action(place) => json!({
            "action": place.action,
            "index": place.index,
            "unit": place.unit,
            "micro_batch": place.micro_batch,
        }),
        PeakAt::Start | PeakAt::Evaluation => json!({"action": peak.to_string()}),
    }
}

fn collectives(mesh: &Mesh, plan: &Plan) -> Vec<Value> {
    let sizes = [mesh.dp_replicate, mesh.dp_shard, mesh.tp];
    let mut rows = Vec::new();
    for ((axis, audit), ranks) in Axis::ALL.into_iter().zip(&plan.traffic).zip(sizes) {
        for kind in Collective::ALL {
            let traffic = audit.of(kind);
            if traffic.calls > 0 && ranks > 1 {
                rows.push(json!({
                    "axis": axis.name(),
                    "kind": kind.name(),
                    "calls": traffic.calls,
                    "payload_bytes": traffic.payload_bytes,
                    "sent_bytes": traffic.payload_bytes as f64 * kind.sent_per_payload(ranks),
                }));
            }
        }
    }
    rows
}

fn predicted(plan: &Plan, prediction: &Prediction) -> Value {
    let Prediction { machine, outside_bytes, estimate } = prediction;
    let needed = prediction.needed_bytes(plan);
    let mut object = estimated(estimate);
    object["profile"] = json!(machine.name);
    object["gpu"] = json!(machine.gpu.name);
    object["gpus_per_node"] = json!(machine.node.gpus);
    object["outside_bytes"] = json!(outside_bytes);
    object["needed_bytes"] = json!(needed);
    object["memory_bytes"] = json!(machine.gpu.memory_bytes);
    object["fits"] = json!(needed <= machine.gpu.memory_bytes);
    object
}

fn estimated(estimate: &Estimate) -> Value {
    let exposed: Map<String, Value> = Queue::ALL
        .into_iter()
        .zip(estimate.exposed_s)
        .map(|(queue, seconds)| (queue.name().to_owned(), json!(seconds)))
        .collect();
    json!({
        "step_s": estimate.step_s,
        "compute_s": estimate.compute_s,
        "memory_s": estimate.memory_s,
        "launch_s": estimate.launch_s,
        "network_s": estimate.network_s(),
        "exposed_s": exposed,
        "tokens_per_s_per_gpu": estimate.tokens_per_s_per_gpu,
        "mfu": {"full": estimate.mfu.full, "causal": estimate.mfu.causal},
        "bound": estimate.bound.name(),
    })
}

/// The result of a search.
pub(super) fn found(found: &Found, ranks: usize, machine: &Machine) -> String {
    let best: Vec<Value> = found
        .best
        .iter()
        .map(|candidate| {
            let mut object = estimated(&candidate.estimate);
            object["sets"] = json!(candidate.sets);
            object["mesh"] = mesh(&candidate.mesh);
            object["micro_batch"] = json!(candidate.micro_batch);
            object["grad_accum"] = json!(candidate.grad_accum);
            object["recompute"] = json!(candidate.recompute.name());
            object["needed_bytes"] = json!(candidate.needed_bytes);
            object
        })
        .collect();
    let object = json!({
        "ranks": ranks,
        "profile": machine.name,
        "memory_bytes": machine.gpu.memory_bytes,
        "fitting": found.fitting,
        "executed": found.executed,
        "refused_meshes": found.refused,
        "best": best,
    });
    format!("{object}\n")
}
