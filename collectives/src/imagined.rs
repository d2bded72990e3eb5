//! The communicator of dry runs: its other ranks are imagined. It counts, and gives every block back as it is.

use std::sync::Arc;

use tisserand_kernels::{Block, Device};

use crate::axes::Queue;
use crate::communicator::{Call, CommError, Communicator};
use crate::{Audit, Collective, Failure, Pending};

/// Is told of the collectives of a dry run, in order.
pub trait Watch: Send + Sync {
    /// A collective was begun; returns the number under which its end is told.
    fn begun(&self, queue: Queue, kind: Collective, payload_bytes: usize) -> usize;

    /// Somebody waits for a collective.
    fn awaited(&self, number: usize);
}

/// A rank among ranks that are not there.
#[derive(Clone)]
pub struct Imagined {
    rank: usize,
    size: usize,
    audit: Audit,
    watch: Option<(Queue, Arc<dyn Watch>)>,
}

impl Imagined {
    /// Rank `rank` of `size`.
    pub fn new(rank: usize, size: usize) -> Self {
        Imagined { rank, size, audit: Audit::default(), watch: None }
    }

    /// As [`Imagined::new`]; `watch` is told of every collective, as one of `queue`.
    pub fn watched(rank: usize, size: usize, queue: Queue, watch: Arc<dyn Watch>) -> Self {
        Imagined { watch: Some((queue, watch)), ..Imagined::new(rank, size) }
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
        let payload_bytes = call.payload_bytes(block.len(), block.dtype());
        self.audit.count(call.kind(), payload_bytes);
        let Some((queue, watch)) = &self.watch else { return Ok(Pending::done(block)) };
        let number = watch.begun(*queue, call.kind(), payload_bytes);
        let watch = Arc::clone(watch);
        Ok(Pending::watched(block, move || watch.awaited(number)))
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
        Ok(Box::new(Imagined { audit: Audit::default(), ..self.clone() }))
    }

    fn audit(&self) -> Audit {
        self.audit
    }

    fn abort(&mut self, _failure: Failure) {}
}
