//! Plain sums: those of chunks have the bits of the CPU device, those of columns are close to the reference.

use tisserand_kernels::ops::CHUNK;
use tisserand_kernels::ops::elementwise::{self, reference};
use tisserand_kernels::testing::{assert_close, bits, download, normal_f64, poisoned, tolerance, upload_as};
use tisserand_kernels::{Context, DType, Device};

use crate::support::{Dev, FLOATS, assert_coalesced, cpu, for_each_setting, with_warps_of_64};

/// Bits of the partial sums of the chunks of `len` elements that begin `start` elements into a block.
fn chunk_sums<D: Device>(ctx: &Context<D>, len: usize, start: usize) -> Vec<u32> {
    let values: Vec<f64> = normal_f64(1, start + len).iter().map(|x| x * 1.2345).collect();
    let x = upload_as(ctx, DType::F32, &values);
    let chunks = len.div_ceil(CHUNK);
    let mut partials = poisoned(ctx, DType::F32, [chunks]);
    ctx.device.chunk_sums(x.range(start, [len]), partials.view_mut([chunks])).unwrap();
    bits(ctx, &partials)
}

#[test]
fn sums_of_chunks_have_the_bits_of_the_cpu() {
    let check = |ctx: &Context<Dev>| {
        for len in [0, 1, 15, 17, CHUNK - 1, CHUNK, CHUNK + 1, 16 * CHUNK, 33 * CHUNK + 31] {
            for start in [0, 1] {
                assert_eq!(chunk_sums(ctx, len, start), chunk_sums(&cpu(), len, start), "{len} from {start}");
            }
        }
    };
    for_each_setting(check);
    with_warps_of_64(check);
}

/// `sums`, which begin as normal numbers, plus those of the columns of x.
fn column_sum(ctx: &Context<Dev>, [rows, width]: [usize; 2], dtype: DType, start: usize) -> Vec<f32> {
    let mut padded = vec![7.0; start];
    padded.extend(normal_f64(1, rows * width));
    let x = upload_as(ctx, dtype, &padded);
    let mut sums = upload_as(ctx, DType::F32, &normal_f64(2, width));
    elementwise::column_sum(ctx, x.range(start, [rows, width]), sums.view_mut([width])).unwrap();
    download(ctx, &sums)
}

#[test]
fn column_sum_adds_to_what_is_there() {
    let check = |ctx: &Context<Dev>| {
        let shapes = [[1, 1], [3, 17], [64, 8], [65, 136], [257, 9], [1000, 24], [4500, 5], [0, 3]];
        for (shape, dtype) in shapes.into_iter().flat_map(|shape| FLOATS.map(|dtype| (shape, dtype))) {
            let [rows, width] = shape;
            let want = reference::column_sum(&normal_f64(1, rows * width), &normal_f64(2, width));
            let got = column_sum(ctx, shape, dtype, 0);
            let scale = (rows as f64).sqrt();
            assert_close(&format!("{shape:?} {dtype}"), &got, &want, scale, tolerance(DType::F32, rows));
            assert_eq!(
                column_sum(ctx, shape, dtype, 1),
                got,
                "{shape:?} {dtype}: other bits at odd addresses"
            );
        }
    };
    for_each_setting(check);
    with_warps_of_64(check);
}

#[test]
fn accesses_are_coalesced() {
    assert_coalesced("chunk_sums", 1.0, |ctx| drop(chunk_sums(ctx, 32 * CHUNK, 0)));
    // The partial sums, of f32, go out as two packs for each thread: half a sector at a time.
    assert_coalesced("column_sum", 1.05, |ctx| drop(column_sum(ctx, [128, 1024], DType::Bf16, 0)));
}
