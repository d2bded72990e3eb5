//! Refuses keys outside the vocabulary and names the nearest one.

use toml::{Table, Value};

use super::aliases::{Answer, answer};
use super::keys::{KEYS, is_key, is_section};
use super::raw::Origin;
use crate::{Error, Result};

/// The first key of `table` that is not in the vocabulary is an error.
pub(super) fn check(table: &Table, origin: &Origin) -> Result<()> {
    walk(table, "", "", origin)
}

/// `path` has `[]` where `shown` has the item's number.
fn walk(table: &Table, path: &str, shown: &str, origin: &Origin) -> Result<()> {
    let join = |path: &str, key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, value) in table {
        let (path, shown) = (join(path, key), join(shown, key));
        match value {
            _ if is_key(&path) => {}
            Value::Table(inner) if is_section(&path) => walk(inner, &path, &shown, origin)?,
            Value::Array(items) if is_section(&format!("{path}[]")) => {
                for (i, item) in items.iter().enumerate() {
                    if let Value::Table(inner) = item {
                        walk(inner, &format!("{path}[]"), &format!("{shown}[{i}]"), origin)?;
                    }
                }
            }
            // A section with a value of another type: its reader says what is expected.
            _ if is_section(&path) => {}
            _ => return Err(unknown(&path, &shown, value, origin)),
        }
    }
    Ok(())
}

fn unknown(path: &str, shown: &str, value: &Value, origin: &Origin) -> Error {
    let from = origin.of(shown);
    // A quoted key may hold anything, and the message stays one line.
    let shown = shown.escape_debug();
    let message = match (value, nearest_section(path)) {
        (Value::Table(_), Some(section)) => format!("unknown section [{shown}]; did you mean [{section}]?"),
        (Value::Table(inner), None) if answer(path).is_none() => match inner.iter().find_map(known_elsewhere)
        {
            Some((key, ours)) => {
                format!("unknown section [{shown}]; did you mean {ours} for its {}?", key.escape_debug())
            }
            None => format!("unknown section [{shown}]; {}", alternatives("")),
        },
        _ => format!("unknown key {shown}; {}", suggestion(path)),
    };
    Error::input(format!("{from}: {message}"))
}

/// A key of an unknown section that another trainer's name or our vocabulary explains.
fn known_elsewhere<'a>((key, _): (&'a String, &Value)) -> Option<(&'a str, &'static str)> {
    match answer(key) {
        Some(Answer::Key(ours)) => Some((key, ours)),
        _ => same_leaf(key).map(|ours| (key.as_str(), ours)),
    }
}

fn suggestion(path: &str) -> String {
    match answer(path) {
        Some(Answer::Key(ours)) => return format!("did you mean {ours}?"),
        Some(Answer::Derived(why)) => return why.to_owned(),
        None => {}
    }
    if let Some(near) = nearest_key(path) {
        return format!("did you mean {near}?");
    }
    alternatives(path.rsplit_once('.').map_or("", |(section, _)| section))
}

/// The only key of that name in another section.
fn same_leaf(leaf: &str) -> Option<&'static str> {
    let mut found = KEYS.iter().map(|key| key.path).filter(|key| leaf_of(key) == leaf);
    match (found.next(), found.next()) {
        (Some(key), None) => Some(key),
        _ => None,
    }
}

fn nearest_key(path: &str) -> Option<&'static str> {
    // Two thirds of the characters right: below that a suggestion is noise.
    const LEAST: f64 = 0.66;
    let (section, leaf) = path.rsplit_once('.').unwrap_or(("", path));
    let similarity = |key: &str| {
        let same_section = key.rsplit_once('.').map_or("", |(section, _)| section) == section;
        let by_leaf = strsim::normalized_damerau_levenshtein(leaf_of(key), leaf);
        let prefixed = leaf_of(key).starts_with(leaf) || leaf.starts_with(leaf_of(key));
        let by_leaf = if prefixed && leaf.len() >= 3 { by_leaf.max(LEAST) } else { by_leaf };
        // A key of the section at hand is the likelier one.
        if same_section {
            by_leaf + 0.1
        } else {
            strsim::normalized_damerau_levenshtein(key, path).max(by_leaf)
        }
    };
    if let Some(key) = same_leaf(leaf) {
        return Some(key);
    }
    let ranked = KEYS.iter().map(|key| (similarity(key.path), key.path));
    ranked.filter(|(score, _)| *score >= LEAST).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, key)| key)
}

fn nearest_section(path: &str) -> Option<&'static str> {
    let ranked = sections().map(|name| (strsim::normalized_damerau_levenshtein(name, path), name));
    ranked.filter(|(score, _)| *score >= 0.6).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// Top-level sections, each once.
fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    let names = KEYS.iter().filter_map(|key| key.path.split_once(['.', '[']).map(|(section, _)| section));
    names.filter(move |name| std::mem::replace(&mut last, name) != *name)
}

/// What is allowed at that place.
fn alternatives(section: &str) -> String {
    if section.is_empty() || !is_section(section.trim_end_matches("[]")) {
        return format!("the sections are {}", sections().collect::<Vec<_>>().join(", "));
    }
    let mut names: Vec<&str> = KEYS
        .iter()
        .filter_map(|key| key.path.strip_prefix(section)?.strip_prefix('.'))
        .map(|rest| rest.split(['.', '[']).next().unwrap_or(rest))
        .collect();
    names.dedup();
    format!("the keys of {section} are {}", names.join(", "))
}

fn leaf_of(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, leaf)| leaf)
}
