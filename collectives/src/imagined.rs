//! The communicator of dry runs: its other ranks are imagined. It counts, takes the workspace that the real one
//! would take, and gives every block back as it is.

use std::sync::Arc;

use tisserand_kernels::{Block, Class, DType, Device};

use crate::axes::Queue;
use crate::communicator::{Call, CommError, Communicator};
use crate::{Audit, Collective, Failure, Pending, mpi, nccl};

/// What calls take from the arena besides their blocks, from `start` to `wait`: it depends on the communicator,
/// and a dry run must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Workspace {
    /// Nothing: one rank, or ranks that are threads.
    #[default]
    None,
    /// What [`mpi::workspace_elements`] says.
    Mpi,
    /// What [`nccl::workspace_elements`] says.
    Nccl(nccl::Sums),
}

impl Workspace {
    /// Elements of a call on a block of `len` elements of `dtype` by `size` ranks; they are of that dtype too.
    pub fn elements(self, call: Call, size: usize, len: usize, dtype: DType) -> usize {
        match self {
            Workspace::None => 0,
            Workspace::Mpi => mpi::workspace_elements(call, size, len),
            Workspace::Nccl(sums) => nccl::workspace_elements(sums, call, size, len, dtype),
        }
    }
}

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
    workspace: Workspace,
    audit: Audit,
    watch: Option<(Queue, Arc<dyn Watch>)>,
}

impl Imagined {
    /// Rank `rank` of `size`.
    pub fn new(rank: usize, size: usize, workspace: Workspace) -> Self {
        Imagined { rank, size, workspace, audit: Audit::default(), watch: None }
    }

    /// The same, whose collectives `watch` is told of, as those of `queue`.
    pub fn watched(self, queue: Queue, watch: Arc<dyn Watch>) -> Self {
        Imagined { watch: Some((queue, watch)), ..self }
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
        let (len, dtype) = (block.len(), block.dtype());
        call.check(self.rank, self.size, len)?;
        let payload_bytes = call.payload_bytes(len, dtype);
        self.audit.count(call.kind(), payload_bytes);
        let workspace = match self.workspace.elements(call, self.size, len, dtype) {
            0 => None,
            elements => Some(block.sibling(Class::Communication, dtype, elements)?),
        };
        let Some((queue, watch)) = &self.watch else { return Ok(Pending::imagined(block, workspace, None)) };
        let number = watch.begun(*queue, call.kind(), payload_bytes);
        let watch = Arc::clone(watch);
        Ok(Pending::imagined(block, workspace, Some(Box::new(move || watch.awaited(number)))))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReduceOp;
    use tisserand_kernels::{Context, Cpu};

    #[test]
    fn workspace_is_taken_by_start_and_given_back_by_wait() {
        let ctx = Context::new(Cpu::new(1).unwrap(), 1 << 12).unwrap();
        for (workspace, bytes) in [(Workspace::None, 0), (Workspace::Mpi, 3 * 16 * 4)] {
            let mut communicator = Imagined::new(1, 4, workspace);
            let block = ctx.arena.block(Class::Gradients, DType::F32, 64).unwrap();
            let pending = communicator.start(Call::ReduceScatter(ReduceOp::Sum), block).unwrap();
            let used = ctx.arena.usage().of(Class::Communication);
            assert!(used >= bytes && (used == 0) == (bytes == 0), "{workspace:?}: {used}");
            let block = pending.wait().unwrap();
            assert_eq!(ctx.arena.usage().of(Class::Communication), 0);
            let pending = communicator.start(Call::AllGather, block).unwrap();
            assert_eq!(ctx.arena.usage().of(Class::Communication), 0);
            drop(pending.wait().unwrap());
        }
    }
}
