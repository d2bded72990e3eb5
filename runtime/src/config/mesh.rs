//! `[mesh]`: explicit sizes, and the ranks that there are, to the sizes of the axes.

use super::raw::Section;
use super::{Mesh, Training};
use crate::Result;
use crate::model_config::ModelConfig;

/// The ranks that a run is started on; `None` where a run file is only looked at: then sizes are taken at
/// their word, and `auto` is 1.
pub type Ranks = Option<usize>;

/// Sizes of the axes. What is `auto` takes the ranks that the others leave: `dp_shard` if it is, else
/// `dp_replicate`, else `tp`; a second one is 1.
pub(super) fn mesh(section: &Section<'_>, ranks: Ranks) -> Result<Mesh> {
    let axes = ["dp_shard", "dp_replicate", "tp"];
    let defaults = [None, Some(1), Some(1)];
    let mut sizes = [None; 3];
    for (i, key) in axes.into_iter().enumerate() {
        sizes[i] = axis(section, key, defaults[i])?;
    }
    let given: usize = sizes.iter().flatten().product();
    let auto = sizes.iter().position(Option::is_none);
    let ranks = ranks.unwrap_or(given);
    let fits = if auto.is_some() { ranks.is_multiple_of(given) } else { ranks == given };
    if !fits {
        let largest = (0..3).rev().max_by_key(|&axis| sizes[axis]).unwrap_or(0);
        let hint = if auto.is_some() { "" } else { ", or mesh.dp_shard = \"auto\"" };
        let message = format!(
            "the sizes of the mesh multiply to {given}, but the run has {ranks} rank{}; hint: --ranks {given}{hint}",
            if ranks == 1 { "" } else { "s" }
        );
        return Err(section.conflict(axes[largest], &message));
    }
    if let Some(auto) = auto {
        sizes[auto] = Some(ranks / given);
    }
    let [dp_shard, dp_replicate, tp] = sizes.map(|size| size.unwrap_or(1));
    let zero = section.integer("zero", 0..=3)?.map_or(3, |stage| stage as u8);
    Ok(Mesh { dp_replicate, dp_shard, tp, zero })
}

/// Refuses a `tp` that does not divide what it cuts, with the values that would do.
pub(super) fn check_tp(
    section: &Section<'_>,
    mesh: &Mesh,
    model: &ModelConfig,
    training: &Training,
) -> Result<()> {
    let (heads, key_heads) = (model.num_heads, model.num_kv_heads);
    let tokens = training.micro_batch * training.seq_len;
    let cuts_key_heads = |tp: usize| key_heads.is_multiple_of(tp) || tp.is_multiple_of(key_heads);
    let wrong = |tp: usize| {
        let divided = [
            ("model.num_heads", heads),
            ("model.intermediate_size", model.intermediate_size),
            ("training.micro_batch × seq_len", tokens),
        ];
        let undivided = divided.into_iter().find(|(_, extent)| !extent.is_multiple_of(tp));
        undivided.or_else(|| (!cuts_key_heads(tp)).then_some(("model.num_kv_heads", key_heads)))
    };
    let Some((name, extent)) = wrong(mesh.tp) else { return Ok(()) };
    let good: Vec<String> = (1..=heads).filter(|&tp| wrong(tp).is_none()).map(|tp| tp.to_string()).collect();
    let message = format!("it does not divide {name} = {extent}; hint: tp {} would do", good.join(", "));
    Err(section.conflict("tp", &message))
}

/// `None` for `auto`.
fn axis(section: &Section<'_>, key: &str, default: Option<usize>) -> Result<Option<usize>> {
    match section.value(key) {
        None => Ok(default),
        Some(toml::Value::String(text)) if text == "auto" => Ok(None),
        Some(toml::Value::Integer(ranks)) if (1..=1 << 20).contains(ranks) => Ok(Some(*ranks as usize)),
        Some(_) => Err(section.wrong(key, "a positive integer or \"auto\"")),
    }
}

/// `determinism.mesh_invariant`: the binary tree over micro-batches needs powers of two everywhere.
pub(super) fn mesh_invariant(
    section: &Section<'_>,
    mesh: &Mesh,
    training: &Training,
    reduces_in_f32: bool,
) -> Result<bool> {
    const KEY: &str = "mesh_invariant";
    if section.boolean(KEY)? != Some(true) {
        return Ok(false);
    }
    let leaves = training.global_batch / training.micro_batch;
    let powers = [
        ("training.global_batch / micro_batch", leaves),
        ("mesh.dp_shard", mesh.dp_shard),
        ("mesh.dp_replicate", mesh.dp_replicate),
    ];
    if let Some((name, value)) = powers.iter().find(|(_, value)| !value.is_power_of_two()) {
        let (below, above) = (value.next_power_of_two() / 2, value.next_power_of_two());
        let message = format!("{name} = {value} must be a power of two: {below} or {above}");
        return Err(section.conflict(KEY, &message));
    }
    if !reduces_in_f32 {
        return Err(section.conflict(
            KEY,
            "precision.reduce = \"bf16\" rounds where ranks meet, so the mesh shows; hint: precision.reduce = \"f32\"",
        ));
    }
    Ok(true)
}
