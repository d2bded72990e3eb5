//! Rotary parameters: `rope_theta` and `rope_scaling` (transformers 4), or `rope_parameters` (5), or both.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::write::object;
use crate::Result;
use crate::config::model_check::limit;
use crate::model_config::{ModelConfig, RopeScaling};

/// Base of the frequencies and their change.
///
/// `rope_scaling` and `rope_parameters` are the same object; a base inside goes before the one beside it. Two
/// spellings that say different things are refused, since the releases would disagree.
pub(super) fn read(fields: &Fields<'_>, max_position_embeddings: usize) -> Result<(f64, RopeScaling)> {
    let beside = fields.positive("rope_theta")?;
    let mut found: Option<(f64, RopeScaling)> = None;
    for key in ["rope_parameters", "rope_scaling"] {
        let Some(value) = fields.value(key) else { continue };
        let map = value.as_object().ok_or_else(|| fields.wrong(key, "an object or null"))?;
        if map.is_empty() {
            continue;
        }
        let inner = Fields { file: &format!("{}: {key}", fields.file), map };
        let inside = inner.positive("rope_theta")?;
        if let (Some(inside), Some(beside)) = (inside, beside)
            && inside != beside
        {
            return Err(fields
                .conflict("rope_theta", &format!("{key} has rope_theta = {inside}; they must be equal")));
        }
        let theta = inside.or(beside);
        let scaling = scaling(fields, &inner, max_position_embeddings)?;
        if let Some((other_theta, other_scaling)) = found
            && (other_scaling != scaling || theta.is_some_and(|theta| theta != other_theta))
        {
            return Err(fields.conflict(key, "it contradicts rope_parameters"));
        }
        found = found.or(Some((theta.unwrap_or(DEFAULT_THETA), scaling)));
    }
    Ok(found.unwrap_or((beside.unwrap_or(DEFAULT_THETA), RopeScaling::None)))
}

const DEFAULT_THETA: f64 = 10_000.0;

fn scaling(fields: &Fields<'_>, rope: &Fields<'_>, max_position_embeddings: usize) -> Result<RopeScaling> {
    refuse_unsupported(rope)?;
    let kind = match (rope.string("rope_type")?, rope.string("type")?) {
        (Some(new), Some(old)) if new != old => {
            return Err(rope.conflict("rope_type", &format!("type = {old:?}; they must be equal")));
        }
        (new, old) => new.or(old).unwrap_or("default"),
    };
    let key = if rope.value("rope_type").is_some() { "rope_type" } else { "type" };
    let number = |key: &str| {
        let value = rope.positive(key)?;
        value.ok_or_else(|| rope.missing(key, &format!("a positive number, as {kind:?} needs it")))
    };
    match kind {
        "default" => match rope.number("factor")? {
            Some(factor) if factor != 1.0 => {
                Err(rope.conflict("factor", "it has no effect without a rope_type"))
            }
            _ => Ok(RopeScaling::None),
        },
        "linear" => Ok(RopeScaling::Linear { factor: number("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max_position_embeddings: original_context(fields, rope)?
                .unwrap_or(max_position_embeddings),
        }),
        _ => Err(rope.unsupported(key, r#""default", "linear" and "llama3""#)),
    }
}

/// `original_max_position_embeddings`, which some files have beside the object instead of inside.
fn original_context(fields: &Fields<'_>, rope: &Fields<'_>) -> Result<Option<usize>> {
    const KEY: &str = "original_max_position_embeddings";
    match (rope.size(KEY, limit::POSITIONS)?, fields.size(KEY, limit::POSITIONS)?) {
        (Some(inside), Some(beside)) if inside != beside => {
            Err(rope.conflict(KEY, &format!("the model has {beside}; they must be equal")))
        }
        (inside, beside) => Ok(inside.or(beside)),
    }
}

fn refuse_unsupported(rope: &Fields<'_>) -> Result<()> {
    const KNOWN: [&str; 7] = [
        "rope_type",
        "type",
        "rope_theta",
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ];
    if rope.number("partial_rotary_factor")?.is_some_and(|share| share != 1.0) {
        return Err(rope.unsupported("partial_rotary_factor", "1"));
    }
    for (key, value) in rope.map {
        if value.is_object() {
            return Err(rope.conflict(key, "parameters per layer type are not supported"));
        }
        let has_type = ["rope_type", "type"].iter().any(|key| {
            // Another type is refused by its own name, which says more than one of its parameters.
            rope.value(key)
                .and_then(Value::as_str)
                .is_some_and(|kind| !["default", "linear", "llama3"].contains(&kind))
        });
        if !value.is_null() && !KNOWN.contains(&key.as_str()) && key != "partial_rotary_factor" && !has_type {
            return Err(rope.unsupported(key, &format!("the parameters {}", KNOWN.join(", "))));
        }
    }
    Ok(())
}

/// Both spellings. Releases of 4.x warn of a base inside `rope_scaling`, so it stands beside it there.
pub(super) fn write(model: &ModelConfig) -> Map<String, Value> {
    let scaling = match model.rope_scaling {
        RopeScaling::None => Map::new(),
        RopeScaling::Linear { factor } => object(json!({ "rope_type": "linear", "factor": factor })),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => object(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        })),
    };
    let mut parameters = object(json!({ "rope_type": "default", "rope_theta": model.rope_theta }));
    parameters.extend(scaling.clone());
    let scaling = if scaling.is_empty() { Value::Null } else { Value::Object(scaling) };
    object(json!({ "rope_theta": model.rope_theta, "rope_scaling": scaling, "rope_parameters": parameters }))
}
