//! The conformance suite over ranks that are threads.

mod conformance;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use conformance::{Rank, World, context};
use tisserand_collectives::threads::{self, Overlap};
use tisserand_collectives::{Call, CommError, Communicator, Failure, Progress, ReduceOp};
use tisserand_kernels::testing::upload;
use tisserand_kernels::{Cpu, DType};

struct Threads(Overlap);

impl World for Threads {
    fn run(&self, size: usize, timeout: Duration, body: &(dyn Fn(&mut Rank) + Sync)) {
        std::thread::scope(|scope| {
            for seat in threads::seats::<Cpu>(size, timeout) {
                scope.spawn(move || {
                    let ctx = context();
                    let progress = Progress::default();
                    let communicator = seat.take(&ctx.device, self.0, progress.clone()).unwrap();
                    body(&mut Rank { ctx, communicator: Box::new(communicator), progress });
                });
            }
        });
    }
}

#[test]
fn calls_in_the_background_conform() {
    conformance::all(&Threads(Overlap::Background), &[1, 2, 3, 4, 7]);
}

#[test]
fn calls_in_the_calling_thread_conform() {
    conformance::all(&Threads(Overlap::None), &[2, 3]);
}

#[test]
fn a_rank_that_is_late_is_named() {
    for overlap in [Overlap::Background, Overlap::None] {
        let start = Instant::now();
        Threads(overlap).run(3, Duration::from_millis(100), &|rank| {
            if rank.rank() == 1 {
                std::thread::sleep(Duration::from_millis(400));
            }
            let block = upload(&rank.ctx, &[1.0_f32; 6]);
            let error = rank.communicator.run(Call::AllGather, block).err().unwrap();
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
    Threads(Overlap::Background).run(2, Duration::from_millis(100), &|rank| {
        if rank.rank() == 0 {
            let block = upload(&rank.ctx, &[1.0_f32; 6]);
            let error = rank.communicator.run(Call::Recv { from: 1 }, block).err().unwrap().to_string();
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
