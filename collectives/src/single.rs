//! The communicator of one rank: every collective leaves the block as it is, and is counted.

use tisserand_kernels::{Block, Device};

use crate::communicator::{Call, CommError, Communicator};
use crate::{Audit, Collective, Failure, Pending};

/// One rank alone on its axis.
pub struct Single<D: Device> {
    device: D,
    audit: Audit,
}

impl<D: Device> Single<D> {
    /// A rank alone, whose blocks are on `device`.
    pub fn new(device: D) -> Self {
        Single { device, audit: Audit::default() }
    }

    /// What this rank sends to itself, it receives.
    fn all_to_all(&self, mut block: Block<D>) -> Result<Block<D>, CommError> {
        let half = block.len() / 2;
        let mut received = block.split_off(half);
        self.device.copy(block.view([half]), received.view_mut([half]))?;
        block.append(received);
        Ok(block)
    }
}

impl<D: Device> Communicator<D> for Single<D> {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn start(&mut self, call: Call, block: Block<D>) -> Result<Pending<D>, CommError> {
        call.check(0, 1, block.len())?;
        self.audit.count(call.kind(), call.payload_bytes(block.len(), block.dtype()));
        Ok(Pending::done(match call {
            Call::AllToAll => self.all_to_all(block)?,
            _ => block,
        }))
    }

    fn barrier(&mut self) -> Result<(), CommError> {
        self.audit.count(Collective::Barrier, 0);
        Ok(())
    }

    fn split(
        &mut self,
        _axis: &str,
        _color: usize,
        _key: usize,
    ) -> Result<Box<dyn Communicator<D>>, CommError> {
        Ok(Box::new(Single::new(self.device.clone())))
    }

    fn audit(&self) -> Audit {
        self.audit
    }

    /// A call of one rank never waits.
    fn abort(&mut self, _failure: Failure) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ReduceOp, Traffic};
    use tisserand_kernels::testing::{download, upload};
    use tisserand_kernels::{Context, Cpu};

    #[test]
    fn collectives_of_one_rank_keep_the_data_and_are_counted() {
        let ctx = Context::new(Cpu::new(1).unwrap(), 1 << 16).unwrap();
        let block = upload(&ctx, &[1.0_f32, 2.0, 3.0, 4.0]);
        let mut alone = Single::new(ctx.device.clone());
        let block = alone.run(Call::AllReduce(ReduceOp::Sum), block).unwrap();
        let block = alone.run(Call::AllGather, block).unwrap();
        assert_eq!(download(&ctx, &block), [1.0, 2.0, 3.0, 4.0]);
        let block = alone.run(Call::AllToAll, block).unwrap();
        assert_eq!(download(&ctx, &block), [1.0, 2.0, 1.0, 2.0]);
        let audit = alone.audit();
        assert_eq!(audit.of(Collective::AllReduce), Traffic { calls: 1, payload_bytes: 16 });
        assert_eq!(audit.of(Collective::AllToAll), Traffic { calls: 1, payload_bytes: 8 });
        assert_eq!(audit.of(Collective::ReduceScatter), Traffic::default());
    }

    #[test]
    fn calls_that_cannot_be_are_refused() {
        let ctx = Context::new(Cpu::new(1).unwrap(), 1 << 16).unwrap();
        let mut alone = Single::new(ctx.device.clone());
        let block = upload(&ctx, &[1.0_f32, 2.0, 3.0]);
        let refusal = alone.run(Call::AllToAll, block).err().unwrap().to_string();
        assert!(
            refusal.contains("all_to_all of 3 elements") && refusal.contains("multiple of 2"),
            "{refusal}"
        );
        let block = upload(&ctx, &[1.0_f32]);
        let refusal = alone.run(Call::Send { to: 0 }, block).err().unwrap().to_string();
        assert_eq!(refusal, "send with rank 0 of 1");
    }
}
