//! What holds for every model, however it was described, and what each family can express in a `config.json`.

use super::raw::one_of;
use crate::model_config::{Architecture, ModelConfig, RopeScaling};

/// The families with the `model_type` of Hugging Face, which is also `model.architecture`.
pub(crate) const ARCHITECTURES: &[(&str, Architecture)] = &[
    ("llama", Architecture::Llama),
    ("mistral", Architecture::Mistral),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
];

/// The `model_type` of a family.
pub(crate) fn architecture_name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Llama => "llama",
        Architecture::Mistral => "mistral",
        Architecture::Qwen2 => "qwen2",
        Architecture::Qwen3 => "qwen3",
    }
}

/// The families' names for messages.
pub(crate) fn architecture_names() -> String {
    one_of(ARCHITECTURES.iter().map(|(name, _)| *name))
}

/// Largest sizes. They keep every product of sizes far from overflow; token ids and positions fit in 31 bits.
pub(crate) mod limit {
    pub(crate) const VOCAB_SIZE: usize = i32::MAX as usize;
    pub(crate) const POSITIONS: usize = i32::MAX as usize;
    pub(crate) const HIDDEN_SIZE: usize = 1 << 20;
    pub(crate) const INTERMEDIATE_SIZE: usize = 1 << 22;
    pub(crate) const NUM_LAYERS: usize = 10_000;
    pub(crate) const NUM_HEADS: usize = 1 << 16;
    pub(crate) const HEAD_DIM: usize = 1 << 16;
}

/// The biases that a family computes for `attention_bias`: (of q, k and v; of the output projection).
pub(crate) fn attention_biases(architecture: Architecture, attention_bias: bool) -> (bool, bool) {
    match architecture {
        Architecture::Llama | Architecture::Qwen3 => (attention_bias, attention_bias),
        Architecture::Mistral => (false, false),
        Architecture::Qwen2 => (true, false),
    }
}

/// The one window of all layers that have one; `Err` with two of them if they differ.
pub(crate) fn common_window(windows: &[Option<usize>]) -> Result<Option<usize>, (usize, usize)> {
    let mut given = windows.iter().flatten();
    let Some(first) = given.next() else { return Ok(None) };
    given.find(|window| *window != first).map_or(Ok(Some(*first)), |other| Err((*first, *other)))
}

/// Relations between sizes, and options that the family does not have. Ranges of single values have been checked
/// by the reader. `name` turns our key into the one of the file at hand. The error is (key, message).
pub(crate) fn check(
    model: &ModelConfig,
    name: fn(&'static str) -> &'static str,
) -> Result<(), (&'static str, String)> {
    let ModelConfig { num_heads, num_kv_heads, head_dim, hidden_size, num_layers, .. } = *model;
    let family = architecture_name(model.architecture);
    if num_heads % num_kv_heads != 0 {
        let message = format!("{num_kv_heads} does not divide {} = {num_heads}", name("num_heads"));
        return Err(("num_kv_heads", message));
    }
    if head_dim % 2 != 0 {
        return Err((
            "head_dim",
            format!("{head_dim} is odd; rotary attention turns pairs, so it must be even"),
        ));
    }
    if model.architecture == Architecture::Llama && hidden_size % num_heads != 0 {
        let message =
            format!("{num_heads} does not divide {} = {hidden_size}, as llama needs", name("hidden_size"));
        return Err(("num_heads", message));
    }
    if let RopeScaling::Llama3 { low_freq_factor, high_freq_factor, .. } = model.rope_scaling
        && low_freq_factor >= high_freq_factor
    {
        let message = format!(
            "low_freq_factor = {low_freq_factor} must be below high_freq_factor = {high_freq_factor}"
        );
        return Err(("rope_scaling", message));
    }
    if model.windows.len() != num_layers {
        let message = format!("{} entries for {} = {num_layers}", model.windows.len(), name("num_layers"));
        return Err(("layer_types", message));
    }
    if let Err((one, other)) = common_window(&model.windows) {
        return Err((
            "sliding_window",
            format!("layers with windows {one} and {other}; only one width is possible"),
        ));
    }
    let windowed = model.windows.iter().flatten().count();
    if model.architecture == Architecture::Llama && windowed > 0 {
        return Err((
            "sliding_window",
            "llama has no sliding window; hint: mistral is llama with one".to_owned(),
        ));
    }
    if model.architecture == Architecture::Mistral && windowed != 0 && windowed != num_layers {
        let message =
            "mistral has its window in every layer or in none; hint: qwen2 and qwen3 may mix".to_owned();
        return Err(("layer_types", message));
    }
    if (model.qkv_bias, model.output_bias) != attention_biases(model.architecture, model.qkv_bias) {
        return Err(("attention_bias", format!("{family} {}", biases_of(model.architecture))));
    }
    if model.mlp_bias && model.architecture != Architecture::Llama {
        return Err(("mlp_bias", format!("{family} has no biases in its feed-forward layer")));
    }
    if model.qk_norm != (model.architecture == Architecture::Qwen3) {
        return Err((
            "architecture",
            format!("{family}: q and k norms are those of qwen3, and of no other family"),
        ));
    }
    Ok(())
}

fn biases_of(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Llama | Architecture::Qwen3 => {
            "has biases on q, k, v and the output projection, or on none"
        }
        Architecture::Mistral => "has no biases",
        Architecture::Qwen2 => "always has biases on q, k and v, and none on the output projection",
    }
}
