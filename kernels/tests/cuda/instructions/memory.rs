//! Accesses to device and shared memory, and asynchronous copies.

use bytemuck::Pod;
use tisserand_kernels::cuda::Arg;

use super::{Bench, random_words};
use crate::support::for_each_setting;

/// Threads of the kernels here.
const THREADS: usize = 64;

/// The kernel writes `x` six times.
fn assert_copies<T: Pod + PartialEq + std::fmt::Debug>(kernel: &'static str) {
    let words = random_words(4, THREADS * 4);
    let x: &[T] = bytemuck::cast_slice(&words);
    for_each_setting(|ctx| {
        let bench = Bench::new(ctx, x);
        let bytes = THREADS * 16;
        bench.run(kernel, [1; 3], THREADS as u32, 0, &[bench.x(0, bytes), bench.out(0, 6 * bytes)]);
        for (way, copy) in bench.read::<T>(6 * x.len()).chunks(x.len()).enumerate() {
            assert_eq!(copy, x, "{kernel}, copy {way}");
        }
    });
}

#[test]
fn every_access_to_device_memory_moves_what_is_there() {
    assert_copies::<u16>("instruction_copies_bf16");
    assert_copies::<u32>("instruction_copies_f32");
    assert_copies::<u32>("instruction_copies_u32");
    assert_copies::<u8>("instruction_copies_u8");
}

#[test]
fn a_kernel_sees_which_tensors_there_are_and_how_they_lie() {
    for_each_setting(|ctx| {
        let bench = Bench::new(ctx, &[0_u32; 8]);
        bench.run("instruction_tensors", [1; 3], 64, 0, &[bench.x(0, 32), Arg::Absent, bench.out(0, 8)]);
        assert_eq!(bench.read::<u32>(2), [1, 1 + 4]);
    });
}

#[test]
fn every_access_to_shared_memory_moves_what_is_there() {
    let x = random_words(5, 4 * THREADS);
    let other = |me: usize| THREADS - 1 - me;
    let expected = |row: usize, me: usize| match row {
        0 | 2 => x[other(me)],
        1 => x[me % 3] & 0xff,
        3 => x[other(me)] >> 16,
        4..8 => x[4 * other(me) + row - 4],
        _ => x[4 * other(me) + row - 8],
    };
    for_each_setting(|ctx| {
        let bench = Bench::new(ctx, &x);
        let shared_bytes = 16 + THREADS * 4 * 4 + THREADS * 8 * 2;
        let args = [bench.x(0, 4 * x.len()), bench.out(0, 10 * 4 * THREADS)];
        bench.run("instruction_shared", [1; 3], THREADS as u32, shared_bytes, &args);
        for (row, got) in bench.rows(10, THREADS).into_iter().enumerate() {
            assert_eq!(got, (0..THREADS).map(|me| expected(row, me)).collect::<Vec<_>>(), "row {row}");
        }
    });
}

#[test]
fn asynchronous_copies_bring_what_is_valid_and_zeros() {
    let x = random_words(6, 8 * THREADS * 4);
    for_each_setting(|ctx| {
        for (tiles, valid_bytes) in [(1, 16), (2, 16), (8, 16), (5, 12), (4, 8), (3, 4), (3, 0)] {
            let bench = Bench::new(ctx, &x);
            let bytes = tiles * THREADS * 16;
            let args = [
                bench.x(0, bytes),
                bench.out(0, 4 * THREADS),
                (tiles as u32).into(),
                (valid_bytes as u32).into(),
            ];
            bench.run("instruction_copy_async", [1; 3], THREADS as u32, 3 * THREADS * 16, &args);
            let of_tile = |tile: usize, other: usize| {
                let word = |i: usize| x[(tile * THREADS + other) * 4 + i].wrapping_mul(i as u32 + 1);
                let sum = (0..valid_bytes / 4).map(word).fold(0, u32::wrapping_add);
                sum.wrapping_mul(tile as u32 + 1)
            };
            let of_all = |other| (0..tiles).map(|tile| of_tile(tile, other)).fold(0, u32::wrapping_add);
            let want: Vec<u32> = (0..THREADS).map(|me| of_all(THREADS - 1 - me)).collect();
            assert_eq!(bench.read::<u32>(THREADS), want, "{tiles} tiles, {valid_bytes} bytes");
        }
    });
}
