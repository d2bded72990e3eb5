//! What the tests of all families share: the device, and the settings that a body must hold for.

use tisserand_kernels::cuda::driver::emulated::{Completion, Emulated, Schedule, Settings};
use tisserand_kernels::{Context, Cpu, Cuda, DType};

/// The device under test.
pub(crate) type Dev = Cuda<Emulated>;

/// The types of floating-point tensors.
pub(crate) const FLOATS: [DType; 2] = [DType::F32, DType::Bf16];

/// Arena of a test. Emulated memory costs time by the byte, so it is small.
const CAPACITY_BYTES: usize = 16 << 20;

/// Runs `body` once for each setting that a kernel's result must not depend on: the order of threads, and the
/// time when asynchronous work happens.
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

/// As [`for_each_setting`], with warps of 64 threads, in one order.
///
/// # Panics
/// As [`for_each_setting`].
pub(crate) fn with_warps_of_64(body: impl Fn(&Context<Dev>)) {
    let [_, random, ..] = settings(64);
    run(random, &body);
}

fn settings(warp_size: u32) -> [Settings; 4] {
    let late =
        |schedule| Settings { schedule, completion: Completion::Late, warp_size, ..Settings::default() };
    [
        Settings { warp_size, ..Settings::default() },
        late(Schedule::Random(1)),
        late(Schedule::Random(2)),
        late(Schedule::WarpSkewed(3)),
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

/// The CPU device, to compare with.
///
/// # Panics
/// If there is no memory for it.
pub(crate) fn cpu() -> Context<Cpu> {
    Context::new(Cpu::new(1).expect("CPU device"), CAPACITY_BYTES).expect("arena")
}
