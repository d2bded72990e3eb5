//! Normal numbers: the bits of the definition, in any part of a tensor and at any address.

use tisserand_kernels::ops::philox::{self, GlobalIndex, NormalParams, normal_at};
use tisserand_kernels::testing::{bits, poisoned};
use tisserand_kernels::{Context, DType, Device};

#[cfg(feature = "emulator")]
use crate::support::counting;
use crate::support::{Dev, cpu, for_each_setting, in_one_setting, with_warps_of_64};

fn params(index: GlobalIndex) -> NormalParams {
    let tensor_key = philox::tensor_key("model.layers.0.mlp.up_proj.weight");
    NormalParams { seed: 0x1234_5678_9abc_def0, tensor_key, index, std: 1.0, mean: 0.0 }
}

/// All bits of a poisoned block, of which `len` elements from `start` on are written.
fn normal<D: Device>(ctx: &Context<D>, params: &NormalParams, start: usize, len: usize) -> Vec<u32> {
    let mut out = poisoned(ctx, DType::F32, [start + len + 2]);
    philox::normal(ctx, params, out.range_mut(start, [len])).unwrap();
    bits(ctx, &out)
}

/// Whole tensors, ranges, and columns, whose rows keep blocks together or do not.
fn indices() -> Vec<GlobalIndex> {
    let contiguous =
        [0, 1, 4, 1021, u64::from(u32::MAX) * 4 - 7, u64::MAX - 6000].map(GlobalIndex::contiguous);
    let columns = [(0, 8, 24), (16, 12, 20), (5, 7, 9), (8, 6, 12), (4, 4, 6), (3, 1, 2)]
        .map(|(first, held, whole)| GlobalIndex::columns(first, held, whole));
    let advanced = [GlobalIndex::columns(0, 8, 24).advance(4), GlobalIndex::columns(0, 8, 24).advance(11)];
    [&contiguous[..], &columns, &advanced].concat()
}

fn assert_bits_of_the_cpu(ctx: &Context<Dev>) {
    for index in indices() {
        for (start, len) in [(0, 0), (0, 1), (1, 3), (0, 4), (3, 33), (0, 1024), (1, 1029), (0, 4099)] {
            let params = params(index);
            assert_eq!(
                normal(ctx, &params, start, len),
                normal(&cpu(), &params, start, len),
                "{len} elements from {start}, {index:?}"
            );
        }
    }
}

#[test]
fn normal_numbers_have_the_bits_of_the_cpu() {
    for_each_setting(assert_bits_of_the_cpu);
    with_warps_of_64(assert_bits_of_the_cpu);
}

/// The definition itself, and many numbers, so that the tails of the distribution are among them.
#[test]
fn many_normal_numbers_are_those_of_the_definition_scaled_and_moved() {
    const LEN: usize = 200_000;
    let params = NormalParams { std: 0.02, mean: -1.5, ..params(GlobalIndex::contiguous(6)) };
    in_one_setting(|ctx| {
        for (i, got) in normal(ctx, &params, 0, LEN)[..LEN].iter().enumerate() {
            let want = normal_at(params.seed, params.tensor_key, 6 + i as u64).mul_add(0.02, -1.5);
            assert_eq!(*got, want.to_bits(), "element {i}");
        }
    });
}

#[cfg(feature = "emulator")]
#[test]
fn aligned_numbers_are_written_by_whole_sectors() {
    counting(|ctx| {
        let mut out = poisoned(ctx, DType::F32, [1 << 14]);
        ctx.device.driver().take_counters();
        philox::normal(ctx, &params(GlobalIndex::contiguous(0)), out.view_mut([1 << 14])).unwrap();
        let counters = ctx.device.driver().take_counters();
        assert_eq!(counters.global_accesses, (1 << 14) / 128);
        assert_eq!(counters.global_sectors, counters.global_sectors_at_best);
    });
}
