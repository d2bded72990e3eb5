//! The communicator of dry runs: its other ranks are imagined. It counts, takes the workspace that the real one
//! would take, and gives every block back as it is.

use tisserand_kernels::{Block, Class, Device};

use crate::communicator::{Call, CommError, Communicator};
use crate::{Audit, Collective, Failure, Pending, mpi};

/// What calls take from the arena besides their blocks, from `start` to `wait`: it depends on the communicator,
/// and a dry run must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Workspace {
    /// Nothing: one rank, or ranks that are threads.
    #[default]
    None,
    /// What [`mpi::workspace_elements`] says.
    Mpi,
}

impl Workspace {
    /// Elements of a call on a block of `len` elements by `size` ranks, of the block's dtype.
    pub fn elements(self, call: Call, size: usize, len: usize) -> usize {
        match self {
            Workspace::None => 0,
            Workspace::Mpi => mpi::workspace_elements(call, size, len),
        }
    }
}

/// A rank among ranks that are not there.
#[derive(Debug)]
pub struct Imagined {
    rank: usize,
    size: usize,
    workspace: Workspace,
    audit: Audit,
}

impl Imagined {
    /// Rank `rank` of `size`.
    pub fn new(rank: usize, size: usize, workspace: Workspace) -> Self {
        Imagined { rank, size, workspace, audit: Audit::default() }
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
        self.audit.count(call.kind(), call.payload_bytes(len, dtype));
        let workspace = match self.workspace.elements(call, self.size, len) {
            0 => return Ok(Pending::done(block)),
            elements => block.sibling(Class::Communication, dtype, elements)?,
        };
        let (completion, pending) = Pending::under_way();
        completion.complete_with(block, Some(workspace));
        Ok(pending)
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
        Ok(Box::new(Imagined::new(self.rank, self.size, self.workspace)))
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
    use tisserand_kernels::{Context, Cpu, DType};

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
