//! Sums of squares and their tree: the bits of the definitions, for all numbers of chunks and leaves.

use tisserand_kernels::ops::grad_norm::{self, GradNormKernels, reference};
use tisserand_kernels::ops::{CHUNK, Write};
use tisserand_kernels::testing::{
    assert_close, bits, cast, download, normal_f64, poisoned, tolerance, upload, upload_as,
};
use tisserand_kernels::{Block, Context, DType, Device};

#[cfg(feature = "emulator")]
use crate::support::counting;
use crate::support::{Dev, cpu, for_each_setting, in_one_setting, with_warps_of_64};

/// The partials of `len` elements from element `start` of a block.
fn partials<D: Device>(ctx: &Context<D>, start: usize, len: usize) -> Block<D> {
    let x = upload_as(ctx, DType::F32, &normal_f64(7, start + len));
    let chunks = len.div_ceil(CHUNK);
    let mut partials = poisoned(ctx, DType::F32, [chunks]);
    grad_norm::sum_of_squares(ctx, x.range(start, [len]), partials.view_mut([chunks])).unwrap();
    partials
}

fn assert_partials(ctx: &Context<Dev>) {
    for (start, len) in [
        (0, 0),
        (0, 1),
        (3, 17),
        (0, CHUNK - 1),
        (1, CHUNK),
        (0, CHUNK + 1),
        (0, 16 * CHUNK),
        (2, 17 * CHUNK + 7),
        (0, 40 * CHUNK + 31),
    ] {
        let got = partials(ctx, start, len);
        assert_eq!(bits(ctx, &got), bits(&cpu(), &partials(&cpu(), start, len)), "{len} from {start}");
        let want = reference::sum_of_squares(&normal_f64(7, start + len)[start..]);
        let bound = tolerance(DType::F32, CHUNK);
        assert_close(&format!("{len} from {start}"), &download(ctx, &got), &want, 0.0, bound);
    }
}

#[test]
fn sums_of_squares_have_the_bits_of_the_cpu_and_equal_the_reference() {
    for_each_setting(assert_partials);
    with_warps_of_64(assert_partials);
}

/// The tree over `values` from an odd address, and added to 0.75.
fn tree_sums(ctx: &Context<Dev>, values: &[f32]) -> [u32; 2] {
    [(Write::Replace, f32::NAN), (Write::Add, 0.75)].map(|(write, before)| {
        let mut padded = vec![f32::NAN];
        padded.extend_from_slice(values);
        let mut leaves = upload(ctx, &padded);
        let mut out = upload(ctx, &[before]);
        ctx.device.tree_sum(write, leaves.range_mut(1, [values.len()]), out.view_mut([1])).unwrap();
        bits(ctx, &out)[0]
    })
}

fn assert_trees(ctx: &Context<Dev>, lens: impl Iterator<Item = usize>) {
    for len in lens {
        let values: Vec<f32> = cast(&normal_f64(len as u64, len));
        let want = reference::tree_sum(&values);
        assert_eq!(tree_sums(ctx, &values), [want, 0.75 + want].map(f32::to_bits), "{len} leaves");
    }
}

#[test]
fn tree_sum_has_the_bits_of_the_tree_seen_from_its_root() {
    let few = || (0..20).chain([31, 32, 33, 63, 65, 127, 128, 129, 255, 257, 511, 513, 1000]);
    let many = [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1, 5 * CHUNK + 3, 17 * CHUNK + 517];
    for_each_setting(|ctx| assert_trees(ctx, few().chain(many)));
    with_warps_of_64(|ctx| assert_trees(ctx, few().chain(many)));
}

/// Three levels.
#[test]
fn tree_sum_of_a_million_leaves() {
    in_one_setting(|ctx| assert_trees(ctx, [CHUNK * CHUNK + CHUNK + 1].into_iter()));
}

/// A leaf that is carried up alone is added to nothing, not even to zero.
#[test]
fn tree_sum_keeps_the_sign_of_zero() {
    for_each_setting(|ctx| {
        for len in [1, 2, 3, 5, CHUNK + 1] {
            assert_eq!(tree_sums(ctx, &vec![-0.0; len])[0], (-0.0_f32).to_bits(), "{len} leaves");
        }
    });
}

#[cfg(feature = "emulator")]
#[test]
fn whole_chunks_are_read_by_whole_sectors() {
    counting(|ctx| {
        let x = upload_as(ctx, DType::F32, &normal_f64(1, 32 * CHUNK));
        let mut partials = poisoned(ctx, DType::F32, [32]);
        ctx.device.driver().take_counters();
        grad_norm::sum_of_squares(ctx, x.view([32 * CHUNK]), partials.view_mut([32])).unwrap();
        let counters = ctx.device.driver().take_counters();
        // Two chunks to a warp, whose partials lie in one sector.
        assert_eq!(counters.global_sectors, 32 * CHUNK as u64 / 8 + 16);
        assert_eq!(counters.global_sectors, counters.global_sectors_at_best);
    });
}
