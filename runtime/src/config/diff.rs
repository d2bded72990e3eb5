//! What changed in a run file since the run began, and whether the run may go on with it.

use toml::Value;

use super::Config;
use super::keys::{KEYS, alternative, change_kind};
use super::write::sections;
use crate::{Error, Result};

/// Whether a key may change when a run continues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    /// Speed, place, cadence and reports: the training is mathematically the same.
    Free,
    /// What is trained, on what, and how: a change is another run, unless `--allow-change KEY` says otherwise.
    Identity,
}

/// One key that differs.
#[derive(Clone, PartialEq, Debug)]
pub struct Difference {
    /// Dotted key; arrays and inline tables are compared as a whole.
    pub key: String,
    /// Old value as in `resolved.toml`; empty if the key was absent.
    pub old: String,
    /// New value.
    pub new: String,
    /// Whether it may change.
    pub kind: ChangeKind,
}

/// Every key of `resolved.toml` that differs between two configs, in the order of the vocabulary.
///
/// `training.steps` and the schedule are [`ChangeKind::Identity`]: a longer run is another learning-rate curve.
/// To lengthen a wsd run before its decay is legitimate, and then said with `--allow-change`.
pub fn diff(old: &Config, new: &Config) -> Vec<Difference> {
    let (old, new) = (flatten(old), flatten(new));
    let lookup = |list: &[(String, Value)], key: &str| {
        list.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone())
    };
    let only_old = old.iter().filter(|(key, _)| lookup(&new, key).is_none());
    let keys = new.iter().chain(only_old).map(|(key, _)| key);
    let shown = |value: Option<Value>| value.map_or_else(String::new, |value| value.to_string());
    keys.filter_map(|key| {
        let (old, new) = (lookup(&old, key), lookup(&new, key));
        (old != new).then(|| Difference {
            key: key.clone(),
            old: shown(old),
            new: shown(new),
            kind: change_kind(key),
        })
    })
    .collect()
}

fn flatten(config: &Config) -> Vec<(String, Value)> {
    let sections = sections(config).into_iter();
    sections
        .flat_map(|section| {
            section.entries.into_iter().map(move |(key, value)| (format!("{}.{key}", section.name), value))
        })
        .collect()
}

/// Refuses differences of kind [`ChangeKind::Identity`] whose key is not in `allow_change`.
///
/// A key may be allowed by its alternative (`training.tokens` for `training.steps`). A key of `allow_change` that
/// is no key is an error, since it allows nothing.
pub fn refuse_changes(differences: &[Difference], allow_change: &[String]) -> Result<()> {
    for key in allow_change {
        let known = |path: &str| {
            path == key || path.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        if !key.contains('.') || !KEYS.iter().any(|entry| known(entry.path)) {
            return Err(Error::input(format!(
                "--allow-change {key}: not a key of the run file; hint: section.key"
            )));
        }
    }
    let allowed = |key: &str| {
        allow_change.iter().any(|allowed| allowed == key || alternative(key) == Some(allowed.as_str()))
    };
    let refused: Vec<&Difference> = differences
        .iter()
        .filter(|difference| difference.kind == ChangeKind::Identity && !allowed(&difference.key))
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    let changes: Vec<String> = refused
        .iter()
        .map(|d| format!("{} from {} to {}", d.key, or_none(&d.old), or_none(&d.new)))
        .collect();
    let flags: Vec<String> = refused.iter().map(|d| format!("--allow-change {}", d.key)).collect();
    Err(Error::input(format!(
        "the run file changes what this run trains: {}; hint: another run.dir for another run, or {}",
        changes.join(", "),
        flags.join(" ")
    )))
}

fn or_none(value: &str) -> &str {
    if value.is_empty() { "(absent)" } else { value }
}
