//! Every way of being broken that the emulator knows, by a kernel that is: each is caught in every order of
//! threads, and the report names the line.

use super::proofs::{Bench, KernelArg, grid};
use crate::support::{context, settings};
use tisserand_kernels::cuda::{Arg, LaunchConfig};
use tisserand_kernels::ops::elementwise::{cast, fill};
use tisserand_kernels::testing::upload;
use tisserand_kernels::{Class, DType, Result, Storage};

const SOURCES: [(&str, &str); 2] = [
    ("broken.cu", include_str!("../../../emulator/proofs/broken.cu")),
    ("races.cu", include_str!("../../../emulator/proofs/races.cu")),
];

/// `FILE:LINE: ` of each line that may be reported for this kernel.
fn places(kernel: &str) -> Vec<String> {
    let mark = format!("// caught: {}", kernel.strip_prefix("broken_").expect("a broken kernel"));
    let lines =
        SOURCES.iter().flat_map(|(file, source)| source.lines().zip(1..).map(move |line| (file, line)));
    let marked = lines.filter(|(_, (line, _))| line.ends_with(&mark));
    marked.map(|(file, (_, number))| format!(" {file}:{number}: ")).collect()
}

fn message(result: Result<()>) -> String {
    result.expect_err("the mistake was not seen").to_string()
}

/// Runs a broken kernel in all orders. Each time its report must name the kernel and a marked line, and then
/// begin with one of these words.
fn assert_caught(
    kernel: &'static str,
    says: &[&str],
    config: LaunchConfig,
    args: impl for<'a> Fn(&'a Bench) -> Vec<KernelArg<'a>>,
) {
    let places = places(kernel);
    assert!(!places.is_empty(), "{kernel} marks no line");
    for settings in settings(32) {
        let bench = Bench::new(settings);
        let report = message(bench.run(kernel, config, &args(&bench)));
        let expected =
            places.iter().any(|place| says.iter().any(|says| report.contains(&format!("{place}{says}"))));
        assert!(expected, "{settings:?}: {report}\nexpected {says:?} at {places:?}");
        assert!(report.contains(&format!("kernel {kernel}, block (")), "{report}");
    }
}

const ONE: LaunchConfig = LaunchConfig { grid: [1, 1, 1], threads: 64, shared_bytes: 0 };

fn one_with(shared_bytes: usize) -> LaunchConfig {
    ONE.with_shared_bytes(shared_bytes)
}

/// Kernels with no parameter but `out`.
fn assert_caught_alone(kernel: &'static str, says: &[&str], config: LaunchConfig) {
    assert_caught(kernel, says, config, |bench| vec![bench.out(2048)]);
}

#[test]
fn a_deadlock_ends_the_launch() {
    let says = &["deadlock"];
    assert_caught_alone("broken_barrier_some_never_reach", says, ONE);
    assert_caught_alone("broken_polls_in_vain", says, ONE);
    assert_caught_alone("broken_polls_for_a_later_block", says, grid(3, 64, 0));
    assert_caught_alone("broken_spins_on_plain_loads", says, ONE);
}

#[test]
fn a_deadlock_names_all_who_wait() {
    let bench = Bench::new(settings(32)[0]);
    let report = message(bench.run("broken_polls_for_a_later_block", grid(3, 64, 0), &[bench.out(4)]));
    let counts = "it waits for a value that nobody writes (128 threads wait, 0 have ended)";
    assert!(report.contains(counts), "{report}");
}

#[test]
fn threads_of_a_warp_that_part_are_caught() {
    let says = &["divergence"];
    assert_caught_alone("broken_shuffle_in_a_branch", says, ONE);
    assert_caught_alone("broken_shuffles_of_different_distance", says, ONE);
    assert_caught_alone("broken_barrier_in_a_branch", says, ONE);
    assert_caught_alone("broken_ends_before_a_shuffle", says, ONE);
    assert_caught_alone("broken_ends_before_a_barrier", says, ONE);
    assert_caught_alone("broken_shuffle_from_no_lane", &["out of bounds"], ONE);
}

#[test]
fn misuse_of_a_barrier_is_caught() {
    let says = &["barrier misuse"];
    assert_caught_alone("broken_barrier_counts_differ", says, grid(1, 128, 0));
    assert_caught_alone("broken_barrier_twice", says, ONE);
    assert_caught_alone("broken_barrier_incomplete_at_the_end", says, ONE);
    assert_caught_alone("broken_barrier_of_no_whole_warps", says, ONE);
    assert_caught_alone("broken_barriers_differ_in_a_warp", says, ONE);
}

#[test]
fn reads_of_what_nothing_has_written_are_caught() {
    let says = &["uninitialised"];
    for freed in [1, 4, 256] {
        assert_caught("broken_reads_poisoned_memory", says, ONE, |bench| {
            bench.free_x(freed);
            vec![bench.x(256), bench.out(256)]
        });
        assert_caught("broken_adds_to_poisoned_memory", says, ONE, |bench| {
            bench.free_x(freed);
            vec![bench.x_mut(256), bench.out(256)]
        });
    }
    assert_caught_alone("broken_reads_unwritten_shared", says, one_with(256));
}

#[test]
fn a_kernel_that_reads_a_freed_block_is_caught() {
    for settings in settings(32) {
        let ctx = context(settings);
        let old = upload(&ctx, &[1.0_f32; 97]);
        drop(old);
        // The same place, of which all elements but the last are written again.
        let block = || ctx.arena.block(Class::Activations, DType::F32, 97).unwrap();
        let (mut x, mut y) = (block(), block());
        fill(&ctx, 2.0, x.range_mut(0, [96])).unwrap();
        let report =
            message(cast(&ctx, x.view([97]), y.view_mut([97])).and_then(|()| ctx.device.synchronize()));
        assert!(report.contains("uninitialised: reads byte 384 of a tensor of 388"), "{report}");
    }
}

#[test]
fn accesses_outside_are_caught() {
    let says = &["out of bounds"];
    let len = Arg::U64(64);
    assert_caught("broken_reads_one_beyond", says, ONE, |b| vec![b.x(256), b.out(256), len]);
    assert_caught("broken_reads_one_before", says, ONE, |b| vec![b.x_from(256, 256), b.out(256)]);
    assert_caught("broken_writes_one_beyond", says, ONE, |b| vec![b.out(128), len]);
    assert_caught("broken_writes_one_before", says, ONE, |b| vec![b.out_from(128, 128)]);
    assert_caught("broken_pack_ends_beyond", says, ONE, |b| vec![b.x(1022), b.out(128)]);
    assert_caught_alone("broken_writes_into_the_next_shared_array", says, one_with(256));
    assert_caught_alone("broken_reads_the_shared_array_before", says, one_with(16 + 256));
}

#[test]
fn misaligned_accesses_are_caught() {
    let says = &["misaligned"];
    assert_caught("broken_reads_misaligned", says, ONE, |b| vec![b.x(256), b.out(256)]);
    assert_caught("broken_writes_misaligned", says, ONE, |b| vec![b.x(256), b.out(256)]);
    assert_caught_alone("broken_shared_misaligned", says, one_with(256));
}

#[test]
fn races_in_shared_memory_are_caught() {
    let says = &["race"];
    assert_caught_alone("broken_race_of_two_warps", says, one_with(256));
    assert_caught_alone("broken_race_in_a_warp", says, one_with(256));
    assert_caught_alone("broken_race_past_a_shuffle", says, one_with(256));
    assert_caught_alone("broken_race_of_writers", says, one_with(256));
    assert_caught_alone("broken_race_with_readers", says, one_with(256));
    assert_caught_alone("broken_race_past_an_arrive", says, one_with(128));
    assert_caught_alone("broken_race_of_matrices", says, one_with(1024));
}

#[test]
fn asynchronous_copies_used_wrongly_are_caught() {
    fn x_and_out(bench: &Bench) -> Vec<KernelArg<'_>> {
        vec![bench.x(1024), bench.out(256)]
    }
    let (says, both) = (&["asynchronous copy"], &["asynchronous copy", "race"]);
    assert_caught("broken_copy_read_before_its_wait", says, one_with(1024), x_and_out);
    assert_caught("broken_copy_read_before_a_barrier", both, one_with(1024), x_and_out);
    assert_caught("broken_copy_waits_after_the_barrier", both, one_with(1024), x_and_out);
    assert_caught("broken_copy_not_committed", says, one_with(1024), x_and_out);
    assert_caught("broken_copy_waits_for_one_group_too_few", says, one_with(2048), x_and_out);
    assert_caught("broken_copy_into_a_stage_in_use", both, one_with(1024), x_and_out);
    assert_caught("broken_copy_over_a_copy", says, one_with(1024), x_and_out);
    assert_caught("broken_copy_under_way_at_the_end", says, one_with(1024), x_and_out);
    assert_caught("broken_copy_of_too_many_bytes", says, one_with(1024), x_and_out);
    assert_caught("broken_copy_beyond_its_source", &["out of bounds"], one_with(1024), x_and_out);
}

#[test]
fn a_kernel_takes_exactly_the_shared_memory_of_its_launch() {
    assert_caught_alone("broken_takes_more_than_it_has", &["shared memory: takes 260 bytes"], one_with(256));
    let bench = Bench::new(settings(32)[0]);
    let report = message(bench.run("sound_exchange_in_a_warp", grid(1, 128, 528), &[bench.out(512)]));
    assert!(report.contains("its end: shared memory: it has taken 512 bytes, launched with 528"), "{report}");
}

/// Asserts that `sound_copy_ring` cannot be launched like this, for this reason.
macro_rules! assert_refused {
    ($says:expr, $config:expr, |$bench:ident| [$($arg:expr),*]) => {{
        let $bench = Bench::new(settings(32)[0]);
        let report = message($bench.run("sound_copy_ring", $config, &[$($arg.into()),*]));
        assert!(report.contains(&$says), "{report}\nexpected {}", $says);
    }};
}

#[test]
fn launches_that_do_not_fit_the_kernel_are_refused() {
    const RING: usize = 3 * 128 * 16;
    let config = grid(1, 128, RING);
    let misfit = |at: usize| format!("argument {at} does not fit");
    assert_refused!("has 4 parameters, launched with 3", config, |b| [b.x(4096), b.out(512), 2_u32]);
    assert_refused!(misfit(0), config, |b| [1_u32, b.out(512), 2_u32, 16_u32]);
    assert_refused!(misfit(1), config, |b| [b.x(4096), b.x(512), 2_u32, 16_u32]);
    assert_refused!(misfit(2), config, |b| [b.x(4096), b.out(512), 2_u64, 16_u32]);
    assert_refused!(misfit(3), config, |b| [b.x(4096), b.out(512), 2_u32, 16.0_f32]);
    let overlap = "argument 0 is only read, and overlaps argument 1, which is written";
    assert_refused!(overlap, config, |b| [b.x(4096), b.x_mut(4), 2_u32, 16_u32]);
    let many = grid(1, 192, RING);
    assert_refused!("192 threads; at most 128", many, |b| [b.x(4096), b.out(512), 2_u32, 16_u32]);
    let much = grid(1, 128, 227 * 1024 + 1);
    assert_refused!("232449 bytes of shared memory", much, |b| [b.x(4096), b.out(512), 2_u32, 16_u32]);
    let bench = Bench::new(settings(32)[0]);
    let report = message(bench.run("no_such_kernel", ONE, &[]));
    assert!(report.contains("no kernel no_such_kernel for warps of 32"), "{report}");
}

#[test]
fn a_device_goes_on_after_faults_of_others() {
    // Threads that were abandoned leave nothing behind, for launches on the same thread of the host or on others.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for settings in settings(32).into_iter().cycle().take(12) {
                    let bench = Bench::new(settings);
                    message(bench.run("broken_race_in_a_warp", one_with(256), &[bench.out(256)]));
                    let bench = Bench::new(settings);
                    bench.run("sound_exchange_in_a_warp", grid(7, 128, 512), &[bench.out(512)]).unwrap();
                    assert_eq!(bench.words(128)[33], (32..64).sum::<u32>());
                }
            });
        }
    });
}

/// Only where the emulator is instrumented: the report comes from AddressSanitizer, which ends the process.
#[cfg(tisserand_asan)]
mod asan {
    use super::*;

    #[test]
    #[ignore = "ends its process; the test below runs it in another"]
    fn leaves_a_local_array() {
        let bench = Bench::new(settings(32)[0]);
        bench.run("broken_leaves_a_local_array", ONE, &[bench.out(256), 8_u32.into()]).unwrap();
    }

    #[test]
    fn a_kernel_that_leaves_a_local_array_is_caught() {
        let program = std::env::current_exe().unwrap();
        let args = ["--ignored", "--exact", "emulator::faults::asan::leaves_a_local_array"];
        let output = std::process::Command::new(program).args(args).output().unwrap();
        let report = String::from_utf8_lossy(&output.stderr);
        let line = places("broken_leaves_a_local_array").remove(0);
        let place = line.trim().trim_end_matches(':');
        assert!(!output.status.success(), "it was not seen: {report}");
        assert!(report.contains("stack-buffer-overflow") && report.contains(place), "{report}");
    }
}
