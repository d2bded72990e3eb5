//! The energy that measured steps take, where a machine lets us read it. What cannot be read is `None`, with a reason,
//! and never guessed.
//!
//! - **GPUs** ([`gpus`]): `nvidia-smi` prints the power of every GPU that it sees, five times a second; energy is the
//!   mean power over the measured steps times their length. The clock under load comes with it.
//! - **CPUs** ([`packages`]): the counters of Linux' power capping (RAPL), package domains, before and after. They count
//!   the whole package, whoever uses it, and on most systems root alone may read them.
//!
//! One rank of each node reads; what the nodes have read is added up, and is `None` if one of them could not.

pub mod gpus;
pub mod packages;

use std::path::Path;
use std::time::Instant;

use gpus::PowerSamples;
use packages::Packages;
use serde::{Deserialize, Serialize};

/// Of the measured steps of one point.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Energy {
    /// How it was read: "nvidia-smi" or "RAPL".
    pub source: String,
    /// Of all nodes together.
    pub joules: f64,
    /// Length of the measured steps.
    pub seconds: f64,
    /// Devices that were read: GPUs or packages.
    pub devices: usize,
    /// Clock of the GPUs' multiprocessors under load, median; `None` for CPUs.
    pub sm_clock_mhz: Option<f64>,
}

impl Energy {
    /// What several nodes have read, together. Seconds and clock are those of the slowest.
    pub fn and(self, other: Energy) -> Energy {
        Energy {
            source: self.source,
            joules: self.joules + other.joules,
            seconds: self.seconds.max(other.seconds),
            devices: self.devices + other.devices,
            sm_clock_mhz: self.sm_clock_mhz.zip(other.sm_clock_mhz).map(|(a, b)| a.min(b)),
        }
    }
}

/// What reads a node's energy.
pub enum Meter {
    /// GPUs.
    Gpus(PowerSamples),
    /// CPUs.
    Packages(Packages),
    /// Nothing can be read; why.
    Blind(String),
}

/// From here to [`Reading::end`].
pub struct Reading<'a> {
    meter: &'a Meter,
    begin: Instant,
    /// Of packages.
    before: Vec<u64>,
}

impl Meter {
    /// That of GPUs, or of CPUs.
    pub fn new(of_gpus: bool) -> Meter {
        if of_gpus {
            return PowerSamples::start().map_or_else(Meter::Blind, Meter::Gpus);
        }
        Packages::all(Path::new("/sys/class/powercap")).map_or_else(Meter::Blind, Meter::Packages)
    }

    /// Begins to count.
    pub fn begin(&self) -> Reading<'_> {
        let before = match self {
            Meter::Packages(packages) => packages.microjoules(),
            _ => Vec::new(),
        };
        Reading { meter: self, begin: Instant::now(), before }
    }
}

impl Reading<'_> {
    /// What was taken since the begin.
    ///
    /// # Errors
    /// Why nothing can be said.
    pub fn end(self) -> Result<Energy, String> {
        let end = Instant::now();
        match self.meter {
            Meter::Blind(why) => Err(why.clone()),
            Meter::Gpus(samples) => samples.energy(self.begin, end),
            Meter::Packages(packages) => packages.energy(&self.before, (end - self.begin).as_secs_f64()),
        }
    }
}
