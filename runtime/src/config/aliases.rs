//! Names that other trainers (Megatron-LM, torchtitan, DeepSpeed, NeMo, Hugging Face) use for our keys.
//! Compared in lower case with `-` as `_`, against the end of the dotted key; longer names stand first.

/// (their name, our key).
#[rustfmt::skip] // a table: one of our keys, one line
const ALIASES: &[(&[&str], &str)] = &[
    (&["zero_optimization.stage", "zero_stage", "zero_optimization", "data_parallel_sharding_strategy", "sharding_strategy"], "mesh.zero"),
    (&["tensor_parallel_degree", "tensor_model_parallel_size", "tensor_parallel_size", "tp_size", "tp_degree", "tensor_parallel"], "mesh.tp"),
    (&["data_parallel_shard_degree", "fsdp_size", "dp_shard_degree", "fsdp"], "mesh.dp_shard"),
    (&["data_parallel_replicate_degree", "data_parallel_size", "dp_size", "num_distributed_optimizer_instances", "dp_replicate_degree", "dp"], "mesh.dp_replicate"),
    (&["local_batch_size", "micro_batch_size", "train_micro_batch_size_per_gpu", "per_device_train_batch_size", "mbs", "micro_batchsize"], "training.micro_batch"),
    (&["global_batch_size", "train_batch_size", "batch_size", "gbs"], "training.global_batch"),
    (&["seq_length", "max_seq_len", "sequence_length", "max_seq_length", "block_size", "context_length", "encoder_seq_length"], "training.seq_len"),
    (&["train_iters", "max_steps", "train_steps", "num_steps", "total_steps", "iterations", "max_iters"], "training.steps"),
    (&["train_tokens", "max_tokens_total", "num_tokens", "total_tokens"], "training.tokens"),
    (&["rampup_batch_size"], "training.batch_ramp"),
    (&["z_loss_weight", "z_loss_coeff", "zloss", "moe_z_loss_coeff"], "training.z_loss"),
    (&["learning_rate", "max_lr"], "optimizer.lr"),
    (&["optimizer.type", "optim", "optimizer_type"], "optimizer.name"),
    (&["clip_grad", "max_norm", "max_grad_norm", "gradient_clipping", "gradient_clip_val", "grad_norm_clip"], "optimizer.grad_clip"),
    (&["adam_beta1", "adam_beta2", "beta1", "beta2"], "optimizer.betas"),
    (&["adam_eps", "adam_epsilon", "epsilon"], "optimizer.eps"),
    (&["param_groups", "parameter_groups"], "optimizer.groups"),
    (&["lr_warmup_iters", "warmup_iters", "num_warmup_steps", "lr_warmup_steps", "warmup_num_steps", "warmup"], "schedule.warmup_steps"),
    (&["lr_decay_iters", "lr_decay_steps", "lr_wsd_decay_iters", "num_decay_steps", "decay_iters"], "schedule.decay_steps"),
    (&["lr_wsd_decay_style", "decay_type"], "schedule.decay_shape"),
    (&["lr_decay_style", "lr_scheduler_type", "lr_scheduler", "scheduler"], "schedule.name"),
    (&["min_lr", "min_lr_factor", "min_lr_rate", "lr_min"], "schedule.min_lr_ratio"),
    (&["vocabulary_size", "padded_vocab_size", "n_vocab"], "model.vocab_size"),
    (&["dim", "d_model", "n_embd", "model_dim", "embed_dim"], "model.hidden_size"),
    (&["ffn_hidden_size", "ffn_dim", "intermediate_dim", "d_ff"], "model.intermediate_size"),
    (&["n_layers", "num_hidden_layers", "n_layer"], "model.num_layers"),
    (&["n_heads", "num_attention_heads", "n_head"], "model.num_heads"),
    (&["n_kv_heads", "num_key_value_heads", "num_query_groups"], "model.num_kv_heads"),
    (&["kv_channels", "d_head"], "model.head_dim"),
    (&["rms_norm_eps", "norm_epsilon", "layernorm_epsilon"], "model.norm_eps"),
    (&["rotary_base", "rope_base"], "model.rope_theta"),
    (&["rope_scaling.rope_type"], "model.rope_scaling.type"),
    (&["rope_parameters"], "model.rope_scaling"),
    (&["window_size", "attention_window", "window"], "model.sliding_window"),
    (&["model_type", "model.name", "model.flavor"], "model.architecture"),
    (&["tie_word_embeddings", "share_embeddings_and_output_weights", "weight_tying"], "model.tie_embeddings"),
    (&["init_method_std", "initializer_range", "init_std"], "model.init.std"),
    (&["add_bias_linear", "add_qkv_bias", "qkv_bias"], "model.attention_bias"),
    (&["tokenizer_path", "tokenizer_model", "tokenizer_file", "hf_assets_path", "vocab_file"], "tokenizer.path"),
    (&["data_path", "train_data_path", "dataset", "dataset_path", "datasets"], "data.sources"),
    (&["valid_data_path", "validation_data", "val_data"], "data.validation"),
    (&["reset_attention_mask", "reset_position_ids", "intra_document_masking", "doc_mask"], "data.document_mask"),
    (&["num_workers", "prefetch_factor", "prefetch"], "data.prefetch_batches"),
    (&["bf16", "fp16", "dtype", "mixed_precision_param", "param_dtype", "torch_dtype", "precision"], "precision.compute"),
    (&["mixed_precision_reduce", "grad_reduce_in_fp32", "accumulate_allreduce_grads_in_fp32"], "precision.reduce"),
    (&["exp_avg_dtype", "exp_avg_sq_dtype"], "precision.moments"),
    (&["main_params_dtype"], "precision.master"),
    (&["activation_checkpointing", "activation_checkpoint", "gradient_checkpointing", "recompute_granularity", "recompute_method", "activation_checkpointing.mode"], "recompute.mode"),
    (&["recompute_num_layers"], "recompute.blocks"),
    (&["save_interval", "save_steps", "checkpoint_interval", "checkpoint.interval", "save_every"], "checkpoint.every_steps"),
    (&["save_total_limit", "keep_latest_k", "most_recent_k"], "checkpoint.keep_last"),
    (&["load_checkpoint", "pretrained_checkpoint", "initial_load_path", "init_from", "resume_from_checkpoint"], "init.from"),
    (&["eval_interval", "eval_steps", "validation.freq", "val_check_interval"], "eval.every_steps"),
    (&["eval_iters", "eval_batches"], "eval.max_tokens"),
    (&["log_interval", "logging_steps", "log_freq", "log_every"], "log.every_steps"),
    (&["tensorboard_dir", "enable_tensorboard", "use_tensorboard"], "log.tensorboard"),
    (&["profile_freq", "enable_profiling", "profile"], "log.trace_steps"),
    (&["random_seed"], "run.seed"),
    (&["output_dir", "dump_folder", "save_dir", "save"], "run.dir"),
    (&["run_name", "exp_name", "experiment_name", "job_name"], "run.name"),
    (&["exit_duration_in_mins", "time_limit", "max_time"], "run.max_minutes"),
    (&["distributed_timeout_minutes", "comm.train_timeout_seconds", "nccl_timeout", "ddp_timeout"], "run.collective_timeout_s"),
    (&["deterministic", "deterministic_mode"], "determinism.mesh_invariant"),
];

/// (their name, what to say): settings that are not keys here.
const DERIVED: &[(&str, &str)] = &[
    ("gradient_accumulation_steps", GRAD_ACCUM),
    ("accumulate_grad_batches", GRAD_ACCUM),
    ("grad_accum", GRAD_ACCUM),
    ("grad_accum_steps", GRAD_ACCUM),
    ("world_size", "it is known from the launcher (srun, or `tisserand train --ranks`)"),
    ("num_nodes", "it is known from the launcher (srun)"),
    ("nnodes", "it is known from the launcher (srun)"),
    ("sequence_parallel", "it is always on where mesh.tp > 1"),
    ("use_flash_attn", "attention is always computed in blocks without storing its matrix"),
    ("hidden_act", "the feed-forward layer is always SwiGLU (silu)"),
    ("qk_norm", "it follows from model.architecture; hint: qwen3 has it"),
    ("qk_layernorm", "it follows from model.architecture; hint: qwen3 has it"),
    ("position_embedding_type", "positions are always rotary"),
    ("normalization", "norms are always RMS norms"),
    (
        "num_epochs",
        "length is training.tokens or training.steps; hint: data.sources[].max_epochs limits repetition",
    ),
    (
        "num_train_epochs",
        "length is training.tokens or training.steps; hint: data.sources[].max_epochs limits repetition",
    ),
];

const GRAD_ACCUM: &str =
    "it is derived: training.global_batch / (training.micro_batch × data-parallel ranks)";

/// What another trainer's name is here.
pub(super) enum Answer {
    /// Our key.
    Key(&'static str),
    /// Why there is none.
    Derived(&'static str),
}

/// Looks up a dotted key as the user wrote it.
pub(super) fn answer(path: &str) -> Option<Answer> {
    let path = path.to_lowercase().replace('-', "_");
    let names =
        |name: &str| path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if let Some((_, why)) = DERIVED.iter().find(|(name, _)| names(name)) {
        return Some(Answer::Derived(why));
    }
    let found = ALIASES.iter().flat_map(|(theirs, ours)| theirs.iter().map(move |name| (*name, *ours)));
    // The longest name is the most specific one: "zero_optimization.stage" before "stage".
    found
        .filter(|(name, _)| names(name))
        .max_by_key(|(name, _)| name.len())
        .map(|(_, ours)| Answer::Key(ours))
}

#[cfg(test)]
mod tests {
    use super::super::keys;
    use super::*;

    #[test]
    fn every_alias_leads_to_a_key_and_is_none() {
        for (theirs, ours) in ALIASES {
            assert!(keys::is_key(ours) || keys::is_section(ours), "{ours}");
            for name in *theirs {
                let section = ours.split('.').next().unwrap();
                assert!(!keys::is_key(&format!("{section}.{name}")), "{name} is a key of [{section}]");
            }
        }
        let mut names: Vec<_> = ALIASES.iter().flat_map(|(theirs, _)| *theirs).collect();
        names.extend(DERIVED.iter().map(|(name, _)| name));
        names.sort();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "an alias stands twice");
    }
}
