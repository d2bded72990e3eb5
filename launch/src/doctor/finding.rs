//! What a check has found on one rank.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// How good it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be, or only told.
    #[default]
    Ok,
    /// Works, and slower or less surely than it could.
    Warn,
    /// Does not work, or so badly that a run would be wasted.
    Fail,
}

impl Verdict {
    /// The word in tables.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        }
    }
}

/// What was measured or read.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// In the finding's unit.
    Number(f64),
    /// Everything else.
    Text(String),
}

/// Which figures are better, of those that hosts of one kind have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Rates.
    Higher,
    /// Times.
    Lower,
}

impl Better {
    /// The worse one is less.
    pub(super) fn order(self, a: f64, b: f64) -> Ordering {
        match self {
            Better::Higher => a.total_cmp(&b),
            Better::Lower => b.total_cmp(&a),
        }
    }

    /// How good a figure is beside another one: 0.5 is half as good.
    pub(super) fn share(self, figure: f64, of: f64) -> f64 {
        match self {
            Better::Higher => figure / of,
            Better::Lower => of / figure,
        }
    }
}

/// One row of one rank.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// The check: a file of this folder.
    pub check: String,
    /// What of it.
    pub name: String,
    /// What was found.
    pub value: Value,
    /// Of a number; empty for a count and for text.
    pub unit: String,
    /// Set if hosts are compared by it.
    pub better: Option<Better>,
    /// What each round of a figure has given; the best of them is the value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<f64>,
    /// How good it is, by itself.
    pub verdict: Verdict,
    /// What is wrong and what to do, in one line; empty if all is well.
    pub advice: String,
}

impl Finding {
    /// Something that is told.
    pub fn text(check: &str, name: &str, text: impl Into<String>) -> Self {
        Finding {
            check: check.to_owned(),
            name: name.to_owned(),
            value: Value::Text(text.into()),
            unit: String::new(),
            better: None,
            rounds: Vec::new(),
            verdict: Verdict::Ok,
            advice: String::new(),
        }
    }

    /// A figure by which hosts are not compared.
    pub fn number(check: &str, name: &str, number: f64, unit: &str) -> Self {
        Finding { value: Value::Number(number), unit: unit.to_owned(), ..Finding::text(check, name, "") }
    }

    /// A figure by which they are: what each round has given, of which there is one at least.
    pub fn figure(check: &str, name: &str, rounds: Vec<f64>, unit: &str, better: Better) -> Self {
        let best = rounds.iter().copied().max_by(|a, b| better.order(*a, *b)).expect("a figure has a round");
        Finding { better: Some(better), rounds, ..Finding::number(check, name, best, unit) }
    }

    /// A check that could not be made: an error in one line.
    pub fn failed(check: &str, name: &str, error: &dyn std::fmt::Display) -> Self {
        Finding::text(check, name, "failed").fail(error.to_string())
    }

    /// The same with a warning.
    pub fn warn(self, advice: impl Into<String>) -> Self {
        Finding { verdict: Verdict::Warn, advice: advice.into(), ..self }
    }

    /// The same as a failure.
    pub fn fail(self, advice: impl Into<String>) -> Self {
        Finding { verdict: Verdict::Fail, advice: advice.into(), ..self }
    }
}
