//! Typed access to one JSON object of a `config.json`; null counts as absent.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The object and the file's name for messages.
pub(super) struct Fields<'a> {
    pub(super) file: &'a str,
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The value, if there is one that is not null.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// A positive number that neither overflows nor vanishes in f32.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>> {
        let positive = |x: &f64| *x as f32 > 0.0 && (*x as f32).is_finite();
        self.typed(key, "a positive number", |value| value.as_f64().filter(positive))
    }

    /// An integer of at least 0.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>> {
        let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok());
        self.typed(key, "an integer of at least 0", count)
    }

    /// An integer from 1 to `largest`.
    pub(super) fn size(&self, key: &str, largest: usize) -> Result<Option<usize>> {
        match self.typed(key, "a positive integer", |value| value.as_u64().filter(|size| *size > 0))? {
            Some(size) if size > largest as u64 => {
                Err(self.wrong(key, &format!("an integer from 1 to {largest}")))
            }
            size => Ok(size.map(|size| size as usize)),
        }
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.value(key).map(|value| read(value).ok_or_else(|| self.wrong(key, expected))).transpose()
    }

    /// `key = value`.
    fn shown(&self, key: &str) -> String {
        const LONGEST: usize = 80;
        let Some(value) = self.map.get(key) else { return key.to_owned() };
        let key = key.escape_debug();
        let text = value.to_string();
        match text.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{key} = {}...", &text[..end]),
            None => format!("{key} = {text}"),
        }
    }

    pub(super) fn wrong(&self, key: &str, expected: &str) -> Error {
        Error::input(format!("{}: {}, expected {expected}", self.file, self.shown(key)))
    }

    pub(super) fn missing(&self, key: &str, expected: &str) -> Error {
        Error::input(format!("{}: {key} is missing, expected {expected}", self.file))
    }

    pub(super) fn unsupported(&self, key: &str, supported: &str) -> Error {
        Error::input(format!("{}: {} is not supported, only {supported}", self.file, self.shown(key)))
    }

    pub(super) fn conflict(&self, key: &str, message: &str) -> Error {
        Error::input(format!("{}: {}: {message}", self.file, self.shown(key)))
    }
}
