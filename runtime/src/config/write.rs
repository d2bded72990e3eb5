//! A validated config as a run file again: `resolved.toml`, and the list that [`super::diff`] compares.

use std::path::Path;

use tisserand_kernels::DType;
use toml::{Table, Value};

use super::model_check::{architecture_name, common_window};
use super::set::escape;
use super::*;
use crate::model_config::RopeScaling;

/// One section: its name and its keys in the order of the vocabulary.
pub(super) struct SectionText {
    pub(super) name: &'static str,
    pub(super) entries: Vec<(&'static str, Value)>,
}

/// The text of [`Config::to_toml`].
pub(super) fn to_toml(config: &Config) -> String {
    let mut text =
        String::from("# Every key with its value after defaults; lengths in steps. 0 and \"\" mean none.\n");
    text += "config_version = 1\n";
    for section in sections(config) {
        text += &format!("\n[{}]\n", section.name);
        for (key, value) in section.entries {
            text += &format!("{key} = {value}\n");
        }
    }
    text
}

/// Every key with its value. An alternative spelling (tokens for steps) and a key that means nothing beside the
/// others (a decay shape without decay) are absent.
pub(super) fn sections(config: &Config) -> Vec<SectionText> {
    let Config {
        run,
        tokenizer,
        training,
        mesh,
        precision,
        recompute,
        checkpoint,
        init,
        eval,
        log,
        determinism,
        ..
    } = config;
    let section = |name, entries| SectionText { name, entries };
    let mut eval_entries = vec![("every_steps", optional(eval.every_steps))];
    if config.data.has_validation() {
        eval_entries.push(("max_tokens", integer(eval.max_tokens)));
    }
    let sections = vec![
        section(
            "run",
            vec![
                ("name", string(&run.name)),
                ("dir", path(&run.dir)),
                ("seed", integer(run.seed)),
                ("device", string(if run.device == DeviceKind::Cpu { "cpu" } else { "cuda" })),
                ("threads", size(run.threads)),
                ("max_minutes", Value::Float(run.max_minutes.unwrap_or(0.0))),
                ("stop_before_limit_s", Value::Float(run.stop_before_limit_s.unwrap_or(0.0))),
                ("max_idle_starts", optional(run.max_idle_starts)),
                ("collective_timeout_s", Value::Float(run.collective_timeout_s)),
                ("nccl_library", run.nccl_library.as_deref().map_or(string(""), path)),
                ("cuda_graph", Value::Boolean(run.cuda_graph)),
                ("oversubscribe", Value::Boolean(run.oversubscribe)),
                ("plan_check", string(if run.plan_check == PlanCheck::Warn { "warn" } else { "error" })),
                ("group", string(run.group.as_deref().unwrap_or(""))),
            ],
        ),
        section("model", model(&config.model)),
        section("tokenizer", vec![("path", tokenizer.path.as_deref().map_or(string(""), path))]),
        section("data", data(&config.data)),
        section(
            "training",
            vec![
                ("seq_len", size(training.seq_len)),
                ("global_batch", size(training.global_batch)),
                ("micro_batch", size(training.micro_batch)),
                ("steps", integer(training.steps)),
                ("z_loss", Value::Float(training.z_loss)),
                ("max_skipped_steps", integer(training.max_skipped_steps.into())),
            ],
        ),
        section("optimizer", optimizer(&config.optimizer)),
        section("schedule", schedule(&config.schedule)),
        section(
            "mesh",
            vec![
                ("dp_replicate", size(mesh.dp_replicate)),
                ("dp_shard", size(mesh.dp_shard)),
                ("tp", size(mesh.tp)),
                ("zero", integer(mesh.zero.into())),
            ],
        ),
        section(
            "precision",
            vec![
                ("compute", dtype(precision.compute)),
                ("master", dtype(precision.master)),
                ("moments", dtype(precision.moments)),
                ("reduce", dtype(precision.reduce)),
            ],
        ),
        section(
            "recompute",
            vec![("mode", string(recompute.mode.name())), ("blocks", size(recompute.blocks))],
        ),
        section(
            "checkpoint",
            vec![
                ("every_minutes", Value::Float(checkpoint.every_minutes.unwrap_or(0.0))),
                ("every_steps", optional(checkpoint.every_steps)),
                ("keep_last", size(checkpoint.keep_last)),
                ("keep_every_steps", optional(checkpoint.keep_every_steps)),
                ("weights_every_steps", optional(checkpoint.weights_every_steps)),
            ],
        ),
        section(
            "init",
            vec![("from", init.from.as_deref().map_or(string(""), path)), ("load", string(init.load.name()))],
        ),
        section("eval", eval_entries),
        section(
            "log",
            vec![
                ("every_steps", integer(log.every_steps)),
                ("tensorboard", Value::Boolean(log.tensorboard)),
                ("trace_steps", trace_steps(log.trace_steps)),
            ],
        ),
        section("determinism", vec![("mesh_invariant", Value::Boolean(determinism.mesh_invariant))]),
    ];
    sections
}

/// "10..12", or nothing.
fn trace_steps(steps: Option<[u64; 2]>) -> Value {
    string(&steps.map_or_else(String::new, |[first, last]| format!("{first}..{last}")))
}

fn model(model: &ModelConfig) -> Vec<(&'static str, Value)> {
    let window = common_window(&model.windows).ok().flatten();
    let layer_type = |window: &Option<usize>| {
        string(if window.is_some() { "sliding_attention" } else { "full_attention" })
    };
    let residual = if model.init.depth_scaled { "depth_scaled" } else { "plain" };
    let mut entries = vec![
        ("architecture", string(architecture_name(model.architecture))),
        ("vocab_size", size(model.vocab_size)),
        ("hidden_size", size(model.hidden_size)),
        ("intermediate_size", size(model.intermediate_size)),
        ("num_layers", size(model.num_layers)),
        ("num_heads", size(model.num_heads)),
        ("num_kv_heads", size(model.num_kv_heads)),
        ("head_dim", size(model.head_dim)),
        ("norm_eps", Value::Float(model.norm_eps)),
        ("rope_theta", Value::Float(model.rope_theta)),
        ("rope_scaling", rope_scaling(model.rope_scaling)),
        ("max_position_embeddings", size(model.max_position_embeddings)),
        ("sliding_window", size(window.unwrap_or(0))),
        ("attention_bias", Value::Boolean(model.qkv_bias)),
        ("mlp_bias", Value::Boolean(model.mlp_bias)),
        ("tie_embeddings", Value::Boolean(model.tie_embeddings)),
        ("init", inline([("std", Value::Float(model.init.std)), ("residual", string(residual))])),
    ];
    if window.is_some() {
        entries.push(("layer_types", list(model.windows.iter().map(layer_type))));
    }
    entries
}

fn rope_scaling(scaling: RopeScaling) -> Value {
    match scaling {
        RopeScaling::None => inline([("type", string("none"))]),
        RopeScaling::Linear { factor } => {
            inline([("type", string("linear")), ("factor", Value::Float(factor))])
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => inline([
            ("type", string("llama3")),
            ("factor", Value::Float(factor)),
            ("low_freq_factor", Value::Float(low_freq_factor)),
            ("high_freq_factor", Value::Float(high_freq_factor)),
            ("original_max_position_embeddings", size(original_max_position_embeddings)),
        ]),
    }
}

fn data(data: &Data) -> Vec<(&'static str, Value)> {
    let source = |source: &Source| {
        let epochs = source.max_epochs.map(|epochs| ("max_epochs", Value::Float(epochs)));
        inline(
            [("path", path(&source.path)), ("weight", Value::Float(source.weight))].into_iter().chain(epochs),
        )
    };
    let set = |set: &Validation| inline([("name", string(&set.name)), ("path", path(&set.path))]);
    let range = |range: &(u64, u64)| Value::Array(vec![integer(range.0), integer(range.1)]);
    let mut entries = vec![
        ("validation", list(data.validation.iter().map(set))),
        ("validation_fraction", Value::Float(data.validation_fraction)),
        ("document_mask", Value::Boolean(data.document_mask)),
        ("prefetch_batches", size(data.prefetch_batches)),
        ("skip", list(data.skip.iter().map(range))),
    ];
    match &data.prepare {
        None => entries.insert(0, ("sources", list(data.sources.iter().map(source)))),
        Some(Prepare { text, vocab_size }) => {
            let text = list(text.iter().map(|glob| string(glob)));
            entries.push(("prepare", inline([("text", text), ("vocab_size", size(*vocab_size))])));
        }
    }
    entries
}

fn optimizer(optimizer: &Optimizer) -> Vec<(&'static str, Value)> {
    let group = |group: &Group| {
        let decay = group.weight_decay.map(|decay| ("weight_decay", Value::Float(decay)));
        let scale = group.lr_scale.map(|scale| ("lr_scale", Value::Float(scale)));
        inline([("match", string(&group.pattern))].into_iter().chain(decay).chain(scale))
    };
    vec![
        ("name", string("adamw")),
        ("lr", Value::Float(optimizer.lr)),
        ("betas", list(optimizer.betas.into_iter().map(Value::Float))),
        ("eps", Value::Float(optimizer.eps)),
        ("weight_decay", Value::Float(optimizer.weight_decay)),
        ("grad_clip", Value::Float(optimizer.grad_clip.unwrap_or(0.0))),
        ("groups", list(optimizer.groups.iter().map(group))),
    ]
}

fn schedule(schedule: &Schedule) -> Vec<(&'static str, Value)> {
    let name = match schedule.kind {
        ScheduleKind::Constant => "constant",
        ScheduleKind::Linear => "linear",
        ScheduleKind::Cosine => "cosine",
        ScheduleKind::Wsd => "wsd",
    };
    let shape = match schedule.decay_shape {
        DecayShape::Linear => "linear",
        DecayShape::Cosine => "cosine",
        DecayShape::OneMinusSqrt => "1-sqrt",
    };
    let mut entries = vec![("name", string(name)), ("warmup_steps", integer(schedule.warmup_steps))];
    if schedule.kind == ScheduleKind::Wsd {
        entries.extend([("decay_steps", integer(schedule.decay_steps)), ("decay_shape", string(shape))]);
    }
    entries.push(("min_lr_ratio", Value::Float(schedule.min_lr_ratio)));
    entries
}

fn string(text: &str) -> Value {
    Value::String(escape(text))
}

fn path(path: &Path) -> Value {
    string(&path.to_string_lossy())
}

/// Values come from TOML integers or are bounded by them.
fn integer(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

fn size(value: usize) -> Value {
    integer(value as u64)
}

fn optional(value: Option<u64>) -> Value {
    integer(value.unwrap_or(0))
}

fn dtype(dtype: DType) -> Value {
    string(dtype.name())
}

fn list(items: impl Iterator<Item = Value>) -> Value {
    Value::Array(items.collect())
}

fn inline(entries: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::Table(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Table>())
}
