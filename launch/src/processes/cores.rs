//! How many cores are a rank's. Launchers may leave all cores of a machine to all its ranks, or bind each to some,
//! which may be its own or shared with others: only all ranks together know.

use std::collections::HashMap;

use tisserand_collectives::control::host_name;
use tisserand_collectives::{Channel, ControlPlane};
use tisserand_runtime::{Error, Result};

use crate::placement::cpus;

/// What one rank knows.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Allowed {
    host: String,
    /// Threads that may run at once, limits of containers included.
    parallelism: usize,
    /// Cores that it may run on.
    cores: Vec<usize>,
}

/// The cores of this rank, at least one: of each that it may run on, its share among those who may too.
pub(super) fn share(control: &dyn ControlPlane) -> Result<usize> {
    let parallelism = std::thread::available_parallelism().map_or(1, usize::from);
    let mine = format!("{}\t{parallelism}\t{}", host_name(), cpus::list(&cpus::allowed()));
    let all = control.gather(Channel::Setup, mine.into_bytes())?;
    let shares = all.map(|all| {
        let all: Vec<Allowed> =
            all.iter().map(|text| Allowed::parse(&String::from_utf8_lossy(text))).collect();
        shares(&all).into_iter().flat_map(|share| (share as u64).to_le_bytes()).collect()
    });
    let shares = control.broadcast(Channel::Setup, shares.unwrap_or_default())?;
    let (shares, _) = shares.as_chunks();
    let share = shares.get(control.rank()).map(|share| u64::from_le_bytes(*share) as usize);
    share.ok_or_else(|| Error::fault("rank 0 told no share of the cores"))
}

impl Allowed {
    fn parse(text: &str) -> Self {
        let mut fields = text.splitn(3, '\t');
        let host = fields.next().unwrap_or_default().to_owned();
        let parallelism = fields.next().and_then(|number| number.parse().ok()).unwrap_or(1);
        let cores = cpus::parse(fields.next().unwrap_or_default());
        // Not told: the first ones, which all ranks of the machine then share.
        let cores = if cores.is_empty() { (0..parallelism).collect() } else { cores };
        Allowed { host, parallelism, cores }
    }
}

fn shares(ranks: &[Allowed]) -> Vec<usize> {
    let mut users: HashMap<(&str, usize), usize> = HashMap::new();
    let mut neighbours: HashMap<&str, usize> = HashMap::new();
    for rank in ranks {
        *neighbours.entry(&rank.host).or_default() += 1;
        for core in &rank.cores {
            *users.entry((&rank.host, *core)).or_default() += 1;
        }
    }
    let share = |rank: &Allowed| {
        let parts: f64 = rank.cores.iter().map(|core| 1.0 / users[&(rank.host.as_str(), *core)] as f64).sum();
        // Thirds add up to a little less than one.
        let cores = (parts + 1e-6) as usize;
        // A container may allow less than its cores could do, to all its ranks together.
        let limit = match rank.parallelism < rank.cores.len() {
            true => rank.parallelism / neighbours[rank.host.as_str()],
            false => cores,
        };
        cores.min(limit).max(1)
    };
    ranks.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Vec<usize> {
        shares(&texts.iter().map(|text| Allowed::parse(text)).collect::<Vec<_>>())
    }

    #[test]
    fn cores_are_shared_by_those_who_may_run_on_them() {
        // Unbound; bound to cores of their own; two to a socket; one core each; more ranks than cores.
        assert_eq!(of(&["a\t64\t0-63"; 4]), [16; 4]);
        assert_eq!(of(&["a\t16\t0-15", "a\t16\t16-31"]), [16, 16]);
        assert_eq!(of(&["a\t32\t0-31", "a\t32\t32-63", "a\t32\t0-31", "a\t32\t32-63"]), [16; 4]);
        assert_eq!(of(&["a\t1\t0", "a\t1\t1"]), [1, 1]);
        assert_eq!(of(&["a\t2\t0-1"; 3]), [1; 3]);
        // Three to two cores and a third; on two machines; a container's limit; lists of Linux.
        assert_eq!(of(&["a\t9\t0-8"; 3]), [3; 3]);
        assert_eq!(of(&["a\t4\t0-3", "b\t4\t0-3", "b\t4\t0-3"]), [4, 2, 2]);
        assert_eq!(of(&["a\t4\t0-63"; 2]), [2; 2]);
        assert_eq!(of(&["a\t6\t0-3,8,12", "a\t2\t12-13"]), [5, 1]);
        assert_eq!(of(&["a\t4\t", "a\t4\t"]), [2, 2]);
    }
}
