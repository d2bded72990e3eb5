//! The energy of CPUs: counters of Linux' power capping (RAPL).

use std::fs;
use std::path::{Path, PathBuf};

use super::Energy;

/// The packages of a machine.
pub struct Packages(Vec<Package>);

/// A RAPL domain of a whole package.
struct Package {
    counter: PathBuf,
    /// The counter's largest value, after which it begins anew.
    range: u64,
}

impl Packages {
    /// All of a machine, below the folder of power capping.
    pub(super) fn all(folder: &Path) -> Result<Self, String> {
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
        Ok(Packages(packages))
    }

    /// All counters that can be read.
    pub(super) fn microjoules(&self) -> Vec<u64> {
        self.0.iter().filter_map(|package| number(&package.counter).ok()).collect()
    }

    /// What was taken since the counters were at `before`.
    pub(super) fn energy(&self, before: &[u64], seconds: f64) -> Result<Energy, String> {
        let after = self.microjoules();
        if after.len() != self.0.len() || before.len() != self.0.len() {
            return Err("a RAPL counter could not be read".to_owned());
        }
        let used = self.0.iter().zip(before.iter().zip(&after));
        let microjoules: u64 = used.map(|(package, (before, after))| package.between(*before, *after)).sum();
        let (source, joules) = ("RAPL".to_owned(), microjoules as f64 / 1e6);
        Ok(Energy { source, joules, seconds, devices: self.0.len(), sm_clock_mhz: None })
    }
}

impl Package {
    /// A counter that has begun anew has done so once.
    fn between(&self, before: u64, after: u64) -> u64 {
        if after >= before { after - before } else { self.range - before + after }
    }
}

fn number(path: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    text.trim().parse().map_err(|_| format!("{:?} is no number", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::super::Meter;
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
        assert!(Packages::all(root.path()).is_err_and(|why| why.contains("no RAPL domain")));
        make("intel-rapl:0", "package-0\n", "5000000\n");
        let packages = Packages::all(root.path()).unwrap();
        assert_eq!(packages.microjoules(), [5_000_000]);
        let meter = Meter::Packages(packages);
        let reading = meter.begin();
        fs::write(root.path().join("intel-rapl:0/energy_uj"), "8500000\n").unwrap();
        assert_eq!(reading.end().unwrap().joules, 3.5);
        make("intel-rapl:1", "package-1\n", "secret\n");
        assert!(Packages::all(root.path()).is_err_and(|why| why.contains("\"secret\" is no number")));
        assert!(Packages::all(&root.path().join("none")).is_err_and(|why| why.contains("no counters")));
    }
}
