//! The run file's table before validation: TOML text, `--set` on top, `${VAR}` expanded.

use toml::{Table, Value};

use super::keys::alternative;
use super::raw::Origin;
use crate::{Error, Result};

/// Parses TOML; a syntax error is `FILE:LINE: message` in one line.
pub(super) fn parse_file(text: &str, file: &str) -> Result<Table> {
    text.parse::<Table>().map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
        let message = error.message().trim().replace('\n', ", ");
        Error::input(format!("{file}:{line}: not valid TOML: {message}"))
    })
}

/// Lays every `section.key=value` over `table`; returns their dotted keys.
///
/// A value parses as TOML, else it is a bare string. Setting one of two alternatives (`training.steps`)
/// removes the file's other one (`training.tokens`), which would otherwise contradict it.
pub(super) fn apply(table: &mut Table, sets: &[String]) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for set in sets {
        let (key, value) = set
            .split_once('=')
            .map(|(key, value)| (key.trim(), value))
            .filter(|(key, _)| key.split('.').all(|part| !part.is_empty()))
            .ok_or_else(|| Error::input(format!("--set {set:?}: expected section.key=value")))?;
        insert(table, key, parse_value(value))?;
        keys.push(key.to_owned());
    }
    for rival in keys.iter().filter_map(|key| alternative(key)) {
        if !keys.iter().any(|key| key == rival) {
            remove(table, rival);
        }
    }
    Ok(keys)
}

fn parse_value(text: &str) -> Value {
    // A line break could smuggle in further keys, so the one value must be all there is.
    let parsed = format!("value = {text}").parse::<Table>().ok().filter(|table| table.len() == 1);
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

fn insert(table: &mut Table, dotted: &str, value: Value) -> Result<()> {
    let (parents, key) =
        dotted.rsplit_once('.').map_or((None, dotted), |(parents, key)| (Some(parents), key));
    let mut table = table;
    for part in parents.iter().flat_map(|parents| parents.split('.')) {
        table = match table.entry(part).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(table) => table,
            other => {
                let kind = other.type_str();
                return Err(Error::input(format!(
                    "--set {}: {part} is of type {kind}, not a table; hint: set {part} as a whole",
                    dotted.escape_debug()
                )));
            }
        };
    }
    table.insert(key.to_owned(), value);
    Ok(())
}

fn remove(table: &mut Table, dotted: &str) {
    if let Some((section, key)) = dotted.split_once('.')
        && let Some(Value::Table(section)) = table.get_mut(section)
    {
        section.remove(key);
    }
}

/// Replaces `${VAR}` in every string, once: what a variable holds is not expanded again. `$${` stands for `${`.
pub(super) fn expand(
    table: &mut Table,
    origin: &Origin,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<()> {
    for (key, value) in table.iter_mut() {
        expand_value(value, key, origin, environment)?;
    }
    Ok(())
}

fn expand_value(
    value: &mut Value,
    path: &str,
    origin: &Origin,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<()> {
    match value {
        Value::String(text) if text.contains("${") => {
            *text = expand_text(text, environment)
                .map_err(|what| Error::input(format!("{}: {path} = {text:?}: {what}", origin.of(path))))?;
        }
        Value::Table(table) => {
            for (key, value) in table.iter_mut() {
                expand_value(value, &format!("{path}.{key}"), origin, environment)?;
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter_mut().enumerate() {
                expand_value(value, &format!("{path}[{i}]"), origin, environment)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn expand_text(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let end =
                after.find('}').ok_or("\"${\" without \"}\"; hint: write \"$${\" for the characters")?;
            let name = &after[..end];
            let value =
                environment(name).ok_or_else(|| format!("environment variable {name:?} is not set"))?;
            out.push_str(&value);
            rest = &after[end + 1..];
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The spelling that [`expand`] turns back into `text`.
pub(super) fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "A" => Some("a".into()),
            "NESTED" => Some("${A}".into()),
            _ => None,
        }
    }

    #[test]
    fn variables_expand_once() {
        let expand = |text| expand_text(text, &environment);
        assert_eq!(expand("x/${A}/${A}$y$"), Ok("x/a/a$y$".into()));
        assert_eq!(expand("${NESTED}"), Ok("${A}".into()));
        assert!(expand("${MISSING}").unwrap_err().contains("MISSING"));
        assert!(expand("${A").is_err());
    }

    #[test]
    fn escape_is_undone_by_expansion() {
        for text in ["${A}", "$${A}", "$$${", "plain $", "${"] {
            assert_eq!(expand_text(&escape(text), &environment), Ok(text.to_owned()), "{text}");
        }
    }

    #[test]
    fn set_values_are_toml_or_bare_strings() {
        assert_eq!(parse_value("3"), Value::Integer(3));
        assert_eq!(parse_value("[1, 2]").as_array().map(Vec::len), Some(2));
        assert_eq!(parse_value("abc def"), Value::String("abc def".into()));
        assert_eq!(parse_value(""), Value::String(String::new()));
        assert_eq!(parse_value("1\nother = 2"), Value::String("1\nother = 2".into()));
    }
}
