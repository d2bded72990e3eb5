//! The energy that measured steps take, where a machine lets us read it. What cannot be read is `None`, with a reason,
//! and never guessed.
//!
//! - **GPUs**: `nvidia-smi` prints the power of every GPU that it sees, five times a second; energy is the mean power
//!   over the measured steps times their length. The clock under load comes with it.
//! - **CPUs**: the counters of Linux' power capping (RAPL), package domains, before and after. They count the whole
//!   package, whoever uses it, and on most systems root alone may read them.
//!
//! One rank of each node reads; what the nodes have read is added up, and is `None` if one of them could not.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::statistics::Summary;

/// Fewer samples of power than these say nothing of a mean.
const SAMPLES_MIN: usize = 3;

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
    Packages(Vec<Package>),
    /// Nothing can be read; why.
    Blind(String),
}

/// From here to [`Reading::end`].
pub struct Reading<'a> {
    meter: &'a Meter,
    begin: Instant,
    before: Vec<u64>,
}

impl Meter {
    /// That of GPUs, or of CPUs.
    pub fn new(of_gpus: bool) -> Meter {
        if of_gpus {
            return PowerSamples::start().map_or_else(Meter::Blind, Meter::Gpus);
        }
        Package::all(Path::new("/sys/class/powercap")).map_or_else(Meter::Blind, Meter::Packages)
    }

    /// Begins to count.
    pub fn begin(&self) -> Reading<'_> {
        let before = match self {
            Meter::Packages(packages) => packages.iter().filter_map(Package::microjoules).collect(),
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
        let seconds = (end - self.begin).as_secs_f64();
        match self.meter {
            Meter::Blind(why) => Err(why.clone()),
            Meter::Gpus(samples) => samples.energy(self.begin, end),
            Meter::Packages(packages) => {
                let after: Vec<u64> = packages.iter().filter_map(Package::microjoules).collect();
                if after.len() != packages.len() || self.before.len() != packages.len() {
                    return Err("a RAPL counter could not be read".to_owned());
                }
                let used = packages.iter().zip(self.before.iter().zip(&after));
                let microjoules: u64 =
                    used.map(|(package, (before, after))| package.between(*before, *after)).sum();
                let (source, joules) = ("RAPL".to_owned(), microjoules as f64 / 1e6);
                Ok(Energy { source, joules, seconds, devices: packages.len(), sm_clock_mhz: None })
            }
        }
    }
}

/// A RAPL domain of a whole package.
pub struct Package {
    counter: PathBuf,
    /// The counter's largest value, after which it begins anew.
    range: u64,
}

impl Package {
    /// All of a machine, below the folder of power capping.
    fn all(folder: &Path) -> Result<Vec<Package>, String> {
        let entries = fs::read_dir(folder)
            .map_err(|_| format!("{}: this system has no counters of energy", folder.display()))?;
        let mut packages = Vec::new();
        for domain in entries.flatten().map(|entry| entry.path()) {
            let name = fs::read_to_string(domain.join("name")).unwrap_or_default();
            if !name.starts_with("package-") {
                continue;
            }
            let counter = domain.join("energy_uj");
            number(&counter).map_err(|error| format!("{}: {error}", counter.display()))?;
            let range = number(&domain.join("max_energy_range_uj")).unwrap_or(u64::MAX);
            packages.push(Package { counter, range });
        }
        if packages.is_empty() {
            return Err(format!("{}: no RAPL domain of a package", folder.display()));
        }
        Ok(packages)
    }

    fn microjoules(&self) -> Option<u64> {
        number(&self.counter).ok()
    }

    /// A counter that has begun anew has done so once.
    fn between(&self, before: u64, after: u64) -> u64 {
        if after >= before { after - before } else { self.range - before + after }
    }
}

fn number(path: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    text.trim().parse().map_err(|_| format!("{:?} is no number", text.trim()))
}

/// The power of every GPU that nvidia-smi sees, while this is there.
pub struct PowerSamples {
    child: Child,
    kept: Arc<Mutex<Vec<PowerSample>>>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct PowerSample {
    at: Instant,
    gpu: u32,
    watts: f64,
    sm_clock_mhz: Option<f64>,
}

impl PowerSamples {
    const QUERY: &str = "--query-gpu=index,power.draw,clocks.sm";

    fn start() -> Result<Self, String> {
        let mut child = Command::new("nvidia-smi")
            .args([Self::QUERY, "--format=csv,noheader,nounits", "--loop-ms=200"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("nvidia-smi does not start: {error}"))?;
        let Some(out) = child.stdout.take() else { return Err("nvidia-smi has no output".to_owned()) };
        let kept: Arc<Mutex<Vec<PowerSample>>> = Arc::default();
        let keep = Arc::clone(&kept);
        let read = move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Some(sample) = PowerSample::parse(&line, Instant::now()) {
                    keep.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                }
            }
        };
        std::thread::Builder::new()
            .name("power".to_owned())
            .spawn(read)
            .map_err(|error| format!("cannot start the thread that reads the power of GPUs: {error}"))?;
        Ok(PowerSamples { child, kept })
    }

    fn energy(&self, begin: Instant, end: Instant) -> Result<Energy, String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let during = kept.iter().filter(|sample| (begin..=end).contains(&sample.at));
        energy_of(&during.copied().collect::<Vec<_>>(), (end - begin).as_secs_f64())
    }
}

impl Drop for PowerSamples {
    fn drop(&mut self) {
        // It has nothing to lose; and if it has ended by itself, that is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl PowerSample {
    /// From a line `0, 312.55, 1980`.
    fn parse(line: &str, at: Instant) -> Option<Self> {
        let mut fields = line.split(',').map(str::trim);
        let (gpu, watts) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(PowerSample { at, gpu, watts, sm_clock_mhz: fields.next().and_then(|mhz| mhz.parse().ok()) })
    }
}

/// Mean power of each GPU, times the time.
fn energy_of(samples: &[PowerSample], seconds: f64) -> Result<Energy, String> {
    let mut gpus: Vec<u32> = samples.iter().map(|sample| sample.gpu).collect();
    gpus.sort_unstable();
    gpus.dedup();
    if samples.len() < SAMPLES_MIN * gpus.len().max(1) {
        return Err(format!("nvidia-smi gave {} samples of power in {seconds:.1} s: too few", samples.len()));
    }
    let watts = |gpu: &u32| {
        let of_gpu = samples.iter().filter(|sample| sample.gpu == *gpu).map(|sample| sample.watts);
        Summary::of(of_gpu).map_or(0.0, |summary| summary.mean)
    };
    let watts: f64 = gpus.iter().map(watts).sum();
    let clocks = Summary::of(samples.iter().filter_map(|sample| sample.sm_clock_mhz));
    Ok(Energy {
        source: "nvidia-smi".to_owned(),
        joules: watts * seconds,
        seconds,
        devices: gpus.len(),
        sm_clock_mhz: clocks.map(|clocks| clocks.median),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_began_anew_is_counted_on() {
        let package = Package { counter: PathBuf::new(), range: 1000 };
        assert_eq!((package.between(100, 350), package.between(900, 50)), (250, 150));
    }

    #[test]
    fn packages_are_found_by_name_and_a_counter_that_cannot_be_read_is_said() {
        let root = tempfile::tempdir().unwrap();
        let make = |domain: &str, name: &str, energy: &str| {
            let dir = root.path().join(domain);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("name"), name).unwrap();
            fs::write(dir.join("energy_uj"), energy).unwrap();
        };
        make("intel-rapl:0:0", "core\n", "1\n");
        assert!(Package::all(root.path()).is_err_and(|why| why.contains("no RAPL domain")));
        make("intel-rapl:0", "package-0\n", "5000000\n");
        let packages = Package::all(root.path()).unwrap();
        assert_eq!((packages.len(), packages[0].microjoules()), (1, Some(5_000_000)));
        let meter = Meter::Packages(packages);
        let reading = meter.begin();
        fs::write(root.path().join("intel-rapl:0/energy_uj"), "8500000\n").unwrap();
        assert_eq!(reading.end().unwrap().joules, 3.5);
        make("intel-rapl:1", "package-1\n", "secret\n");
        assert!(Package::all(root.path()).is_err_and(|why| why.contains("\"secret\" is no number")));
        assert!(Package::all(&root.path().join("none")).is_err_and(|why| why.contains("no counters")));
    }

    #[test]
    fn power_of_several_gpus_is_added_up_and_too_few_samples_say_nothing() {
        let now = Instant::now();
        let lines =
            ["0, 300.5, 1980", "1, 299.5, 1900", "0, 100.5, 1980", "1, 100.5, 1900", "0, 199.0, 1980"];
        let mut samples: Vec<PowerSample> =
            lines.iter().filter_map(|line| PowerSample::parse(line, now)).collect();
        assert!(energy_of(&samples, 2.0).is_err_and(|why| why.contains("5 samples of power in 2.0 s")));
        samples.extend(PowerSample::parse("1, 200.0, 1900", now));
        let energy = energy_of(&samples, 2.0).unwrap();
        assert_eq!((energy.joules, energy.devices, energy.sm_clock_mhz), (800.0, 2, Some(1940.0)));
        assert_eq!(PowerSample::parse("0, [N/A], 1980", now), None);
        let both = energy.clone().and(Energy { seconds: 3.0, ..energy });
        assert_eq!((both.joules, both.seconds, both.devices), (1600.0, 3.0, 4));
    }
}
