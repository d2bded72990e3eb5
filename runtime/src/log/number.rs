//! Floating-point numbers in JSON, which has no NaN and no infinity: finite values as the shortest number
//! that reads back exactly, the others as the strings `"NaN"`, `"inf"`, `"-inf"`.
//!
//! For serde: `#[serde(with = "number")]`, and `#[serde(with = "number::option")]` with null for `None`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// `f32` and `f64`.
pub trait Real: Serialize + Copy + Into<f64> {
    /// Rounds to this type.
    fn from_f64(value: f64) -> Self;
}

impl Real for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }
}

impl Real for f32 {
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

/// Writes a number or one of the three strings.
///
/// # Errors
/// The serializer's.
pub fn serialize<T: Real, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let wide: f64 = (*value).into();
    if wide.is_finite() {
        value.serialize(serializer)
    } else if wide.is_nan() {
        serializer.serialize_str("NaN")
    } else {
        serializer.serialize_str(if wide > 0.0 { "inf" } else { "-inf" })
    }
}

/// Reads what [`serialize`] wrote.
///
/// # Errors
/// If it is neither a number nor one of the three strings.
pub fn deserialize<'de, T: Real, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(RealVisitor(PhantomData))
}

struct RealVisitor<T>(PhantomData<T>);

impl<T: Real> Visitor<'_> for RealVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, \"NaN\", \"inf\" or \"-inf\"")
    }

    fn visit_f64<E>(self, value: f64) -> Result<T, E> {
        Ok(T::from_f64(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<T, E> {
        Ok(T::from_f64(value as f64))
    }

    fn visit_i64<E>(self, value: i64) -> Result<T, E> {
        Ok(T::from_f64(value as f64))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        match text {
            "NaN" => Ok(T::from_f64(f64::NAN)),
            "inf" => Ok(T::from_f64(f64::INFINITY)),
            "-inf" => Ok(T::from_f64(f64::NEG_INFINITY)),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }
}

/// The same for `Option`, with null for `None`.
pub mod option {
    use serde::de::{Deserialize, Deserializer};
    use serde::{Serialize, Serializer};

    use super::Real;

    struct Wrapped<T>(T);

    impl<T: Real> Serialize for Wrapped<T> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            super::serialize(&self.0, serializer)
        }
    }

    impl<'de, T: Real> Deserialize<'de> for Wrapped<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            super::deserialize(deserializer).map(Wrapped)
        }
    }

    /// Writes a number, one of the three strings, or null.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: Real, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Wrapped).serialize(serializer)
    }

    /// Reads what [`serialize`] wrote.
    ///
    /// # Errors
    /// As [`super::deserialize`].
    pub fn deserialize<'de, T: Real, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        Option::<Wrapped<T>>::deserialize(deserializer).map(|value| value.map(|Wrapped(value)| value))
    }
}
