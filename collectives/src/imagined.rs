//! The communicator of dry runs: its other ranks are imagined. It counts, and gives every block back as it is.

use tisserand_kernels::{Block, Device};

use crate::communicator::{Call, CommError, Communicator};
use crate::{Audit, Collective, Failure, Pending};

/// A rank among ranks that are not there.
#[derive(Debug)]
pub struct Imagined {
    rank: usize,
    size: usize,
    audit: Audit,
}

impl Imagined {
    /// Rank `rank` of `size`.
    pub fn new(rank: usize, size: usize) -> Self {
        Imagined { rank, size, audit: Audit::default() }
    }
}

impl<D: Device> Communicator<D> for Imagined {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn start(&mut self, call: Call, block: Block<D>) -> Result<Pending<D>, CommError> {
        call.check(self.rank, self.size, block.len())?;
        self.audit.count(call.kind(), call.payload_bytes(block.len(), block.dtype()));
        Ok(Pending::done(block))
    }

    fn barrier(&mut self) -> Result<(), CommError> {
        self.audit.count(Collective::Barrier, 0);
        Ok(())
    }

    /// Who else gives this color is not known, so everyone is taken to.
    fn split(
        &mut self,
        _axis: &str,
        _color: usize,
        _key: usize,
    ) -> Result<Box<dyn Communicator<D>>, CommError> {
        Ok(Box::new(Imagined::new(self.rank, self.size)))
    }

    fn audit(&self) -> Audit {
        self.audit
    }

    fn abort(&mut self, _failure: Failure) {}
}
