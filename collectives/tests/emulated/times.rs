//! For how long a rank's stream waits for collectives.

use std::time::Duration;

use tisserand_collectives::threads::Overlap;
use tisserand_collectives::trace::What;
use tisserand_collectives::{Call, Communicator};
use tisserand_kernels::Storage;
use tisserand_kernels::cuda::driver::emulated::Completion;
use tisserand_kernels::testing::upload;

use crate::{device, on_ranks};

/// Long beside everything that the emulator does here, even on a machine that does much else.
const DELAY: Duration = Duration::from_millis(800);

#[test]
fn a_wait_lasts_until_the_slowest_rank_has_come() {
    for (completion, overlap) in [
        (Completion::Late, Overlap::Background),
        (Completion::Early, Overlap::Background),
        (Completion::Late, Overlap::None),
    ] {
        let devices = vec![device(completion), device(completion)];
        on_ranks(devices, 1 << 16, overlap, |world, ctx, progress| {
            let trace = progress.trace();
            trace.reserve(2);
            trace.record(true);
            let block = upload(&ctx, &[1.0_f32; 8]);
            if world.rank() == 1 {
                ctx.device.driver().stall(DELAY).unwrap();
            }
            let _block = world.run(Call::AllGather, block).unwrap();
            ctx.device.synchronize().unwrap();
            let waited = trace.take_waited();
            let kept = trace.take();
            assert_eq!((kept.events.len(), kept.lost), (2, 0));
            let is_wait = |event: &&tisserand_collectives::trace::Event| matches!(event.what, What::Wait(_));
            let wait = kept.events.iter().find(is_wait).unwrap();
            assert_eq!(wait.end - wait.begin, waited);
            if world.rank() == 0 {
                assert!(
                    waited >= DELAY / 2 && waited < 10 * DELAY,
                    "{completion:?}, {overlap:?}: {waited:?}"
                );
            }
        });
    }
}

#[test]
fn a_collective_behind_a_computation_is_hidden() {
    let devices = vec![device(Completion::Early), device(Completion::Early)];
    on_ranks(devices, 1 << 16, Overlap::Background, |world, ctx, progress| {
        let pending = world.start(Call::AllGather, upload(&ctx, &[1.0_f32; 8])).unwrap();
        ctx.device.driver().stall(DELAY).unwrap();
        let _block = pending.wait().unwrap();
        ctx.device.synchronize().unwrap();
        let waited = progress.trace().take_waited();
        assert!(waited < DELAY / 2, "{waited:?}");
    });
}

#[test]
fn what_is_not_reached_has_no_time_yet() {
    let devices = vec![device(Completion::Late), device(Completion::Late)];
    on_ranks(devices, 1 << 16, Overlap::Background, |world, ctx, progress| {
        let _block = world.run(Call::AllGather, upload(&ctx, &[1.0_f32; 8])).unwrap();
        world.barrier().unwrap();
        assert_eq!(progress.trace().take_waited(), Duration::ZERO);
        world.barrier().unwrap();
        ctx.device.synchronize().unwrap();
        assert!(progress.trace().take_waited() > Duration::ZERO);
    });
}
