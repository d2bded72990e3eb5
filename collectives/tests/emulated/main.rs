//! Ranks that are threads, with emulated GPUs: the conformance suite on streams that are late, early and both, every
//! wait forgotten in turn, how often the host waits, and for how long the streams do.

#[path = "../conformance/mod.rs"]
mod conformance;
mod forgotten;
mod times;

use std::time::Duration;

use conformance::Rank;
use tisserand_collectives::threads::{self, Overlap};
use tisserand_collectives::{Communicator, Progress, Threads};
use tisserand_kernels::cuda::driver::Driver;
use tisserand_kernels::cuda::driver::emulated::{Completion, Emulated, HostWaits, Settings};
use tisserand_kernels::testing::upload;
use tisserand_kernels::{Context, Cuda};

const PATIENCE: Duration = Duration::from_secs(300);

/// The first stream of a device is its rank's own, those of communicators follow.
const COMPLETIONS: [Completion; 4] =
    [Completion::Late, Completion::Early, Completion::Mixed(0b01), Completion::Mixed(!1)];

fn device(completion: Completion) -> Emulated {
    Emulated::new(Settings { completion, ..Settings::default() })
}

fn context<Dr: Driver>(driver: Dr, capacity_bytes: usize) -> Context<Cuda<Dr>> {
    Context::new(Cuda::new(driver), capacity_bytes).unwrap()
}

/// Runs `body` on a rank for each of `drivers`, with an arena of so many bytes; what they return, by rank. A rank's
/// panic is this call's.
fn on_ranks<Dr: Driver, T: Send>(
    drivers: Vec<Dr>,
    capacity_bytes: usize,
    overlap: Overlap,
    body: impl Fn(&mut Threads<Cuda<Dr>>, Context<Cuda<Dr>>, Progress) -> T + Sync,
) -> Vec<T> {
    let seats = threads::seats::<Cuda<Dr>>(drivers.len(), PATIENCE);
    std::thread::scope(|scope| {
        let ranks = seats.into_iter().zip(drivers).map(|(seat, driver)| {
            let body = &body;
            scope.spawn(move || {
                let (ctx, progress) = (context(driver, capacity_bytes), Progress::default());
                let mut world = seat.take(&ctx.device, overlap, progress.clone()).unwrap();
                body(&mut world, ctx, progress)
            })
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn calls_conform_whenever_streams_do_their_work() {
    for (completion, size) in COMPLETIONS.into_iter().zip([2, 2, 3, 2]) {
        eprintln!("{completion:?}, {size} ranks");
        let devices = (0..size).map(|_| device(completion)).collect();
        on_ranks(devices, 32 << 20, Overlap::Background, |world, ctx, _| {
            conformance::all(&mut Rank { world, ctx }, |_| true, |_| ());
        });
    }
}

#[test]
fn calls_of_ranks_that_share_a_device_conform() {
    let shared = device(Completion::Mixed(0b1010_1010));
    let handles = vec![shared.fork().unwrap(), shared.fork().unwrap()];
    on_ranks(handles, 32 << 20, Overlap::Background, |world, ctx, _| {
        conformance::all(&mut Rank { world, ctx }, |_| true, |_| ());
    });
}

/// All but the check that needs several calls under way at once.
#[test]
fn calls_in_the_calling_thread_conform() {
    let devices = vec![device(Completion::Late), device(Completion::Early)];
    on_ranks(devices, 32 << 20, Overlap::None, |world, ctx, _| {
        let mut rank = Rank { world, ctx };
        let checks = conformance::checks().into_iter().filter(|(name, _)| !name.contains("late rank"));
        checks.for_each(|(_, check)| check(&mut rank));
    });
}

#[test]
fn no_call_makes_the_host_wait_for_the_device() {
    for overlap in [Overlap::Background, Overlap::None] {
        for size in [1, 2, 3] {
            let devices = (0..size).map(|_| device(Completion::Late)).collect();
            on_ranks(devices, 1 << 20, overlap, |world, ctx, _| {
                for call in forgotten::collectives() {
                    let block = upload(&ctx, &vec![1.0_f32; 12 * size]);
                    drop(world.run(call, block).unwrap());
                }
                if size > 1 && overlap == Overlap::Background {
                    forgotten::message(world, upload(&ctx, &[2.0_f32; 5]));
                }
                world.barrier().unwrap();
                assert_eq!(ctx.device.driver().host_waits(), HostWaits::default());
            });
        }
    }
}
