//! The communicator over threads that stand for NCCL.

#[cfg(feature = "emulator")]
mod emulated;
mod order;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tisserand_kernels::{Block, Class, Context, Cpu, DType, Device, Storage};

use super::in_memory::{InMemory, Network};
use super::{Nccl, Sums};
use crate::conformance::{self, Rank};
use crate::control::Memory;
use crate::{Call, CommError, Communicator, ControlPlane, Failure, ReduceOp};

const PATIENCE: Duration = Duration::from_secs(60);

/// NCCL wants the calls of all communicators in one order on all ranks; one check has none.
fn has_one_order(name: &str) -> bool {
    !name.contains("late rank")
}

/// Runs `body` on ranks of this CPU; a rank's panic is this call's.
fn on_ranks(
    size: usize,
    sums: Sums,
    timeout: Duration,
    body: impl Fn(&mut Nccl<Cpu>, Context<Cpu>, &dyn ControlPlane) + Sync,
) {
    on_ranks_with(cpu, size, sums, timeout, body);
}

fn cpu(_: usize) -> Context<Cpu> {
    Context::new(Cpu::new(1).unwrap(), 64 << 20).unwrap()
}

/// As above, on the devices that `context` makes, by rank.
fn on_ranks_with<D: Device>(
    context: impl Fn(usize) -> Context<D> + Sync,
    size: usize,
    sums: Sums,
    timeout: Duration,
    body: impl Fn(&mut Nccl<D>, Context<D>, &dyn ControlPlane) + Sync,
) {
    on_ranks_through(|control| control, context, size, sums, timeout, body);
}

/// As above, with the control plane that `plane` makes of the one in memory.
fn on_ranks_through<D: Device>(
    plane: impl Fn(Arc<dyn ControlPlane>) -> Arc<dyn ControlPlane> + Sync,
    context: impl Fn(usize) -> Context<D> + Sync,
    size: usize,
    sums: Sums,
    timeout: Duration,
    body: impl Fn(&mut Nccl<D>, Context<D>, &dyn ControlPlane) + Sync,
) {
    let network = Arc::<Network<D>>::default();
    std::thread::scope(|scope| {
        for control in Memory::new(size) {
            let (network, body, context, plane) = (Arc::clone(&network), &body, &context, &plane);
            scope.spawn(move || {
                let ctx = context(control.rank());
                let control = plane(Arc::new(control));
                let fabric = Arc::new(InMemory::new(network, &ctx.device));
                let mut world = Nccl::over(fabric, &ctx.device, Arc::clone(&control), sums, timeout).unwrap();
                body(&mut world, ctx, &*control);
            });
        }
    });
}

#[test]
fn calls_conform_while_they_are_checked() {
    for size in [1, 2, 3, 4] {
        on_ranks(size, Sums::Tree, PATIENCE, |world, ctx, _| {
            let mut world = world.split("world", 0, world.rank()).unwrap();
            conformance::all(&mut Rank { world: &mut *world, ctx }, has_one_order, |_| ());
        });
    }
}

#[test]
fn calls_conform_when_they_are_no_longer_checked() {
    for (size, sums) in [(2, Sums::Tree), (3, Sums::Library)] {
        on_ranks(size, sums, PATIENCE, |world, ctx, _| {
            world.handle().set_checked(false);
            let mut world = world.split("world", 0, world.rank()).unwrap();
            let mut rank = Rank { world: &mut *world, ctx };
            conformance::all(&mut rank, |name| has_one_order(name) && !name.contains("differ"), |_| ());
        });
    }
}

fn call(comm: &mut dyn Communicator<Cpu>, ctx: &Context<Cpu>) -> Result<Block<Cpu>, CommError> {
    let mut block = ctx.arena.block(Class::Gradients, DType::F32, 8)?;
    ctx.device.zero(block.view_mut([8]))?;
    comm.run(Call::AllReduce(ReduceOp::Sum), block)
}

#[test]
fn a_rank_that_is_late_is_named() {
    on_ranks(2, Sums::Tree, Duration::from_millis(200), |world, ctx, control| {
        let mut pair = world.split("dp_shard", 0, world.rank()).unwrap();
        if control.rank() == 0 {
            let error = call(&mut *pair, &ctx).err().unwrap().to_string();
            assert!(error.starts_with("rank 1: late: rank 0 waited 0 s"), "{error}");
            assert!(error.contains("in dp_shard all_reduce #0, for rank 1"), "{error}");
        } else {
            while control.failure().is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(call(&mut *pair, &ctx).err().unwrap().to_string().starts_with("rank 1: late"));
        }
    });
}

#[test]
fn a_failure_of_the_control_plane_ends_what_is_under_way() {
    for checked in [true, false] {
        on_ranks(3, Sums::Tree, PATIENCE, |world, ctx, control| {
            world.handle().set_checked(checked);
            let mut all = world.split("tp", 0, world.rank()).unwrap();
            world.barrier().unwrap();
            let began = Instant::now();
            let error = if control.rank() == 2 {
                std::thread::sleep(Duration::from_millis(50));
                control.fail(Failure::fault(2, "died: test"));
                world.barrier().err().unwrap()
            } else {
                call(&mut *all, &ctx).err().unwrap()
            };
            assert_eq!(error.to_string(), "rank 2: died: test");
            assert_eq!(call(&mut *all, &ctx).err().unwrap().to_string(), "rank 2: died: test");
            assert!(began.elapsed() < Duration::from_secs(10));
        });
    }
}

#[test]
fn the_communicator_of_all_ranks_is_there_to_be_split() {
    on_ranks(2, Sums::Tree, PATIENCE, |world, ctx, _| {
        let error = call(world, &ctx).err().unwrap().to_string();
        assert_eq!(error, "world is there to be split, not for all_reduce");
        let mut beside = world.beside();
        assert_eq!(beside.split("tp", 0, 0).unwrap().size(), 2);
    });
}
