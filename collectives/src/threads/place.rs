//! Where a rank carries a call out: its meeting, its device, and the events between the devices of ranks.

use std::sync::Arc;

use tisserand_kernels::{Block, Device};

use super::group::{Group, Settled, Traded};
use super::meeting::{Lent, Parts, Visit};
use crate::communicator::CommError;

/// One call on one rank.
pub(super) struct Place<'a, D: Device> {
    pub(super) group: &'a Group<D>,
    pub(super) visit: Visit,
    pub(super) device: &'a D,
    /// Behind it the rank's block may be touched; the device waits for it already.
    pub(super) ready: D::Event,
}

/// Other ranks' parts in this one's hands, by rank. What is queued on them must be done before they can go to an arena,
/// which only their owners' devices know how to wait for: if the call fails before they are given back, the host waits.
pub(super) struct Held<'a, D: Device> {
    /// To be read.
    pub(super) lent: Lent<D>,
    /// To be written.
    pub(super) handed: Parts<D>,
    device: &'a D,
    is_settled: bool,
}

impl<D: Device> Drop for Held<'_, D> {
    fn drop(&mut self) {
        if !self.is_settled {
            // A device that fails does nothing any more, and the call has failed in any case.
            let _ended = self.device.synchronize();
        }
    }
}

impl<'a, D: Device> Place<'a, D> {
    pub(super) fn rank(&self) -> usize {
        self.visit.rank
    }

    pub(super) fn size(&self) -> usize {
        self.group.size()
    }

    /// Lends a part to all and hands part i of `parts` to rank i. Returns what the others lend, and hand to this one:
    /// for what the device is given from now on, until [`Place::settle`].
    pub(super) fn trade(
        &self,
        lent: Option<Arc<Block<D>>>,
        parts: Parts<D>,
    ) -> Result<Held<'a, D>, CommError> {
        let Traded { lent, handed, ready } =
            self.group.trade(&self.visit, self.ready.clone(), lent, parts)?;
        let held = Held { lent, handed, device: self.device, is_settled: false };
        ready.iter().try_for_each(|event| self.device.wait(event))?;
        Ok(held)
    }

    /// Gives back what [`Place::trade`] returned, behind what the device was given, and takes this rank's own, which is
    /// nobody else's for what the device is given from now on: what it lent, and what it handed, by who had it.
    pub(super) fn settle(&self, mut held: Held<'a, D>) -> Result<(Option<Block<D>>, Parts<D>), CommError> {
        let done = self.device.event()?;
        held.lent.clear();
        let own = self.group.settle(&self.visit, done, std::mem::take(&mut held.handed))?;
        let Settled { lent, handed, done } = own;
        done.iter().try_for_each(|event| self.device.wait(event))?;
        held.is_settled = true;
        Ok((lent, handed))
    }
}
