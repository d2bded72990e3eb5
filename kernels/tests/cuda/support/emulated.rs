//! The emulated device, in all its settings.

use tisserand_kernels::cuda::driver::emulated::{Completion, Emulated, Schedule, Settings};
use tisserand_kernels::{Context, Cuda};

use super::CAPACITY_BYTES;

/// The device under test.
pub(crate) type Dev = Cuda<Emulated>;

/// Runs `body` once for each setting that a result must not depend on: the order of threads, and the time when
/// work on streams and asynchronous work in kernels happens. On a GPU, once.
///
/// # Panics
/// Where `body` does; the setting stands on standard error before that.
pub(crate) fn for_each_setting(body: impl Fn(&Context<Dev>)) {
    for settings in settings(32) {
        run(settings, &body);
    }
}

/// As [`for_each_setting`], in one of the settings: for many cases, of which others go through all settings.
///
/// # Panics
/// As [`for_each_setting`].
pub(crate) fn in_one_setting(body: impl Fn(&Context<Dev>)) {
    let [_, random, ..] = settings(32);
    run(random, &body);
}

/// As [`for_each_setting`], with warps of 64 threads, in one order. On a GPU of warps of 32, not at all.
///
/// # Panics
/// As [`for_each_setting`].
pub(crate) fn with_warps_of_64(body: impl Fn(&Context<Dev>)) {
    let [_, random, ..] = settings(64);
    run(random, &body);
}

/// Runs `body` with accesses counted.
///
/// # Panics
/// As [`for_each_setting`].
pub(crate) fn counting(body: impl Fn(&Context<Dev>)) {
    run(Settings { count_accesses: true, ..Settings::default() }, body);
}

/// The settings of [`for_each_setting`], for warps of this size.
pub(crate) fn settings(warp_size: u32) -> [Settings; 4] {
    let with = |schedule, completion| Settings { schedule, completion, warp_size, ..Settings::default() };
    [
        with(Schedule::RoundRobin, Completion::Early),
        with(Schedule::Random(1), Completion::Late),
        with(Schedule::Random(2), Completion::Mixed(0b10)),
        with(Schedule::WarpSkewed(3), Completion::Late),
    ]
}

fn run(settings: Settings, body: impl Fn(&Context<Dev>)) {
    eprintln!("with {settings:?}");
    body(&context(settings));
}

/// A context with these settings.
///
/// # Panics
/// If there is no memory for it.
pub(crate) fn context(settings: Settings) -> Context<Dev> {
    Context::new(Cuda::new(Emulated::new(settings)), CAPACITY_BYTES).expect("emulated device")
}

/// Asserts that the kernels which `run` launches touch at most `ratio` times the sectors of global memory that their
/// bytes fill. `run` is to take tensors that are aligned. On a GPU, nothing: nothing counts there.
///
/// # Panics
/// With the counters if they touch more.
pub(crate) fn assert_coalesced(what: &str, ratio: f64, run: impl FnOnce(&Context<Dev>)) {
    let ctx = context(Settings { count_accesses: true, ..Settings::default() });
    run(&ctx);
    let counters = ctx.device.driver().counters();
    assert!(counters.global_accesses > 0, "{what}: no accesses were counted");
    let (sectors, at_best) = (counters.global_sectors as f64, counters.global_sectors_at_best as f64);
    assert!(sectors <= ratio * at_best, "{what}: {counters:?}");
}
