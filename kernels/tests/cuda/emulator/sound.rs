//! Sound kernels: the emulator has no objection in any order of threads, with copies early or late, and what it
//! computes is right, down to the fragments of the tensor cores.

use super::proofs::{Bench, grid};
use crate::support::settings;
use half::bf16;
use tisserand_kernels::cuda::driver::emulated::Settings;

fn for_each_order(warps: &[u32], body: impl Fn(u32, &dyn Fn() -> Bench)) {
    for warp in warps {
        for settings in settings(*warp) {
            for live_blocks in [1, 2, 5] {
                body(*warp, &|| Bench::new(Settings { live_blocks, ..settings }));
            }
        }
    }
}

#[test]
fn producer_and_consumers_meet_at_named_barriers() {
    for_each_order(&[32, 64], |warp, bench| {
        for tiles in [1, 2, 3, 7] {
            let bench = bench();
            let args = [bench.x(4 * (warp * tiles) as usize), bench.out(512), tiles.into()];
            bench.run("instruction_named_barriers", grid(1, 128, 8 * warp as usize), &args).unwrap();
            let expected = (0..tiles * warp).map(|i| (i + 1) * (i % warp + 1)).sum::<u32>();
            assert!(bench.words((128 - warp) as usize).iter().all(|sum| *sum == expected));
        }
    });
}

#[test]
fn copies_through_a_ring_arrive() {
    for_each_order(&[32, 64], |_, bench| {
        for (tiles, valid) in [(1, 16), (2, 16), (3, 12), (6, 16), (5, 0)] {
            let bench = bench();
            let args = [bench.x(2048 * tiles as usize), bench.out(512), tiles.into(), valid.into()];
            bench.run("sound_copy_ring", grid(1, 128, 3 * 128 * 16), &args).unwrap();
            let word = |tile: u32, thread: u32, i: u32| (tile * 128 + thread) * 4 + i + 1;
            let expected = |thread: u32| -> u32 {
                let of_tile =
                    |tile| (0..valid / 4).map(move |i| (tile + 1) * (i + 1) * word(tile, thread, i));
                (0..tiles).flat_map(of_tile).sum()
            };
            assert_eq!(bench.words(128), (0..128).map(expected).collect::<Vec<_>>(), "{tiles} tiles");
        }
    });
}

#[test]
fn lanes_exchange_through_shared_memory() {
    for_each_order(&[32, 64], |warp, bench| {
        let bench = bench();
        bench.run("sound_exchange_in_a_warp", grid(3, 128, 512), &[bench.out(512)]).unwrap();
        let of_warp = |thread: u32| (thread / warp * warp..(thread / warp + 1) * warp).sum();
        assert_eq!(bench.words(128), (0..128).map(of_warp).collect::<Vec<u32>>());
    });
}

#[test]
fn blocks_take_turns() {
    for_each_order(&[32, 64], |_, bench| {
        let bench = bench();
        bench
            .run("instruction_release_acquire", grid(9, 128, 0), &[bench.out(4), bench.out_from(512, 512)])
            .unwrap();
        let expected = (0..9).fold(0, |sum, block| sum * 3 + block);
        assert_eq!(bench.words_from(128, 128), [expected; 128]);
        assert_eq!(bench.words(1), [9]);
    });
}

#[test]
fn every_tile_of_a_counter_is_taken_once() {
    for_each_order(&[32, 64], |_, bench| {
        let bench = bench();
        let args = [bench.out(4), bench.out_from(512, 11 * 512), 11_u32.into()];
        bench.run("sound_tile_counter", grid(4, 128, 4), &args).unwrap();
        assert_eq!(bench.words(1), [11 + 4]);
        assert_eq!(bench.words_from(128, 11 * 128), (0..11 * 128).map(|i| i / 128 + 1).collect::<Vec<u32>>());
    });
}

#[test]
fn the_last_block_sees_what_all_have_left() {
    for_each_order(&[32, 64], |_, bench| {
        let bench = bench();
        let args = [bench.out(4), bench.out_from(1024, 6 * 512), bench.out_from(512, 512)];
        bench.run("sound_last_block", grid(6, 128, 4), &args).unwrap();
        assert_eq!(bench.words_from(128, 128), (0..128).map(|i| 15 + 6 * i).collect::<Vec<u32>>());
    });
}

#[test]
fn shuffles_and_votes_of_both_sizes_of_warps() {
    for_each_order(&[32, 64], |warp, bench| {
        let bench = bench();
        bench.run("sound_shuffles", grid(1, 128, 0), &[bench.x(512), bench.out(12 * 512)]).unwrap();
        let x = |thread: u32| thread + 1;
        let row = |row: usize| bench.words_from(row * 128, 128);
        let of_all = |of: &dyn Fn(u32, u32) -> u32| {
            (0..128).map(|thread| of(thread / warp * warp, thread % warp)).collect::<Vec<u32>>()
        };
        for i in 0..warp.ilog2() {
            assert_eq!(row(i as usize), of_all(&|first, lane| x(first + (lane ^ 1 << i))));
        }
        assert_eq!(row(6), of_all(&|first, lane| x(first + if lane + 5 < warp { lane + 5 } else { lane })));
        assert_eq!(row(7), of_all(&|first, lane| x(first + (lane * 7 + 3) % warp)));
        let votes =
            |first: u32| (0..warp).map(|lane| u64::from(x(first + lane) % 3 == 0) << lane).sum::<u64>();
        assert_eq!(row(8), of_all(&|first, _| votes(first) as u32));
        assert_eq!(row(9), of_all(&|first, _| (votes(first) >> 32) as u32));
        assert_eq!(row(10), [1; 128]);
        assert_eq!(row(11), [2; 128]);
    });
}

/// Small whole numbers, so that every sum is exact in any order.
fn small(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + seed * 11) % 17) as f32 - 8.0).collect()
}

fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| bf16::from_f32(*x).to_ne_bytes()).collect()
}

/// Two products, 16 × 16 by 16 × 8, one for each warp.
#[test]
fn fragments_are_those_of_a_plain_product() {
    let (a, b) = (small(2 * 256, 1), small(2 * 128, 2));
    let product = |warp: usize, m: usize, n: usize| -> f32 {
        (0..16).map(|k| a[warp * 256 + m * 16 + k] * b[warp * 128 + k * 8 + n]).sum()
    };
    let expected: Vec<u32> = (0..256).map(|i| product(i / 128, i % 128 / 8, i % 8).to_bits()).collect();
    for_each_order(&[32], |_, bench| {
        let bench = bench();
        bench.set_x(&[bf16_bytes(&a), bf16_bytes(&b)].concat());
        let args = [bench.x(1024), bench.x_from(1024, 512), bench.out(1024)];
        bench.run("sound_product_of_fragments", grid(1, 64, 0), &args).unwrap();
        assert_eq!(bench.words(256), expected);
        bench.run("sound_product_through_shared", grid(1, 64, 1024 + 512), &args).unwrap();
        assert_eq!(bench.words(256), expected);
        // To what is there already.
        bench.run("sound_product_of_fragments", grid(1, 64, 0), &args).unwrap();
        let twice = expected.iter().map(|bits| (2.0 * f32::from_bits(*bits)).to_bits());
        assert_eq!(bench.words(256), twice.collect::<Vec<_>>());
    });
}

#[test]
fn matrices_go_to_the_lanes_that_the_manual_names() {
    let elements: Vec<u16> = (0..256).map(|i| 1000 + i).collect();
    let element = |m: u32, row: u32, column: u32| 1000 + m * 64 + row * 8 + column;
    let plain = |m, lane: u32| {
        let (g, t) = (lane / 4, lane % 4);
        element(m, g, 2 * t) | element(m, g, 2 * t + 1) << 16
    };
    let transposed = |m, lane: u32| {
        let (g, t) = (lane / 4, lane % 4);
        element(m, 2 * t, g) | element(m, 2 * t + 1, g) << 16
    };
    for_each_order(&[32], |_, bench| {
        let bench = bench();
        bench.set_x(bytemuck::must_cast_slice(&elements));
        let args = [bench.x(512), bench.out(512), bench.out_from(512, 512), bench.out_from(1024, 512)];
        bench.run("sound_matrices", grid(1, 64, 1024), &args).unwrap();
        let all = |of: &dyn Fn(u32, u32) -> u32| (0..128).map(|i| of(i / 32, i % 32)).collect::<Vec<u32>>();
        assert_eq!(bench.words(128), all(&plain));
        assert_eq!(bench.words_from(128, 128), all(&transposed));
        let back: Vec<u16> =
            bench.words_from(256, 128).iter().flat_map(|w| [*w as u16, (*w >> 16) as u16]).collect();
        assert_eq!(back, elements);
    });
}
