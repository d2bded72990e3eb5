//! The communicator of one rank: every collective leaves the buffer as it is, and is counted.

use tisserand_kernels::{Storage, TensorMut};

use crate::communicator::{CommError, Communicator, Pending, ReduceOp};
use crate::{Audit, Collective};

/// One rank alone on its axis.
#[derive(Debug, Default)]
pub struct Single {
    audit: Audit,
}

impl Single {
    fn counted<D: Storage>(&mut self, kind: Collective, tensor: &TensorMut<'_, D>) -> Pending {
        self.audit.count(kind, tensor.as_ref().size_bytes());
        Pending::done()
    }
}

impl<D: Storage> Communicator<D> for Single {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&mut self, tensor: TensorMut<'_, D>, _op: ReduceOp) -> Result<Pending, CommError> {
        Ok(self.counted(Collective::AllReduce, &tensor))
    }

    fn reduce_scatter(&mut self, tensor: TensorMut<'_, D>, _op: ReduceOp) -> Result<Pending, CommError> {
        Ok(self.counted(Collective::ReduceScatter, &tensor))
    }

    fn all_gather(&mut self, tensor: TensorMut<'_, D>) -> Result<Pending, CommError> {
        Ok(self.counted(Collective::AllGather, &tensor))
    }

    fn broadcast(&mut self, tensor: TensorMut<'_, D>, _root: usize) -> Result<Pending, CommError> {
        Ok(self.counted(Collective::Broadcast, &tensor))
    }

    fn barrier(&mut self) -> Result<(), CommError> {
        self.audit.count(Collective::Barrier, 0);
        Ok(())
    }

    fn audit(&self) -> &Audit {
        &self.audit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Traffic;
    use tisserand_kernels::testing::{download, upload};
    use tisserand_kernels::{Context, Cpu};

    #[test]
    fn collectives_of_one_rank_keep_the_data_and_are_counted() {
        let ctx = Context::new(Cpu::new(1).unwrap(), 1 << 16).unwrap();
        let mut block = upload(&ctx, &[1.0_f32, 2.0, 3.0]);
        let mut alone = Single::default();
        alone.all_reduce(block.view_mut([3]), ReduceOp::Sum).unwrap().wait();
        alone.all_gather(block.view_mut([3])).unwrap().wait();
        assert_eq!(download(&ctx, &block), [1.0, 2.0, 3.0]);
        let audit = Communicator::<Cpu>::audit(&alone);
        assert_eq!(audit.of(Collective::AllReduce), Traffic { calls: 1, payload_bytes: 12 });
        assert_eq!(audit.of(Collective::ReduceScatter), Traffic::default());
    }
}
