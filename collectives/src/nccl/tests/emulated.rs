//! The same with emulated GPUs: streams that are late and early, waits of streams and of the host.

use std::time::Duration;

use tisserand_kernels::cuda::driver::emulated::{Completion, Emulated, HostWaits, Settings};
use tisserand_kernels::testing::upload;
use tisserand_kernels::{Context, Cuda, Storage};

use super::*;
use crate::nccl::fabric::Newest;

fn context(completion: Completion) -> Context<Cuda<Emulated>> {
    let settings = Settings { completion, ..Settings::default() };
    Context::new(Cuda::new(Emulated::new(settings)), 32 << 20).unwrap()
}

#[test]
fn calls_conform_whenever_streams_do_their_work() {
    // The first stream is the rank's own; those behind it are of communicators.
    for completion in [Completion::Late, Completion::Mixed(0b01), Completion::Mixed(!1)] {
        on_ranks_with(
            |_| context(completion),
            2,
            Sums::Tree,
            PATIENCE,
            |world, ctx, _| {
                let mut world = world.split("world", 0, world.rank()).unwrap();
                conformance::all(&mut Rank { world: &mut *world, ctx }, has_one_order, |_| ());
            },
        );
    }
}

#[test]
fn streams_wait_for_the_slowest_rank_and_hosts_for_none() {
    const DELAY: Duration = Duration::from_millis(800);
    for sums in [Sums::Tree, Sums::Library] {
        on_ranks_with(
            |_| context(Completion::Late),
            2,
            sums,
            PATIENCE,
            |world, ctx, control| {
                let mut pair = world.split("dp_shard", 0, world.rank()).unwrap();
                let trace = control.progress().trace();
                trace.reserve(2);
                trace.record(true);
                let block = upload(&ctx, &[1.0_f32; 8]);
                if control.rank() == 1 {
                    ctx.device.driver().stall(DELAY).unwrap();
                }
                let block = pair.run(Call::AllReduce(ReduceOp::Sum), block).unwrap();
                assert_eq!(ctx.device.driver().host_waits(), HostWaits::default());
                ctx.device.synchronize().unwrap();
                drop(block);
                let waited = trace.take_waited();
                assert!(control.rank() == 1 || waited >= DELAY / 2 && waited < 10 * DELAY, "{waited:?}");
                let kept = trace.take();
                assert_eq!((kept.events.len(), kept.lost), (2, 0));
            },
        );
    }
}

/// Sums that are not NCCL's are a kernel's, which takes as many tensors as there are ranks.
#[test]
fn more_ranks_than_a_kernel_has_parameters_add_up() {
    const RANKS: usize = 40;
    // Slices of which some are longer than others.
    const LEN: usize = 2 * RANKS + 5;
    let context = |_| Context::new(Cuda::new(Emulated::new(Settings::default())), 64 << 10).unwrap();
    on_ranks_with(context, RANKS, Sums::Tree, PATIENCE, |world, ctx, control| {
        let mut all = world.split("dp_shard", 0, control.rank()).unwrap();
        let block = upload(&ctx, &[control.rank() as f32; LEN]);
        let block = all.run(Call::AllReduce(ReduceOp::Sum), block).unwrap();
        let mut sums = [0.0_f32; LEN];
        ctx.device.download(block.view([LEN]), &mut sums).unwrap();
        assert_eq!(sums, [(RANKS * (RANKS - 1) / 2) as f32; LEN]);
    });
}

#[test]
fn a_job_begins_on_its_stream_when_the_one_before_it_has_ended_on_another() {
    let ctx = context(Completion::Late);
    let streams = [(); 2].map(|()| ctx.device.fork().unwrap());
    let mut block = ctx.arena.block(Class::Gradients, DType::F32, 8).unwrap();
    let mut copy = ctx.arena.block(Class::Gradients, DType::F32, 8).unwrap();
    let newest = Newest::<Cuda<Emulated>>::default();
    newest.pass(&streams[0]).unwrap();
    streams[0].upload(&[1.0_f32; 8], block.view_mut([8])).unwrap();
    newest.set(streams[0].event().unwrap());
    newest.pass(&streams[1]).unwrap();
    streams[1].copy(block.view([8]), copy.view_mut([8])).unwrap();
    let mut seen = [0.0_f32; 8];
    streams[1].download(copy.view([8]), &mut seen).unwrap();
    assert_eq!(seen, [1.0; 8]);
}
