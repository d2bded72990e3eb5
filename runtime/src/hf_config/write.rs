//! A model as a `config.json`.

use serde_json::{Map, Value, json};
use tisserand_kernels::DType;

use super::rope;
use crate::config::model_check::{self, architecture_name, common_window};
use crate::model_config::{Architecture, ModelConfig};
use crate::{Error, Result};

/// Token ids that generation needs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SpecialTokens {
    /// Begin of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
}

/// The `config.json` that transformers 4 and 5 load to this model, for weights stored as `dtype`.
///
/// Both spellings of the rotary parameters and of the dtype are written, since each release reads one of them.
/// How weights are initialised is kept only as `initializer_range`. A model that the family cannot express, which
/// neither [`read`](super::read) nor a run file makes, is an [`Error::Fault`].
pub fn write(model: &ModelConfig, dtype: DType, special: SpecialTokens) -> Result<Value> {
    let family = architecture_name(model.architecture);
    model_check::check(model, |key| key).map_err(|(key, message)| {
        Error::fault(format!("config.json of a {family} model: {key}: {message}"))
    })?;
    let dtype = match dtype {
        DType::F32 => "float32",
        DType::Bf16 => "bfloat16",
        other => return Err(Error::fault(format!("config.json: weights cannot be stored as {other}"))),
    };
    let class = match model.architecture {
        Architecture::Llama => "LlamaForCausalLM",
        Architecture::Mistral => "MistralForCausalLM",
        Architecture::Qwen2 => "Qwen2ForCausalLM",
        Architecture::Qwen3 => "Qwen3ForCausalLM",
    };
    let mut map = object(json!({
        "architectures": [class],
        "model_type": family,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "max_position_embeddings": model.max_position_embeddings,
        "initializer_range": model.init.std,
        "tie_word_embeddings": model.tie_embeddings,
        "attention_dropout": 0.0,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "use_cache": true,
        "dtype": dtype,
        "torch_dtype": dtype,
    }));
    map.extend(rope::write(model));
    map.extend(family_keys(model));
    Ok(Value::Object(map))
}

/// Keys that only some families have.
fn family_keys(model: &ModelConfig) -> Map<String, Value> {
    let window = common_window(&model.windows).ok().flatten();
    let qwen = || {
        let layer_type =
            |window: &Option<usize>| if window.is_some() { "sliding_attention" } else { "full_attention" };
        let first = model.windows.iter().position(Option::is_some).unwrap_or(model.num_layers);
        object(json!({
            "use_sliding_window": window.is_some(),
            "sliding_window": window,
            "max_window_layers": first,
            "layer_types": model.windows.iter().map(layer_type).collect::<Vec<_>>(),
        }))
    };
    match model.architecture {
        Architecture::Llama => object(
            json!({ "attention_bias": model.qkv_bias, "mlp_bias": model.mlp_bias, "pretraining_tp": 1 }),
        ),
        Architecture::Mistral => object(json!({ "sliding_window": window })),
        Architecture::Qwen2 => qwen(),
        Architecture::Qwen3 => {
            let mut map = qwen();
            map.insert("attention_bias".to_owned(), Value::Bool(model.qkv_bias));
            map
        }
    }
}

/// The fields of `json!({ .. })`.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
