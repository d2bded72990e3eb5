//! `config.json` of Hugging Face transformers, read and written: Llama 2 and 3, Mistral, Qwen2, Qwen3.
//!
//! Defaults of absent keys and the meaning of each key are those of the configuration and modeling files of
//! transformers 4.57 and 5.x (<https://github.com/huggingface/transformers>). What changes the computation and is
//! not supported is refused by name; other keys are accepted and ignored.

mod fields;
mod rope;
mod write;

pub use write::{SpecialTokens, write};

use std::path::Path;

use serde_json::Value;

use crate::config::model_check::{
    self, ARCHITECTURES, architecture_name, architecture_names, attention_biases, limit,
};
use crate::files::io_error;
use crate::model_config::{Architecture, Init, ModelConfig};
use crate::{Error, Result};
use fields::Fields;

/// Reads a `config.json`, or the one in a folder.
///
/// Initialisation is the library's: `initializer_range`, residual projections not scaled. Errors are
/// [`Error::Input`] with file, key, value and what is allowed.
pub fn read(path: &Path) -> Result<ModelConfig> {
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let file = path.display().to_string();
    let bytes = std::fs::read(&path).map_err(|error| io_error("read", &path, &error))?;
    parse(&bytes, &file)
}

/// As [`read`] with the file's bytes; `file` names it in messages.
pub fn parse(bytes: &[u8], file: &str) -> Result<ModelConfig> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => model(&Fields { file, map: &map }),
        Ok(_) => Err(Error::input(format!("{file}: not a Hugging Face config: expected a JSON object"))),
        Err(error) => Err(Error::input(format!("{file}:{}: not valid JSON: {error}", error.line()))),
    }
}

fn model(fields: &Fields<'_>) -> Result<ModelConfig> {
    let name =
        fields.string("model_type")?.ok_or_else(|| fields.missing("model_type", &architecture_names()))?;
    let architecture =
        ARCHITECTURES.iter().find(|(known, _)| *known == name).map(|(_, architecture)| *architecture);
    let architecture = architecture.ok_or_else(|| fields.wrong("model_type", &architecture_names()))?;
    refuse_unsupported(fields)?;

    let required = |key: &str, largest| {
        fields.size(key, largest)?.ok_or_else(|| fields.missing(key, "a positive integer"))
    };
    let hidden_size = required("hidden_size", limit::HIDDEN_SIZE)?;
    let num_layers = required("num_hidden_layers", limit::NUM_LAYERS)?;
    let num_heads = required("num_attention_heads", limit::NUM_HEADS)?;
    let max_position_embeddings =
        fields.size("max_position_embeddings", limit::POSITIONS)?.unwrap_or(match architecture {
            Architecture::Llama => 2048,
            Architecture::Mistral => 131_072,
            Architecture::Qwen2 | Architecture::Qwen3 => 32_768,
        });
    let (rope_theta, rope_scaling) = rope::read(fields, max_position_embeddings)?;
    let (qkv_bias, output_bias) = attention_biases(architecture, attention_bias(fields, architecture)?);
    #[allow(clippy::needless_update, reason = "an option without a key here has its default")]
    let model = ModelConfig {
        architecture,
        vocab_size: required("vocab_size", limit::VOCAB_SIZE)?,
        hidden_size,
        intermediate_size: required("intermediate_size", limit::INTERMEDIATE_SIZE)?,
        num_layers,
        num_heads,
        num_kv_heads: num_kv_heads(fields, architecture, num_heads)?,
        head_dim: head_dim(fields, architecture, hidden_size, num_heads)?,
        norm_eps: fields.positive("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta,
        rope_scaling,
        max_position_embeddings,
        windows: windows(fields, architecture, num_layers)?,
        qkv_bias,
        output_bias,
        mlp_bias: fields.boolean("mlp_bias")?.unwrap_or(false),
        qk_norm: architecture == Architecture::Qwen3,
        tie_embeddings: fields.boolean("tie_word_embeddings")?.unwrap_or(false),
        init: Init { std: fields.positive("initializer_range")?.unwrap_or(0.02), depth_scaled: false },
        ..ModelConfig::default()
    };
    model_check::check(&model, hugging_face_name)
        .map_err(|(key, message)| fields.conflict(hugging_face_name(key), &message))?;
    Ok(model)
}

/// Their name of one of our keys.
fn hugging_face_name(key: &'static str) -> &'static str {
    match key {
        "architecture" => "model_type",
        "num_layers" => "num_hidden_layers",
        "num_heads" => "num_attention_heads",
        "num_kv_heads" => "num_key_value_heads",
        "rope_scaling" => "rope_parameters",
        key => key,
    }
}

/// Options of these families, or of every model of the library, that change what is computed.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<()> {
    for key in ["hidden_act", "hidden_activation"] {
        if fields.string(key)?.is_some_and(|name| name != "silu" && name != "swish") {
            return Err(fields.unsupported(key, "\"silu\""));
        }
    }
    for key in ["attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop"] {
        if fields.number(key)?.is_some_and(|rate| rate != 0.0) {
            return Err(fields.unsupported(key, "0"));
        }
    }
    for key in ["pretraining_tp", "partial_rotary_factor"] {
        if fields.number(key)?.is_some_and(|value| value != 1.0) {
            return Err(fields.unsupported(key, "1"));
        }
    }
    for key in ["use_mrope", "is_encoder_decoder", "add_cross_attention", "is_cross_attention_decoder"] {
        if fields.boolean(key)?.unwrap_or(false) {
            return Err(fields.unsupported(key, "false"));
        }
    }
    // "chunked" attention, quantised weights, other settings per layer.
    for key in
        ["quantization_config", "attention_chunk_size", "per_layer_config", "no_rope_layers", "pruned_heads"]
    {
        let is_empty = |value: &Value| match value {
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if fields.value(key).is_some_and(|value| !is_empty(value)) {
            return Err(fields.unsupported(key, "null"));
        }
    }
    Ok(())
}

fn attention_bias(fields: &Fields<'_>, architecture: Architecture) -> Result<bool> {
    let given = fields.boolean("attention_bias")?;
    match architecture {
        Architecture::Llama | Architecture::Qwen3 => Ok(given.unwrap_or(false)),
        // These families have no such key, so the library ignores it; what it asks for must be what happens.
        Architecture::Mistral if given == Some(true) => {
            Err(fields.unsupported("attention_bias", "false in mistral"))
        }
        Architecture::Qwen2 if given == Some(false) => {
            Err(fields.unsupported("attention_bias", "true in qwen2"))
        }
        Architecture::Mistral => Ok(false),
        Architecture::Qwen2 => Ok(true),
    }
}

/// Absent: the default of the family's class; null: as many as heads.
fn num_kv_heads(fields: &Fields<'_>, architecture: Architecture, num_heads: usize) -> Result<usize> {
    let absent = match architecture {
        Architecture::Llama => num_heads,
        Architecture::Mistral => 8,
        Architecture::Qwen2 | Architecture::Qwen3 => 32,
    };
    let default = if fields.map.contains_key("num_key_value_heads") { num_heads } else { absent };
    Ok(fields.size("num_key_value_heads", limit::NUM_HEADS)?.unwrap_or(default))
}

/// Absent: 128 in qwen3; null, and absent elsewhere: hidden_size / num_attention_heads.
fn head_dim(
    fields: &Fields<'_>,
    architecture: Architecture,
    hidden_size: usize,
    num_heads: usize,
) -> Result<usize> {
    if let Some(head_dim) = fields.size("head_dim", limit::HEAD_DIM)? {
        return Ok(head_dim);
    }
    if architecture == Architecture::Qwen3 && !fields.map.contains_key("head_dim") {
        return Ok(128);
    }
    if hidden_size.is_multiple_of(num_heads) {
        return Ok(hidden_size / num_heads);
    }
    let message = format!("it does not divide hidden_size = {hidden_size}; hint: give head_dim");
    Err(fields.conflict("num_attention_heads", &message))
}

/// The window of each layer. Mistral: every layer, if not null (absent: 4,096). Qwen: only with
/// `use_sliding_window`, in the layers that `layer_types` names, else from layer `max_window_layers` on.
fn windows(fields: &Fields<'_>, architecture: Architecture, num_layers: usize) -> Result<Vec<Option<usize>>> {
    let given = fields.size("sliding_window", limit::POSITIONS)?;
    let is_null = fields.map.contains_key("sliding_window") && given.is_none();
    let by_default = if is_null { None } else { Some(given.unwrap_or(4096)) };
    let types = layer_types(fields, num_layers)?;
    let windows = match architecture {
        Architecture::Llama => vec![given; num_layers],
        Architecture::Mistral => vec![by_default; num_layers],
        Architecture::Qwen2 | Architecture::Qwen3 => {
            let window =
                by_default.filter(|_| matches!(fields.boolean("use_sliding_window"), Ok(Some(true))));
            let use_window = fields.boolean("use_sliding_window")?.unwrap_or(false);
            let first = fields.count("max_window_layers")?.unwrap_or(28);
            match &types {
                Some(types) if types.contains(&true) && window.is_none() => {
                    let message = format!(
                        "sliding_attention with use_sliding_window = {use_window} and without a window is contradictory"
                    );
                    return Err(fields.conflict("layer_types", &message));
                }
                Some(types) => types.iter().map(|sliding| window.filter(|_| *sliding)).collect(),
                None => (0..num_layers).map(|layer| window.filter(|_| layer >= first)).collect(),
            }
        }
    };
    if let Some(types) = types
        && types.iter().zip(&windows).any(|(sliding, window)| *sliding != window.is_some())
    {
        let family = architecture_name(architecture);
        return Err(
            fields.conflict("layer_types", &format!("{family} takes its windows from sliding_window alone"))
        );
    }
    Ok(windows)
}

/// Whether each layer is `sliding_attention`, if the file says.
fn layer_types(fields: &Fields<'_>, num_layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(value) = fields.value("layer_types") else { return Ok(None) };
    let expected = r#""full_attention" or "sliding_attention" for each layer"#;
    let types = value.as_array().ok_or_else(|| fields.wrong("layer_types", expected))?;
    if types.len() != num_layers {
        let message = format!("{} entries for num_hidden_layers = {num_layers}", types.len());
        return Err(fields.conflict("layer_types", &message));
    }
    let sliding = types.iter().map(|name| match name.as_str() {
        // "attention" is the older name of the same.
        Some("full_attention" | "attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(fields.wrong("layer_types", expected)),
    });
    sliding.collect::<Result<Vec<bool>>>().map(Some)
}
