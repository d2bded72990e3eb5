//! `trainer.json`: what a run must remember beside its tensors. Read back exactly, to the last bit.

use serde::{Deserialize, Serialize};

use crate::log::SpikeScore;
use crate::{Error, Result};

/// Counters and statistics of a run after `step` steps.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Sequences consumed: the whole state of the data order.
    pub consumed_samples: u64,
    /// Tokens consumed.
    pub consumed_tokens: u64,
    /// Updates that the optimizer made; the exponent of Adam's bias corrections.
    pub num_updates: u64,
    /// Steps skipped for non-finite values, since the start.
    pub skipped_total: u64,
    /// The same, without a good step since.
    pub skipped_in_row: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Statistics behind the z-scores of loss and gradient norm.
    pub spike_scores: [SpikeScore; 2],
    /// Seconds of training, over all jobs.
    #[serde(with = "exact")]
    pub elapsed_seconds: f64,
}

/// Version of `trainer.json`. Raise it when a field is added or changes its meaning.
const FORMAT_VERSION: u64 = 1;

#[derive(Serialize)]
struct VersionedRef<'a> {
    format_version: u64,
    trainer: &'a TrainerState,
}

#[derive(Deserialize)]
struct VersionOnly {
    format_version: u64,
}

#[derive(Deserialize)]
struct Versioned {
    trainer: TrainerState,
}

impl TrainerState {
    /// The text of `trainer.json`.
    pub fn to_json(&self) -> String {
        let versioned = VersionedRef { format_version: FORMAT_VERSION, trainer: self };
        serde_json::to_string_pretty(&versioned).expect("numbers and strings always serialise") + "\n"
    }

    /// Reads it back; `place` is the file's name for messages.
    ///
    /// # Errors
    /// If the text is damaged or of another format version.
    pub fn from_json(text: &str, place: &str) -> Result<Self> {
        let damaged = |e: serde_json::Error| {
            Error::input(format!("{place}: {e}; hint: the file is damaged, use an older checkpoint"))
        };
        let VersionOnly { format_version } = serde_json::from_str(text).map_err(damaged)?;
        if format_version != FORMAT_VERSION {
            return Err(Error::input(format!(
                "{place}: format_version {format_version}, this program reads {FORMAT_VERSION}; \
                 hint: use the version of the program that wrote it"
            )));
        }
        Ok(serde_json::from_str::<Versioned>(text).map_err(damaged)?.trainer)
    }
}

/// Floats as JSON numbers that read back bit for bit; what JSON cannot say (NaN, infinities) as a string.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() {
            serializer.serialize_f64(*value)
        } else {
            serializer.serialize_str(&value.to_string())
        }
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Text(String),
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Number(value) => Ok(value),
            Written::Text(text) => text.parse().map_err(|_| D::Error::custom(format!("`{text}`: no number"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_reads_back_exactly() {
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        let mut floats = vec![0.0, -0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, 0.1, f64::NEG_INFINITY];
        floats.extend(
            std::iter::repeat_with(|| {
                bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                f64::from_bits(bits)
            })
            .filter(|f| !f.is_nan())
            .take(2000),
        );
        for x in floats {
            let state = TrainerState { seed: u64::MAX, elapsed_seconds: x, ..TrainerState::default() };
            let back = TrainerState::from_json(&state.to_json(), "trainer.json").unwrap();
            assert_eq!(back, state);
            assert_eq!(back.elapsed_seconds.to_bits(), x.to_bits());
        }
        let nan = TrainerState { elapsed_seconds: f64::NAN, ..TrainerState::default() };
        assert!(TrainerState::from_json(&nan.to_json(), "t").unwrap().elapsed_seconds.is_nan());
    }

    #[test]
    fn another_version_and_damage_are_refused() {
        let text = TrainerState::default().to_json();
        let other = text.replace("\"format_version\": 1", "\"format_version\": 7");
        let message = TrainerState::from_json(&other, "x/trainer.json").unwrap_err().to_string();
        assert!(message.starts_with("x/trainer.json: format_version 7"), "{message}");
        assert!(TrainerState::from_json(&text.replace("seed", "sead"), "t").is_err());
        assert!(TrainerState::from_json("", "t").is_err());
    }
}
