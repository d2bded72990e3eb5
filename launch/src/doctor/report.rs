//! What all ranks have found, at rank 0. `docs/doctor.md` lists the fields.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tisserand_collectives::{Channel, ControlPlane};
use tisserand_runtime::{Error, Result};

use super::compare::{self, Comparison};
use super::finding::{Finding, Verdict};
use super::hosts::Hosts;

/// One rank's findings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RankReport {
    /// The rank.
    pub rank: usize,
    /// Its machine.
    pub host: String,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

/// A machine that is slow.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Slow {
    /// The machine.
    pub host: String,
    /// In what, and how many percent of the median it reaches.
    pub what: Vec<String>,
}

/// The whole of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Version of this form.
    pub format: u32,
    /// Version of the program.
    pub tisserand: &'static str,
    /// Seconds since 1970.
    pub unix_time_s: u64,
    /// How long the checks took.
    pub seconds: f64,
    /// The worst of all.
    pub verdict: Verdict,
    /// Every machine.
    pub hosts: Vec<String>,
    /// Every rank.
    pub ranks: Vec<RankReport>,
    /// Machines against each other.
    pub comparisons: Vec<Comparison>,
    /// Machines that are slow in anything.
    pub slow: Vec<Slow>,
}

impl Report {
    /// Brings the findings of all ranks to rank 0; nothing elsewhere.
    ///
    /// # Errors
    /// A failure of any rank.
    pub(super) fn gather(
        control: &dyn ControlPlane,
        hosts: &Hosts,
        findings: Vec<Finding>,
        seconds: f64,
    ) -> Result<Option<Self>> {
        let wrong = |error: serde_json::Error| Error::fault(format!("a rank's findings: {error}"));
        let rank = control.rank();
        let mine = RankReport { rank, host: hosts.name_of(rank).to_owned(), findings };
        let mine = serde_json::to_vec(&mine).map_err(wrong)?;
        let Some(all) = control.gather(Channel::Step, mine)? else { return Ok(None) };
        let ranks: Result<Vec<RankReport>> =
            all.iter().map(|text| serde_json::from_slice(text).map_err(wrong)).collect();
        Ok(Some(Self::of(hosts.names().to_vec(), ranks?, seconds)))
    }

    /// From the findings of all ranks.
    pub(super) fn of(hosts: Vec<String>, ranks: Vec<RankReport>, seconds: f64) -> Self {
        let comparisons = compare::compare(&ranks);
        let found = ranks.iter().flat_map(|rank| &rank.findings).map(|finding| finding.verdict);
        let compared = comparisons.iter().map(|comparison| comparison.verdict);
        let slow = compare::slow(&comparisons).into_iter().map(|(host, what)| Slow { host, what }).collect();
        Report {
            format: 1,
            tisserand: env!("CARGO_PKG_VERSION"),
            unix_time_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            seconds,
            verdict: found.chain(compared).max().unwrap_or_default(),
            hosts,
            ranks,
            comparisons,
            slow,
        }
    }
}
