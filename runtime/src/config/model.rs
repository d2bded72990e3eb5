//! `[model]`: a preset or a Hugging Face `config.json`, overridden by keys, or keys alone.

use std::path::Path;

use super::model_check::{self, ARCHITECTURES, attention_biases, limit};
use super::presets;
use super::raw::{Bound, Section, one_of};
use super::sections::Prepare;
use crate::model_config::{Architecture, Init, ModelConfig, RopeScaling};
use crate::{Result, hf_config};

/// Reads the section. `prepare` gives the vocabulary where no key does, `seq_len` the declared context.
pub(super) fn model(section: &Section<'_>, prepare: Option<&Prepare>, seq_len: usize) -> Result<ModelConfig> {
    let base = base(section)?;
    let base = base.as_ref();
    // The key, else the preset's value, else an error: the four sizes that nothing can be derived from.
    let required = |key: &str, largest: usize, of_base: fn(&ModelConfig) -> usize| {
        let expected = "a positive integer; hint: or give model.preset or model.hf_config";
        let value = section.size(key, 1..=largest)?.or(base.map(of_base));
        value.ok_or_else(|| section.missing(key, expected))
    };

    let architecture = section.choice("architecture", ARCHITECTURES)?;
    let architecture = architecture.or(base.map(|base| base.architecture)).unwrap_or(Architecture::Llama);
    let hidden_size = required("hidden_size", limit::HIDDEN_SIZE, |base| base.hidden_size)?;
    let intermediate_size =
        required("intermediate_size", limit::INTERMEDIATE_SIZE, |base| base.intermediate_size)?;
    let num_layers = required("num_layers", limit::NUM_LAYERS, |base| base.num_layers)?;
    let num_heads = required("num_heads", limit::NUM_HEADS, |base| base.num_heads)?;
    let num_kv_heads = section.size("num_kv_heads", 1..=limit::NUM_HEADS)?;
    let max_position_embeddings = section.size("max_position_embeddings", 1..=limit::POSITIONS)?;

    // What the family decides is taken from the base only if the base is of that family.
    let relative = base.filter(|base| base.architecture == architecture);
    let attention_bias = match section.boolean("attention_bias")? {
        Some(bias) => bias,
        None => relative.map_or(architecture == Architecture::Qwen2, |base| base.qkv_bias),
    };
    if attention_bias != attention_biases(architecture, attention_bias).0 {
        let family = model_check::architecture_name(architecture);
        let has = if attention_bias { "has no" } else { "always has" };
        return Err(section.conflict("attention_bias", &format!("{family} {has} biases on q, k and v")));
    }
    let (qkv_bias, output_bias) = attention_biases(architecture, attention_bias);

    #[allow(clippy::needless_update, reason = "an option without a key is that of the base")]
    let model = ModelConfig {
        architecture,
        vocab_size: vocab_size(section, base, prepare)?,
        hidden_size,
        intermediate_size,
        num_layers,
        num_heads,
        num_kv_heads: num_kv_heads.or(base.map(|base| base.num_kv_heads)).unwrap_or(num_heads),
        head_dim: head_dim(section, base, hidden_size, num_heads)?,
        norm_eps: section
            .number("norm_eps", Bound::Positive)?
            .or(base.map(|base| base.norm_eps))
            .unwrap_or(1e-5),
        rope_theta: section
            .number("rope_theta", Bound::Positive)?
            .or(base.map(|base| base.rope_theta))
            .unwrap_or(10_000.0),
        rope_scaling: match section.given("rope_scaling") {
            true => rope_scaling(&section.sub("rope_scaling")?)?,
            false => base.map_or(RopeScaling::None, |base| base.rope_scaling),
        },
        max_position_embeddings: max_position_embeddings
            .or(base.map(|base| base.max_position_embeddings))
            .unwrap_or(seq_len),
        windows: windows(section, relative, num_layers)?,
        qkv_bias,
        output_bias,
        mlp_bias: section.boolean("mlp_bias")?.unwrap_or(relative.is_some_and(|base| base.mlp_bias)),
        qk_norm: architecture == Architecture::Qwen3,
        tie_embeddings: section
            .boolean("tie_embeddings")?
            .unwrap_or(base.is_some_and(|base| base.tie_embeddings)),
        init: init(&section.sub("init")?, base)?,
        ..base.cloned().unwrap_or_default()
    };
    model_check::check(&model, |key| key).map_err(|(key, message)| section.conflict(key, &message))?;
    Ok(model)
}

fn base(section: &Section<'_>) -> Result<Option<ModelConfig>> {
    match (section.string("preset")?, section.string("hf_config")?) {
        (Some(_), Some(_)) => {
            Err(section.conflict("preset", "model.hf_config is given too; keep one of them"))
        }
        (None, None) => Ok(None),
        (None, Some(path)) => hf_config::read(Path::new(path)).map(Some),
        (Some(name), None) => match presets::preset(name) {
            Some(model) => Ok(Some(model)),
            None => Err(section.wrong("preset", &one_of(presets::NAMES.iter().copied()))),
        },
    }
}

fn vocab_size(section: &Section<'_>, base: Option<&ModelConfig>, prepare: Option<&Prepare>) -> Result<usize> {
    let given = section.size("vocab_size", 1..=limit::VOCAB_SIZE)?.or(base.map(|base| base.vocab_size));
    match (given, prepare) {
        (Some(size), Some(prepare)) if prepare.vocab_size > size => {
            let message = format!(
                "data.prepare.vocab_size = {} does not fit into a vocabulary of {size}",
                prepare.vocab_size
            );
            Err(section.conflict("vocab_size", &message))
        }
        (Some(size), _) => Ok(size),
        (None, Some(prepare)) => Ok(prepare.vocab_size),
        (None, None) => Err(section.missing("vocab_size", "a positive integer (the tokenizer's entries)")),
    }
}

fn head_dim(
    section: &Section<'_>,
    base: Option<&ModelConfig>,
    hidden_size: usize,
    num_heads: usize,
) -> Result<usize> {
    let given = section.size("head_dim", 1..=limit::HEAD_DIM)?.or(base.map(|base| base.head_dim));
    match given {
        Some(head_dim) => Ok(head_dim),
        None if hidden_size.is_multiple_of(num_heads) => Ok(hidden_size / num_heads),
        None => {
            let message =
                format!("it does not divide model.hidden_size = {hidden_size}; hint: or give model.head_dim");
            Err(section.conflict("num_heads", &message))
        }
    }
}

fn rope_scaling(section: &Section<'_>) -> Result<RopeScaling> {
    let kind = section.required_string("type", r#""none", "linear" or "llama3""#)?;
    let number = |key: &str| {
        let value = section.number(key, Bound::Positive)?;
        value.ok_or_else(|| section.missing(key, &format!("a positive number, as type = {kind:?} needs it")))
    };
    let llama3_keys = ["low_freq_factor", "high_freq_factor", "original_max_position_embeddings"];
    let (scaling, foreign): (RopeScaling, &[&str]) = match kind {
        "none" => (RopeScaling::None, &["factor", llama3_keys[0], llama3_keys[1], llama3_keys[2]]),
        "linear" => (RopeScaling::Linear { factor: number("factor")? }, &llama3_keys),
        "llama3" => {
            let original = section.size("original_max_position_embeddings", 1..=limit::POSITIONS)?;
            let expected = "a positive integer, as type = \"llama3\" needs it";
            let scaling = RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: original
                    .ok_or_else(|| section.missing("original_max_position_embeddings", expected))?,
            };
            (scaling, &[])
        }
        _ => return Err(section.wrong("type", r#""none", "linear" or "llama3""#)),
    };
    match foreign.iter().find(|key| section.given(key)) {
        Some(key) => Err(section.conflict(key, &format!("type = {kind:?} has no such parameter"))),
        None => Ok(scaling),
    }
}

fn windows(
    section: &Section<'_>,
    base: Option<&ModelConfig>,
    num_layers: usize,
) -> Result<Vec<Option<usize>>> {
    let window = section.size("sliding_window", 0..=limit::POSITIONS)?;
    let of_base = base.map_or(&[][..], |base| &base.windows);
    if section.given("layer_types") {
        let base_window = of_base.iter().flatten().next().copied();
        return layer_windows(section, window.or(base_window).unwrap_or(0), num_layers);
    }
    let mixed = of_base.iter().any(|window| window.is_some() != of_base[0].is_some());
    match window {
        Some(0) => Ok(vec![None; num_layers]),
        Some(window) if !mixed => Ok(vec![Some(window); num_layers]),
        Some(window) if of_base.len() == num_layers => {
            Ok(of_base.iter().map(|of_layer| of_layer.map(|_| window)).collect())
        }
        None if of_base.len() == num_layers => Ok(of_base.to_vec()),
        None if !mixed => Ok(vec![of_base.first().copied().flatten(); num_layers]),
        _ => Err(section.conflict(
            "num_layers",
            &format!(
                "the base model has windows in some of its {} layers; hint: give model.layer_types",
                of_base.len()
            ),
        )),
    }
}

/// `layer_types` with the window of those that slide.
fn layer_windows(section: &Section<'_>, window: usize, num_layers: usize) -> Result<Vec<Option<usize>>> {
    let types = section.strings("layer_types")?;
    if types.len() != num_layers {
        let message = format!("{} entries for model.num_layers = {num_layers}", types.len());
        return Err(section.conflict("layer_types", &message));
    }
    let windows = types.iter().map(|name| match name.as_str() {
        "full_attention" => Ok(None),
        "sliding_attention" if window > 0 => Ok(Some(window)),
        "sliding_attention" => {
            Err(section.conflict("layer_types", "sliding_attention needs model.sliding_window > 0"))
        }
        _ => Err(section.wrong("layer_types", r#""full_attention" or "sliding_attention" for each layer"#)),
    });
    let windows: Vec<Option<usize>> = windows.collect::<Result<_>>()?;
    if section.given("sliding_window") && window > 0 && windows.iter().all(Option::is_none) {
        return Err(section.conflict("sliding_window", "no layer of model.layer_types is sliding_attention"));
    }
    Ok(windows)
}

fn init(section: &Section<'_>, base: Option<&ModelConfig>) -> Result<Init> {
    let default = base.map_or(Init { std: 0.02, depth_scaled: true }, |base| base.init);
    let residual = section.choice("residual", &[("depth_scaled", true), ("plain", false)])?;
    Ok(Init {
        std: section.number("std", Bound::Positive)?.unwrap_or(default.std),
        depth_scaled: residual.unwrap_or(default.depth_scaled),
    })
}
