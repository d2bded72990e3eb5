//! `tisserand plan`

use serde_json::json;
use tisserand_runtime::Result;
use tisserand_runtime::config::Config;
use tisserand_runtime::log::units;
use tisserand_runtime::model::Transformer;
use tisserand_runtime::plan::{self, Plan};
use tisserand_runtime::train::setup::step_config;

use super::{DONE, load};
use crate::{cli, device, output};

/// Runs one step without data and prints what it took.
pub(super) fn run(arguments: &cli::Plan) -> Result<u8> {
    let config = load(&arguments.run_file, None)?;
    let model = Transformer::new(config.model.clone());
    let step = step_config(&config, &model, 0);
    let (caps, workspace) = device::to_plan(config.run.device)?;
    let plan = plan::train(caps, &model, &step, config.training.seq_len, workspace)?;
    output::piece(&if arguments.json { as_json(&config, &plan) } else { as_text(&config, &plan) })?;
    Ok(DONE)
}

fn checkpoint_bytes(config: &Config, plan: &Plan) -> usize {
    let precision = &config.precision;
    let per_parameter =
        precision.compute.size_bytes() + precision.master.size_bytes() + 2 * precision.moments.size_bytes();
    plan.num_parameters * per_parameter
}

fn as_text(config: &Config, plan: &Plan) -> String {
    let tokens = config.tokens_per_step();
    let row =
        |name: &str, bytes: usize| format!("  {name:<14} {:>12}  {bytes}\n", units::bytes(bytes as u64));
    let mut text = format!(
        "{}: {} parameters, {} tokens per step in {} micro-batches, {} steps\n\narena of each rank, at its peak\n",
        config.run.name,
        plan.num_parameters,
        tokens,
        config.grad_accum(),
        config.training.steps,
    );
    for (class, bytes) in plan.classes() {
        text += &row(class.name(), bytes);
    }
    text += &row("gaps", plan.gaps_bytes());
    text += &row("total", plan.arena_bytes);
    text += "\none step, by op                        calls          GFLOP       least bytes\n";
    for total in &plan.step {
        let cost = total.cost;
        text += &format!(
            "  {:<32} {:>9} {:>14.3} {:>17}\n",
            cost.op,
            total.calls,
            cost.flops as f64 / 1e9,
            units::bytes(cost.bytes)
        );
    }
    text += &format!(
        "  {:<32} {:>9} {:>14.3} {:>17}\n",
        "total",
        plan.step.iter().map(|total| total.calls).sum::<u64>(),
        plan.step_flops() as f64 / 1e9,
        units::bytes(plan.step_bytes())
    );
    let flops = plan.model_flops;
    text += &format!(
        "\nmodel FLOPs per token: {:.4e} (6N + 12Lhs), {:.4e} (attention causal)\n",
        flops.full, flops.causal
    );
    text += &format!("a checkpoint: {}\n", units::bytes(checkpoint_bytes(config, plan) as u64));
    text
}

fn as_json(config: &Config, plan: &Plan) -> String {
    let classes: serde_json::Map<String, serde_json::Value> =
        plan.classes().map(|(class, bytes)| (class.name().to_owned(), json!(bytes))).collect();
    let ops: Vec<_> = plan
        .step
        .iter()
        .map(|total| {
            let cost = total.cost;
            json!({"op": cost.op, "calls": total.calls, "flops": cost.flops, "bytes": cost.bytes})
        })
        .collect();
    let plan = json!({
        "name": config.run.name,
        "parameters": plan.num_parameters,
        "tokens_per_step": config.tokens_per_step(),
        "grad_accum": config.grad_accum(),
        "arena_bytes": plan.arena_bytes,
        "arena_bytes_by_class": classes,
        "arena_gaps_bytes": plan.gaps_bytes(),
        "step_flops": plan.step_flops(),
        "step_least_bytes": plan.step_bytes(),
        "ops": ops,
        "model_flops_per_token": {"full": plan.model_flops.full, "causal": plan.model_flops.causal},
        "checkpoint_bytes": checkpoint_bytes(config, plan),
    });
    format!("{plan}\n")
}
