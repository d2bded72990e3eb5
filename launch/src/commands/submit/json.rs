//! A submission for scripts.

use serde_json::{Value, json};

use super::Submitted;
use super::checks::Storage;
use super::request::Request;
use crate::commands::plan::Report;

/// One object, on one line.
pub(super) fn text(
    request: &Request,
    report: &Report,
    storage: &Storage,
    script: &str,
    submitted: Option<&Submitted>,
) -> String {
    let prediction = report.prediction.as_ref();
    let object = json!({
        "profile": request.profile.name,
        "nodes": request.arguments.nodes,
        "ranks": request.arguments.nodes * request.ranks_per_node,
        "time_s": request.time.seconds(),
        "jobs": submitted.map_or_else(Vec::new, |submitted| submitted.jobs.clone()),
        "script_file": submitted.map(|submitted| submitted.script.display().to_string()),
        "script": script,
        "arena_bytes": report.plan.arena_bytes,
        "needed_bytes": prediction.map(|prediction| prediction.needed_bytes(&report.plan)),
        "memory_bytes": prediction.map(|prediction| prediction.machine.gpu.memory_bytes),
        "step_s": prediction.map(|prediction| prediction.estimate.step_s),
        "checkpoint_bytes": report.storage.checkpoint.bytes,
        "storage_needed_bytes": storage.needed_bytes,
        "storage_available_bytes": storage.available.as_ref().map_or(Value::Null, |there| json!(there.bytes)),
    });
    format!("{object}\n")
}
