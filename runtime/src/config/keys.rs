//! The vocabulary: every key of the run file with its type, default, meaning, and whether it may change when a
//! run continues. Suggestions, the comparison of two configs and `docs/run-file.md` all read this list.

use super::diff::ChangeKind::{self, Free, Identity};

/// One key; `[]` after a name stands for the items of an array.
pub(super) struct Key {
    pub(super) path: &'static str,
    kind: &'static str,
    default: &'static str,
    pub(super) change: ChangeKind,
    meaning: &'static str,
}

const fn key(
    path: &'static str,
    kind: &'static str,
    default: &'static str,
    change: ChangeKind,
    meaning: &'static str,
) -> Key {
    Key { path, kind, default, change, meaning }
}

/// Pairs of keys that say the same thing in two units; at most one of each may be given.
const ALTERNATIVES: &[(&str, &str)] = &[
    ("training.steps", "training.tokens"),
    ("schedule.warmup_steps", "schedule.warmup_tokens"),
    ("schedule.decay_steps", "schedule.decay_tokens"),
    ("checkpoint.every_steps", "checkpoint.every_minutes"),
    ("checkpoint.keep_every_steps", "checkpoint.keep_every_tokens"),
    ("checkpoint.weights_every_steps", "checkpoint.weights_every_tokens"),
    ("model.preset", "model.hf_config"),
    ("data.sources", "data.prepare"),
];

#[rustfmt::skip] // a table: one key, one line
pub(super) const KEYS: &[Key] = &[
    key("config_version", "integer", "1", Identity, "Version of this vocabulary; only 1 exists."),

    key("run.name", "string", "the file's name", Free, "Name in reports."),
    key("run.dir", "path", "runs/NAME", Free, "Folder of the run."),
    key("run.seed", "integer", "1234", Identity, "Key of initial weights, data order and rounding noise."),
    key("run.device", "cpu, cuda", "cpu", Free, "What computes. cuda: in a build with the feature cuda or emulator."),
    key("run.threads", "integer", "0", Free, "CPU worker threads per rank; 0 = cores / local ranks."),
    key("run.max_minutes", "number", "0", Free, "Save and exit 75 before this; 0 = Slurm's limit, else none."),
    key("run.stop_before_limit_s", "number", "0", Free, "Seconds that a stop before a time limit leaves for the save; 0 = twice the slowest save."),
    key("run.max_idle_starts", "integer", "3", Free, "Starts in a row without a completed step after which the run is not started again; 0 = no limit."),
    key("run.collective_timeout_s", "number", "600", Free, "Seconds after which a collective counts as hung."),
    key("run.nccl_library", "path", "\"\"", Free, "libnccl.so.2 for ranks with GPUs; empty: in NCCL_HOME, or where the system looks."),
    key("run.cuda_graph", "boolean", "false", Free, "Whether the step is recorded and replayed as CUDA graphs: same bits, less work for the host. cuda and one rank only."),
    key("run.oversubscribe", "boolean", "false", Free, "Whether ranks that are bound to CPUs may have less than one each. GPUs are never shared by processes."),
    key("run.plan_check", "warn, error", "warn", Free, "What happens when memory used differs from the plan."),
    key("run.group", "string", "\"\"", Free, "Unix group that may read everything."),

    key("model.preset", "string", "none", Identity, "A published model's sizes; other keys of the section override it."),
    key("model.hf_config", "path", "none", Identity, "A Hugging Face config.json; other keys of the section override it."),
    key("model.architecture", "llama, mistral, qwen2, qwen3", "llama", Identity, "Family; decides biases, q/k norms and windows."),
    key("model.vocab_size", "integer", "data.prepare.vocab_size", Identity, "Rows of the embedding."),
    key("model.hidden_size", "integer", "required", Identity, "Width of the residual stream."),
    key("model.intermediate_size", "integer", "required", Identity, "Width inside the feed-forward layer."),
    key("model.num_layers", "integer", "required", Identity, "Blocks."),
    key("model.num_heads", "integer", "required", Identity, "Query heads."),
    key("model.num_kv_heads", "integer", "num_heads", Identity, "Key and value heads; divides num_heads."),
    key("model.head_dim", "integer", "hidden_size / num_heads", Identity, "Width of one head; even."),
    key("model.norm_eps", "number", "1e-5", Identity, "Epsilon of every RMS norm."),
    key("model.rope_theta", "number", "10000", Identity, "Base of the rotary frequencies."),
    key("model.rope_scaling.type", "none, linear, llama3", "none", Identity, "Change of the rotary frequencies for longer contexts."),
    key("model.rope_scaling.factor", "number", "required by linear, llama3", Identity, "Divisor of positions (linear) or of low frequencies (llama3)."),
    key("model.rope_scaling.low_freq_factor", "number", "required by llama3", Identity, "Wavelengths above original / this are scaled fully."),
    key("model.rope_scaling.high_freq_factor", "number", "required by llama3", Identity, "Wavelengths below original / this are kept."),
    key("model.rope_scaling.original_max_position_embeddings", "integer", "required by llama3", Identity, "Context of the original model."),
    key("model.max_position_embeddings", "integer", "training.seq_len", Identity, "Longest context declared in config.json; not enforced."),
    key("model.sliding_window", "integer", "0", Identity, "Tokens that attention sees, itself included; 0 = all. Not for llama."),
    key("model.layer_types", "array of full_attention, sliding_attention", "all sliding if sliding_window > 0", Identity, "Which layers have the window; qwen2 and qwen3 may mix."),
    key("model.attention_bias", "boolean", "true for qwen2, else false", Identity, "Biases of q, k, v and the output projection (llama, qwen3); of q, k, v (qwen2, always)."),
    key("model.mlp_bias", "boolean", "false", Identity, "Biases of the feed-forward layer; llama only."),
    key("model.tie_embeddings", "boolean", "false", Identity, "Whether the output projection is the embedding."),
    key("model.init.std", "number", "0.02", Identity, "Standard deviation of initial matrices."),
    key("model.init.residual", "depth_scaled, plain", "depth_scaled; plain with hf_config", Identity, "depth_scaled: o_proj and down_proj divided by sqrt(2 num_layers)."),

    key("tokenizer.path", "path", "\"\"", Identity, "A tokenizer.json; copied into checkpoints. Made by data.prepare where that is given."),

    key("data.sources[].path", "path", "required", Identity, "Prefix of a dataset (.bin and .idx), or a glob."),
    key("data.sources[].weight", "number", "1", Identity, "Share of tokens, relative to the sum."),
    key("data.sources[].max_epochs", "number", "no limit", Identity, "How often the source may be seen."),
    key("data.validation[].name", "string", "required", Free, "Name in reports; unique."),
    key("data.validation[].path", "path", "required", Free, "Prefix of a dataset."),
    key("data.validation_fraction", "number", "0", Identity, "Share of each source's documents, its last ones, kept for validation; instead of data.validation."),
    key("data.document_mask", "boolean", "true", Identity, "Attention and positions restart at each document."),
    key("data.prefetch_batches", "integer", "8", Free, "Batches read ahead."),
    key("data.skip", "array of [first, last]", "[]", Identity, "Steps whose data is passed over, both ends included; increasing."),
    key("data.prepare.text", "array of globs", "required", Identity, "Text from which tokenizer and dataset are built first (small runs). Hidden files, run folders and folders with a `CACHEDIR.TAG` are left out."),
    key("data.prepare.vocab_size", "integer", "required", Identity, "Entries of that tokenizer; at least 257."),

    key("stage[].name", "string", "none", Identity, "Not yet: other sources from some token on."),
    key("stage[].from_tokens", "integer", "none", Identity, "Not yet."),
    key("stage[].sources[].path", "path", "none", Identity, "Not yet."),
    key("stage[].sources[].weight", "number", "none", Identity, "Not yet."),
    key("stage[].sources[].max_epochs", "number", "none", Identity, "Not yet."),

    key("training.seq_len", "integer", "required", Identity, "Tokens per sequence."),
    key("training.global_batch", "integer", "required", Identity, "Sequences per step; a multiple of micro_batch × data-parallel ranks."),
    key("training.batch_ramp.from", "integer", "none", Identity, "Not yet."),
    key("training.batch_ramp.over_tokens", "integer", "none", Identity, "Not yet."),
    key("training.micro_batch", "integer", "1", Free, "Sequences per data-parallel rank and forward. Gradient accumulation is derived."),
    key("training.tokens", "integer", "this or steps", Identity, "Length of the run, rounded up to whole steps."),
    key("training.steps", "integer", "this or tokens", Identity, "Length of the run."),
    key("training.z_loss", "number", "0", Identity, "Factor of the squared log-partition in the loss."),
    key("training.max_skipped_steps", "integer", "3", Free, "Non-finite steps in a row before the run fails."),

    key("optimizer.name", "adamw", "adamw", Identity, "muon: not yet."),
    key("optimizer.lr", "number", "required", Identity, "Learning rate after the warm-up."),
    key("optimizer.betas", "[number, number]", "[0.9, 0.95]", Identity, "Decay rates of the moments; each at least 0, below 1."),
    key("optimizer.eps", "number", "1e-8", Identity, "Added to the root of the second moment."),
    key("optimizer.weight_decay", "number", "0.1", Identity, "Decoupled decay of matrices; vectors do not decay unless a group says so."),
    key("optimizer.grad_clip", "number", "1", Identity, "Largest gradient norm; 0 = no clipping."),
    key("optimizer.groups[].match", "string", "required", Identity, "Whole tensor name; * stands for any characters. The last match that gives a value wins."),
    key("optimizer.groups[].weight_decay", "number", "as above", Identity, "Weight decay of these tensors."),
    key("optimizer.groups[].lr_scale", "number", "1", Identity, "Multiplies the learning rate of these tensors."),

    key("schedule.name", "constant, linear, cosine, wsd", "cosine", Identity, "Shape after the warm-up."),
    key("schedule.warmup_steps", "integer", "steps / 20, at most 2000", Identity, "Linear warm-up; the last of these updates has optimizer.lr."),
    key("schedule.warmup_tokens", "integer", "or warmup_steps", Identity, "The same in tokens, rounded up to whole steps."),
    key("schedule.decay_steps", "integer", "steps / 5, at least 1", Identity, "wsd only: length of the final decay."),
    key("schedule.decay_tokens", "integer", "or decay_steps", Identity, "The same in tokens, rounded up to whole steps."),
    key("schedule.decay_shape", "linear, cosine, 1-sqrt", "1-sqrt", Identity, "wsd only."),
    key("schedule.min_lr_ratio", "number", "0", Identity, "Learning rate of the last update over optimizer.lr."),

    key("mesh.dp_replicate", "integer, auto", "1", Free, "Replicas of the sharded model; auto: the ranks that dp_shard and tp leave."),
    key("mesh.dp_shard", "integer, auto", "auto", Free, "Ranks that share one replica's state; auto: the ranks that the others leave."),
    key("mesh.tp", "integer, auto", "1", Free, "Ranks that share every matrix and the tokens; divides num_heads, intermediate_size, micro_batch × seq_len."),
    key("mesh.zero", "integer", "3", Free, "0 replicate everything, 1 shard optimizer state, 2 and gradients, 3 and parameters."),

    key("precision.compute", "bf16, f32", "f32", Identity, "Weights and activations of forward and backward."),
    key("precision.master", "f32, bf16", "f32", Identity, "Master weights; bf16 is rounded stochastically."),
    key("precision.moments", "f32, bf16", "f32", Identity, "Moments of the optimizer."),
    key("precision.reduce", "f32, bf16", "f32", Identity, "Type in which gradients travel between ranks; summed in f32 either way."),

    key("recompute.mode", "none, selective, full", "none", Free, "What backward computes again instead of reading it from memory."),
    key("recompute.blocks", "integer, all", "all", Free, "How many blocks, from the first."),

    key("checkpoint.every_minutes", "number", "30", Free, "Minutes between complete checkpoints; 0 = off."),
    key("checkpoint.every_steps", "integer", "0", Free, "Steps between complete checkpoints, instead; 0 = off."),
    key("checkpoint.keep_last", "integer", "2", Free, "Rolling complete checkpoints that are kept."),
    key("checkpoint.keep_every_tokens", "integer", "0", Free, "Complete checkpoints that are kept for ever, rounded up to whole steps; 0 = none."),
    key("checkpoint.keep_every_steps", "integer", "0", Free, "The same in steps."),
    key("checkpoint.weights_every_tokens", "integer", "0", Free, "Hugging Face folders of weights only, rounded up to whole steps; 0 = none."),
    key("checkpoint.weights_every_steps", "integer", "0", Free, "The same in steps."),

    key("init.from", "path", "\"\"", Identity, "Checkpoint or Hugging Face folder to start from."),
    key("init.load", "weights, weights+optimizer, all", "weights", Identity, "What is taken from it."),

    key("eval.every_steps", "integer", "1000; 0 without validation data", Free, "Steps between validations; 0 = never."),
    key("eval.max_tokens", "integer", "4000000", Free, "Tokens of each validation set that are used."),

    key("log.every_steps", "integer", "10", Free, "Steps between log lines."),
    key("log.tensorboard", "boolean", "true", Free, "Write event files."),
    key("log.trace_steps", "string", "\"\"", Free, "First and last step of which every rank writes a Chrome trace, as in \"10..12\"; at most 100."),

    key("determinism.mesh_invariant", "boolean", "false", Identity, "Bit-equal losses and weights for every data-parallel mesh; needs powers of two and some memory."),
];

/// The other key of a pair of alternatives.
pub(super) fn alternative(path: &str) -> Option<&'static str> {
    ALTERNATIVES.iter().find_map(|(one, other)| match path {
        _ if path == *one => Some(*other),
        _ if path == *other => Some(*one),
        _ => None,
    })
}

/// Whether `path` (with `[]` for items) is a key.
pub(super) fn is_key(path: &str) -> bool {
    KEYS.iter().any(|key| key.path == path)
}

/// Whether keys exist below `path`: a section, a table, or an array of tables.
pub(super) fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| is_below(key.path, path))
}

fn is_below(key: &str, path: &str) -> bool {
    key.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// The rule for a key, or for the table or array that it names.
pub(super) fn change_kind(path: &str) -> ChangeKind {
    let rule = KEYS.iter().find(|key| key.path == path || is_below(key.path, path));
    rule.map_or(Identity, |key| key.change)
}

/// The reference of all keys in Markdown, as `docs/run-file.md` has it.
pub fn reference_table() -> String {
    let mut text =
        String::from("| Key | Type | Default | When a run continues | Meaning |\n|---|---|---|---|---|\n");
    for key in KEYS {
        let Key { path, kind, default, meaning, .. } = key;
        let change = if key.change == Free { "free" } else { "fixed" };
        text += &format!("| `{path}` | {kind} | {default} | {change} | {meaning} |\n");
    }
    text
}
