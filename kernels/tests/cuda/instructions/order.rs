//! Barriers, fences and atomic operations.

use tisserand_kernels::Context;

use super::{Bench, random_words};
use crate::support::{Dev, for_each_setting, with_warps_of_64};

/// Of each kernel here.
const THREADS: usize = 128;

/// Many times on a GPU, where a mistake shows now and then; the emulator has schedules instead.
const TIMES: usize = if cfg!(feature = "emulator") { 1 } else { 200 };

fn in_both_warps(check: impl Fn(&Context<Dev>, usize)) {
    for_each_setting(|ctx| (0..TIMES).for_each(|_| check(ctx, 32)));
    with_warps_of_64(|ctx| check(ctx, 64));
}

#[test]
fn what_is_written_before_a_barrier_is_read_after_it() {
    in_both_warps(|ctx, _| {
        let bench = Bench::new(ctx, &[0_u32]);
        bench.run("instruction_syncs", [3, 1, 1], 128, 4 * THREADS, &[bench.out(0, 3 * 4 * THREADS)]);
        let want: Vec<u32> = (0..3).flat_map(|block| [128 * block + 127 * 64; THREADS]).collect();
        assert_eq!(bench.read::<u32>(3 * THREADS), want);
    });
}

#[test]
fn warps_meet_at_named_barriers() {
    let x = random_words(7, 7 * 64);
    in_both_warps(|ctx, warp| {
        for tiles in [1, 2, 3, 7] {
            let bench = Bench::new(ctx, &x);
            let args =
                [bench.x(0, 4 * tiles * warp), bench.out(0, 4 * (THREADS - warp)), (tiles as u32).into()];
            bench.run("instruction_named_barriers", [1; 3], 128, 8 * warp, &args);
            let term = |i: usize| x[i].wrapping_mul((i % warp) as u32 + 1);
            let want = (0..tiles * warp).map(term).fold(0, u32::wrapping_add);
            assert_eq!(bench.read::<u32>(THREADS - warp), vec![want; THREADS - warp], "{tiles} tiles");
        }
    });
}

#[test]
fn a_block_sees_what_was_written_before_its_release() {
    in_both_warps(|ctx, _| {
        let bench = Bench::new(ctx, &[0_u32]);
        bench.set_out(&[0_u32; 256]);
        let args = [bench.out(0, 4), bench.out(512, 4 * THREADS)];
        bench.run("instruction_release_acquire", [9, 1, 1], 128, 0, &args);
        let want = (0..9).fold(0, |word, block| word * 3 + block);
        let got = bench.read::<u32>(256);
        assert_eq!((got[0], &got[128..]), (9, &[want; THREADS][..]));
    });
}

#[test]
fn the_last_block_to_count_sees_what_all_have_left() {
    in_both_warps(|ctx, _| {
        let bench = Bench::new(ctx, &[0_u32]);
        bench.set_out(&[0_u32]);
        let args = [bench.out(0, 4), bench.out(1024, 6 * 4 * THREADS), bench.out(512, 4 * THREADS)];
        bench.run("instruction_atomic_add", [6, 1, 1], 128, 4, &args);
        let got = bench.read::<u32>(256);
        assert_eq!(got[0], 6);
        assert_eq!(got[128..], (0..128).map(|i| 15 * i).collect::<Vec<u32>>());
    });
}
