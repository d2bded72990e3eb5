//! Typed access to one table of the run file. Every refusal is made here, so all of them look alike:
//! `FILE: section.key = VALUE (type), expected WHAT`.

use std::ops::RangeInclusive;

use toml::{Table, Value};

use crate::{Error, Result};

/// Where values come from, for messages.
pub(super) struct Origin {
    /// The run file as the user named it.
    pub(super) file: String,
    /// Dotted keys given by `--set`.
    pub(super) sets: Vec<String>,
}

impl Origin {
    /// The source of the value at a dotted path: the file, or `--set`.
    pub(super) fn of(&self, path: &str) -> &str {
        let from_set = self.sets.iter().any(|set| is_inside(path, set) || is_inside(set, path));
        if from_set { "--set" } else { &self.file }
    }
}

/// Whether `path` is `outer` or lies below it: `data.sources[1].weight` is inside `data.sources`.
fn is_inside(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// What a number must satisfy beyond being finite, and neither overflowing nor vanishing in f32.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    Positive,
    NonNegative,
    /// 0 ≤ x ≤ 1.
    Fraction,
    /// 0 ≤ x < 1.
    BelowOne,
}

impl Bound {
    fn admits(self, x: f64) -> bool {
        match self {
            Bound::Positive => x > 0.0,
            Bound::NonNegative => x >= 0.0,
            Bound::Fraction => (0.0..=1.0).contains(&x),
            Bound::BelowOne => (0.0..1.0).contains(&x),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Bound::Positive => "a positive number",
            Bound::NonNegative => "a number of at least 0",
            Bound::Fraction => "a number from 0 to 1",
            Bound::BelowOne => "a number of at least 0 and below 1",
        }
    }
}

/// One table of the run file, absent tables included: then every key is absent.
pub(super) struct Section<'a> {
    origin: &'a Origin,
    path: String,
    table: Option<&'a Table>,
}

impl<'a> Section<'a> {
    pub(super) fn root(origin: &'a Origin, table: &'a Table) -> Self {
        Section { origin, path: String::new(), table: Some(table) }
    }

    /// The run file's name.
    pub(super) fn file(&self) -> &'a str {
        &self.origin.file
    }

    /// The dotted path of one of this section's keys; with an empty key, of the section.
    pub(super) fn key(&self, key: &str) -> String {
        match (self.path.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (_, true) => self.path.clone(),
            _ => format!("{}.{key}", self.path),
        }
    }

    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.table.and_then(|table| table.get(key))
    }

    pub(super) fn given(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// Whether the section itself is written.
    pub(super) fn is_written(&self) -> bool {
        self.table.is_some()
    }

    /// `key = VALUE`, for messages about more than one key.
    pub(super) fn shown(&self, key: &str) -> String {
        match self.value(key) {
            Some(value) => format!("{} = {}", self.key(key), shorten(value)),
            None => self.key(key),
        }
    }

    /// A table inside this one.
    pub(super) fn sub(&self, key: &str) -> Result<Section<'a>> {
        let table = match self.value(key) {
            None => None,
            Some(Value::Table(table)) => Some(table),
            Some(_) => return Err(self.wrong_type(key, &format!("a table, as in [{}]", self.key(key)))),
        };
        Ok(Section { origin: self.origin, path: self.key(key), table })
    }

    /// An array of tables; empty when absent.
    pub(super) fn tables(&self, key: &str) -> Result<Vec<Section<'a>>> {
        let expected = "an array of tables, as in [{ ... }, { ... }]";
        let tables = self.array(key, expected)?.iter().enumerate().map(|(i, item)| match item {
            Value::Table(table) => Ok(Section {
                origin: self.origin,
                path: format!("{}[{i}]", self.key(key)),
                table: Some(table),
            }),
            _ => Err(self.wrong(key, expected)),
        });
        tables.collect()
    }

    /// An array; empty when absent.
    pub(super) fn array(&self, key: &str, expected: &str) -> Result<&'a [Value]> {
        match self.value(key) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.wrong_type(key, expected)),
        }
    }

    /// An array of non-empty strings; empty when absent.
    pub(super) fn strings(&self, key: &str) -> Result<Vec<String>> {
        let expected = "an array of non-empty strings";
        let items = self.array(key, expected)?.iter();
        items
            .map(|item| match item.as_str() {
                Some(text) if !text.is_empty() => Ok(text.to_owned()),
                _ => Err(self.wrong(key, expected)),
            })
            .collect()
    }

    /// A string; `None` when absent or empty.
    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.contains('\0') => {
                Err(self.wrong(key, "a string without NUL characters"))
            }
            Some(Value::String(text)) => Ok((!text.is_empty()).then_some(text.as_str())),
            Some(_) if self.origin.of(&self.key(key)) == "--set" => {
                Err(self.wrong_type(key, &format!("a string; hint: --set '{}=\"...\"'", self.key(key))))
            }
            Some(_) => Err(self.wrong_type(key, "a string")),
        }
    }

    /// A string that must be there and not empty.
    pub(super) fn required_string(&self, key: &str, expected: &str) -> Result<&'a str> {
        match self.string(key)? {
            Some(text) => Ok(text),
            None if self.given(key) => Err(self.wrong(key, expected)),
            None => Err(self.missing(key, expected)),
        }
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Boolean(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong_type(key, "true or false")),
        }
    }

    /// An integer in `range`.
    pub(super) fn integer(&self, key: &str, range: RangeInclusive<u64>) -> Result<Option<u64>> {
        let (low, high) = (*range.start(), *range.end());
        let kind = if low == 0 { "an integer of at least 0" } else { "a positive integer" };
        match self.value(key) {
            None => Ok(None),
            Some(Value::Integer(value)) => match u64::try_from(*value) {
                Ok(value) if range.contains(&value) => Ok(Some(value)),
                Ok(value) if value > high || low > 1 => {
                    Err(self.wrong(key, &format!("an integer from {low} to {high}")))
                }
                _ => Err(self.wrong(key, kind)),
            },
            Some(Value::Float(value)) if value.fract() == 0.0 && value.abs() < 9e15 => {
                Err(self.wrong_type(key, &format!("{kind}; hint: write {value:.0}")))
            }
            Some(_) => Err(self.wrong_type(key, kind)),
        }
    }

    /// [`Section::integer`] as `usize`.
    pub(super) fn size(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let range = *range.start() as u64..=*range.end() as u64;
        Ok(self.integer(key, range)?.map(|value| value as usize))
    }

    /// A finite number within `bound`.
    pub(super) fn number(&self, key: &str, bound: Bound) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match as_number(value, bound) {
            Some(x) => Ok(Some(x)),
            None if value.is_integer() || value.is_float() => Err(self.wrong(key, bound.name())),
            None => Err(self.wrong_type(key, bound.name())),
        }
    }

    /// Two numbers within `bound`.
    pub(super) fn pair(&self, key: &str, bound: Bound) -> Result<Option<[f64; 2]>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let numbers = value
            .as_array()
            .filter(|items| items.len() == 2)
            .and_then(|items| Some([as_number(&items[0], bound)?, as_number(&items[1], bound)?]));
        match numbers {
            Some(numbers) => Ok(Some(numbers)),
            None => Err(self.wrong(key, &format!("two numbers, each {}", bound.name()))),
        }
    }

    /// One of the named options.
    pub(super) fn choice<T: Copy>(&self, key: &str, options: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let names = || one_of(options.iter().map(|(name, _)| *name));
        let text = value.as_str().ok_or_else(|| self.wrong_type(key, &names()))?;
        let option = options.iter().find(|(name, _)| *name == text);
        option.map(|(_, option)| Some(*option)).ok_or_else(|| self.wrong(key, &names()))
    }

    /// A value of the right type that is not allowed.
    pub(super) fn wrong(&self, key: &str, expected: &str) -> Error {
        Error::input(format!("{}: {}, expected {expected}", self.origin.of(&self.key(key)), self.shown(key)))
    }

    /// A value of another type; the message names both.
    fn wrong_type(&self, key: &str, expected: &str) -> Error {
        let kind = self.value(key).map_or("absent", Value::type_str);
        let origin = self.origin.of(&self.key(key));
        Error::input(format!("{origin}: {} ({kind}), expected {expected}", self.shown(key)))
    }

    /// A value that contradicts something else.
    pub(super) fn conflict(&self, key: &str, message: &str) -> Error {
        Error::input(format!("{}: {}: {message}", self.origin.of(&self.key(key)), self.shown(key)))
    }

    /// A key that must be there.
    pub(super) fn missing(&self, key: &str, expected: &str) -> Error {
        Error::input(format!("{}: {} is missing, expected {expected}", self.file(), self.key(key)))
    }

    /// A key of the vocabulary whose value this version does not implement.
    pub(super) fn not_yet(&self, key: &str, available: &str) -> Error {
        let path = self.key(key);
        Error::input(format!("{}: not yet: {} ({available})", self.origin.of(&path), self.shown(key)))
    }
}

/// A finite number within `bound` that f32 can hold: kernels compute with it in f32.
fn as_number(value: &Value, bound: Bound) -> Option<f64> {
    let x = match value {
        Value::Integer(value) => *value as f64,
        Value::Float(value) => *value,
        _ => return None,
    };
    let narrow = x as f32;
    (bound.admits(x) && narrow.is_finite() && (narrow != 0.0 || x == 0.0)).then_some(x)
}

/// `"a", "b" or "c"`.
pub(crate) fn one_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

/// A value as one short line of TOML.
fn shorten(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string().replace(['\n', '\r'], " ");
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).chain("...".chars()).collect()
}
