//! The conformance suite over ranks that are threads.

mod conformance;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use conformance::Rank;
use tisserand_collectives::threads::{self, Overlap};
use tisserand_collectives::{Call, CommError, Communicator, Failure, Progress, ReduceOp, Threads};
use tisserand_kernels::testing::upload;
use tisserand_kernels::{Context, Cpu, DType};

fn context() -> Context<Cpu> {
    Context::new(Cpu::new(1).unwrap(), 64 << 20).unwrap()
}

/// Runs `body` on ranks; a rank's panic is this call's.
fn on_ranks(
    size: usize,
    overlap: Overlap,
    timeout: Duration,
    body: impl Fn(&mut Threads<Cpu>, Context<Cpu>, Progress) + Sync,
) {
    std::thread::scope(|scope| {
        for seat in threads::seats::<Cpu>(size, timeout) {
            let body = &body;
            scope.spawn(move || {
                let (ctx, progress) = (context(), Progress::default());
                let mut world = seat.take(&ctx.device, overlap, progress.clone()).unwrap();
                body(&mut world, ctx, progress);
            });
        }
    });
}

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn calls_in_the_background_conform() {
    for size in [1, 2, 3, 4, 7] {
        on_ranks(size, Overlap::Background, PATIENCE, |world, ctx, _| {
            conformance::all(&mut Rank { world, ctx }, |_| true, |_| ());
        });
    }
}

/// All but the check that needs several calls under way at once.
#[test]
fn calls_in_the_calling_thread_conform() {
    for size in [2, 3] {
        on_ranks(size, Overlap::None, PATIENCE, |world, ctx, _| {
            let mut rank = Rank { world, ctx };
            let checks = conformance::checks().into_iter().filter(|(name, _)| !name.contains("late rank"));
            checks.for_each(|(_, check)| check(&mut rank));
        });
    }
}

#[test]
fn the_newest_call_is_noted_with_its_unit() {
    on_ranks(2, Overlap::Background, PATIENCE, |world, ctx, progress| {
        progress.note(|activity| activity.unit = Some("block 3".into()));
        world.run(Call::AllGather, upload(&ctx, &[1.0_f32; 2])).unwrap();
        let newest = progress.read().0.collective.unwrap();
        assert_eq!((&*newest.axis, &*newest.kind, newest.sequence), ("world", "all_gather", 0));
        assert_eq!((newest.unit.as_deref(), newest.done), (Some("block 3"), true));
    });
}

#[test]
fn a_rank_that_is_late_is_named() {
    for overlap in [Overlap::Background, Overlap::None] {
        let start = Instant::now();
        on_ranks(3, overlap, Duration::from_millis(100), |world, ctx, _| {
            if world.rank() == 1 {
                std::thread::sleep(Duration::from_millis(400));
            }
            let error = world.run(Call::AllGather, upload(&ctx, &[1.0_f32; 6])).err().unwrap();
            let CommError::Failed(failure) = error else { panic!("{error}") };
            assert_eq!((failure.rank, failure.exit_code), (1, 1));
            let cause = &failure.cause;
            assert!(cause.contains("world #0, all_gather of 6 f32, for rank 1"), "{cause}");
            assert!(cause.contains("run.collective_timeout_s"), "{cause}");
        });
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_message_that_does_not_come_names_its_sender() {
    on_ranks(2, Overlap::Background, Duration::from_millis(100), |world, ctx, _| {
        if world.rank() == 0 {
            let error =
                world.run(Call::Recv { from: 1 }, upload(&ctx, &[1.0_f32; 6])).err().unwrap().to_string();
            assert!(error.contains("rank 1: late") && error.contains("recv of 6 f32"), "{error}");
        }
    });
}

#[test]
fn an_abort_wakes_every_rank_of_every_group() {
    let seats = threads::seats::<Cpu>(4, Duration::from_secs(60));
    let (aborter, waiting) = (seats[0].aborter(), Arc::new(AtomicUsize::new(0)));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for seat in seats {
            let waiting = Arc::clone(&waiting);
            scope.spawn(move || {
                let ctx = context();
                let mut world = seat.take(&ctx.device, Overlap::Background, Progress::default()).unwrap();
                let rank = world.rank();
                let mut pair = world.split("tp", rank / 2, rank).unwrap();
                waiting.fetch_add(1, Ordering::Relaxed);
                if rank % 2 == 1 {
                    return;
                }
                let call = if rank == 0 { Call::AllReduce(ReduceOp::Sum) } else { Call::Recv { from: 1 } };
                let error = pair.run(call, upload(&ctx, &[1_u32])).err().unwrap();
                assert_eq!(error.to_string(), "rank 3: died: test");
                let error = world.run(Call::AllGather, upload(&ctx, &[1_u32; 4])).err().unwrap();
                assert_eq!(error.to_string(), "rank 3: died: test");
            });
        }
        while waiting.load(Ordering::Relaxed) < 4 {
            std::thread::sleep(Duration::from_millis(1));
        }
        aborter(&Failure::fault(3, "died: test"));
    });
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_send_that_nobody_takes_ends_with_the_failure() {
    let mut seats = threads::seats::<Cpu>(2, Duration::from_secs(60));
    let aborter = seats[0].aborter();
    let ctx = context();
    let mut world = seats.remove(0).take(&ctx.device, Overlap::Background, Progress::default()).unwrap();
    let sent = world.start(Call::Send { to: 1 }, upload(&ctx, &[1_u32])).unwrap();
    let block = ctx.arena.block(tisserand_kernels::Class::Batch, DType::U32, 1).unwrap();
    let received = world.start(Call::Recv { from: 1 }, block).unwrap();
    aborter(&Failure::fault(1, "died"));
    assert_eq!(sent.wait().err().unwrap().to_string(), "rank 1: died");
    assert_eq!(received.wait().err().unwrap().to_string(), "rank 1: died");
}
