//! The order of calls on several communicators. The stand-in has room for one call of a rank at a time, so whoever
//! gives it those of two communicators in another order than the other ranks hangs, until the timeout.

use super::*;
use crate::control::{Channel, Combine, Progress};
use crate::{Meeting, Pending};

/// A call that hangs ends after so long.
const SHORT: Duration = Duration::from_secs(5);

/// A control plane by which the news of calls on one axis come late.
struct Slow {
    control: Arc<dyn ControlPlane>,
    axis: &'static str,
}

impl ControlPlane for Slow {
    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn world_size(&self) -> usize {
        self.control.world_size()
    }

    fn reduce(&self, channel: Channel, combine: Combine, words: &[u64]) -> Result<Vec<u64>, Failure> {
        self.control.reduce(channel, combine, words)
    }

    fn gather(&self, channel: Channel, bytes: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        self.control.gather(channel, bytes)
    }

    fn broadcast(&self, channel: Channel, bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
        self.control.broadcast(channel, bytes)
    }

    fn bring(&self, meeting: &Meeting, bytes: Vec<u8>) {
        self.control.bring(meeting, bytes);
    }

    fn brought(&self, meeting: &Meeting, subject: &str, patience: Duration) -> Result<Vec<Vec<u8>>, Failure> {
        let brought = self.control.brought(meeting, subject, patience);
        if subject.starts_with(self.axis) {
            std::thread::sleep(Duration::from_millis(30));
        }
        brought
    }

    fn progress(&self) -> &Progress {
        self.control.progress()
    }

    fn fail(&self, failure: Failure) {
        self.control.fail(failure);
    }

    fn failure(&self) -> Option<Failure> {
        self.control.failure()
    }

    fn on_failure(&self, hook: Box<dyn FnOnce(&Failure) + Send>) {
        self.control.on_failure(hook);
    }

    fn report(&self) -> Option<Vec<crate::control::RankReport>> {
        self.control.report()
    }
}

/// Two communicators of all ranks, of which each learns late of the calls on another one.
fn on_two_axes(body: impl Fn(&Nccl<Cpu>, [&mut dyn Communicator<Cpu>; 2], Context<Cpu>) + Sync) {
    let slow = |control: Arc<dyn ControlPlane>| -> Arc<dyn ControlPlane> {
        let axis = ["gather", "reduce"][control.rank() % 2];
        Arc::new(Slow { control, axis })
    };
    on_ranks_through(slow, cpu, 2, Sums::Tree, SHORT, |world, ctx, _| {
        let mut gather = world.split("gather", 0, world.rank()).unwrap();
        let mut reduce = world.split("reduce", 0, world.rank()).unwrap();
        body(world, [&mut *gather, &mut *reduce], ctx);
    });
}

fn begin(comm: &mut dyn Communicator<Cpu>, ctx: &Context<Cpu>) -> Pending<Cpu> {
    let mut block = ctx.arena.block(Class::Gradients, DType::F32, 8).unwrap();
    ctx.device.zero(block.view_mut([8])).unwrap();
    comm.start(Call::AllReduce(ReduceOp::Sum), block).unwrap()
}

#[test]
fn checked_calls_keep_their_order_whichever_check_ends_first() {
    on_two_axes(|_, axes, ctx| {
        for _ in 0..4 {
            let pending: Vec<_> = (0..4).map(|call: usize| begin(axes[call % 2], &ctx)).collect();
            pending.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
        }
    });
}

#[test]
fn calls_that_are_not_checked_stand_behind_those_that_are() {
    on_two_axes(|world, axes, ctx| {
        let checked = begin(axes[0], &ctx);
        // By now it may have been handed over on one rank, whose news came early, and not on the other.
        std::thread::sleep(Duration::from_millis(10));
        world.handle().set_checked(false);
        let next = begin(axes[1], &ctx);
        drop((checked.wait().unwrap(), next.wait().unwrap()));
    });
}

#[test]
fn ranks_of_different_orders_end_with_the_name_of_the_one_that_is_late() {
    on_two_axes(|world, axes, ctx| {
        let [first, second] = axes;
        let (mine, other) = if world.rank() == 0 { (first, second) } else { (second, first) };
        let error = begin(mine, &ctx).wait().err().or_else(|| begin(other, &ctx).wait().err());
        assert!(error.unwrap().to_string().contains("late"));
    });
}
