//! Which rank is on which machine.

use tisserand_collectives::control::host_name;
use tisserand_collectives::{Channel, ControlPlane};
use tisserand_runtime::Result;

/// The machines of a run, in the order of their first ranks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hosts {
    names: Vec<String>,
    /// By rank.
    of: Vec<usize>,
}

impl Hosts {
    /// Every rank tells its own.
    ///
    /// # Errors
    /// A failure of any rank.
    pub(super) fn meet(control: &dyn ControlPlane) -> Result<Self> {
        let all = control.gather(Channel::Setup, host_name().into_bytes())?;
        let lines = control.broadcast(Channel::Setup, all.unwrap_or_default().join(&b'\n'))?;
        Ok(Self::of(String::from_utf8_lossy(&lines).lines()))
    }

    /// From the names of all ranks' hosts.
    pub(super) fn of<'a>(names_by_rank: impl Iterator<Item = &'a str>) -> Self {
        let mut hosts = Hosts { names: Vec::new(), of: Vec::new() };
        for name in names_by_rank {
            let known = hosts.names.iter().position(|known| known == name);
            let host = known.unwrap_or_else(|| {
                hosts.names.push(name.to_owned());
                hosts.names.len() - 1
            });
            hosts.of.push(host);
        }
        hosts
    }

    /// How many machines.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Their names.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of a rank's machine.
    pub(super) fn of_rank(&self, rank: usize) -> usize {
        self.of[rank]
    }

    /// The name of a rank's machine.
    pub(super) fn name_of(&self, rank: usize) -> &str {
        &self.names[self.of[rank]]
    }

    /// The first rank of each machine.
    pub(super) fn leaders(&self) -> Vec<usize> {
        (0..self.len()).filter_map(|host| self.of.iter().position(|of| *of == host)).collect()
    }

    /// How many ranks share a rank's machine.
    pub(super) fn local_size(&self, rank: usize) -> usize {
        self.of.iter().filter(|host| **host == self.of[rank]).count()
    }

    /// A rank's number among those of its machine.
    pub(super) fn local_rank(&self, rank: usize) -> usize {
        self.of[..rank].iter().filter(|host| **host == self.of[rank]).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_find_their_place_however_they_are_dealt_out() {
        let hosts = Hosts::of(["b", "a", "b", "a", "c"].into_iter());
        assert_eq!(hosts.names(), ["b", "a", "c"]);
        assert_eq!(hosts.leaders(), [0, 1, 4]);
        assert_eq!((0..5).map(|rank| hosts.local_rank(rank)).collect::<Vec<_>>(), [0, 0, 1, 1, 0]);
        assert_eq!((hosts.local_size(2), hosts.local_size(4)), (2, 1));
        assert_eq!((hosts.of_rank(3), hosts.name_of(3)), (1, "a"));
    }
}
