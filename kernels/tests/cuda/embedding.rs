//! Embedding: the bits of the CPU device and the values of the reference, whole tables and parts.

use tisserand_kernels::ops::embedding::{self, EmbeddingShape, reference};
use tisserand_kernels::testing::{
    assert_close, bits, normal_f64, poisoned, rms, tolerance, upload, upload_as,
};
use tisserand_kernels::{Class, Context, DType, Device};

#[cfg(feature = "emulator")]
use crate::support::counting;
use crate::support::{Dev, FLOATS, cpu, for_each_setting, in_one_setting, with_warps_of_64};

#[cfg(feature = "emulator")]
use DType::Bf16;
use DType::F32;

fn shape(tokens: usize, rows: usize, hidden_size: usize) -> EmbeddingShape {
    EmbeddingShape { tokens, first_row: 0, rows, hidden_size }
}

/// Around a lane, a warp, a part of the columns; many tokens of few rows and few of many.
fn shapes() -> Vec<EmbeddingShape> {
    let whole = [
        (0, 3, 5),
        (1, 1, 1),
        (7, 2, 3),
        (33, 131, 8),
        (67, 5, 17),
        (130, 300, 40),
        (9, 4, 1032),
        (5, 3, 264),
    ]
    .map(|(tokens, rows, hidden)| shape(tokens, rows, hidden));
    let parts = [(50, 20, 30, 16), (50, 0, 7, 9), (20, 70, 30, 8), (20, usize::MAX / 2, 3, 8)].map(
        |(tokens, first_row, rows, hidden_size)| EmbeddingShape { tokens, first_row, rows, hidden_size },
    );
    [&whole[..], &parts].concat()
}

/// Tokens of a vocabulary that is larger than the table where the table is a part; with repetitions.
fn tokens(shape: EmbeddingShape) -> Vec<u32> {
    let is_whole = shape.first_row == 0 && shape.rows != 7;
    let vocab_size = if is_whole { shape.rows } else { 80 };
    (0..shape.tokens).map(|t| ((t * t + 3 * t) % vocab_size) as u32).collect()
}

/// All bits of `out`, of which the tensor begins at `starts[1]`; the table begins at `starts[0]`.
fn forward<D: Device>(
    ctx: &Context<D>,
    shape: EmbeddingShape,
    [table_dtype, dtype]: [DType; 2],
    starts: [usize; 2],
) -> Vec<u32> {
    let EmbeddingShape { tokens: count, first_row, rows, hidden_size } = shape;
    let ids = upload(ctx, &tokens(shape));
    // Values that no bf16 holds, so that rounding shows.
    let values: Vec<f64> = normal_f64(1, starts[0] + rows * hidden_size).iter().map(|x| x * 1.2345).collect();
    let table = upload_as(ctx, table_dtype, &values);
    let mut out = poisoned(ctx, dtype, [starts[1] + count * hidden_size + 2]);
    let (table, out_view) =
        (table.range(starts[0], [rows, hidden_size]), out.range_mut(starts[1], [count, hidden_size]));
    embedding::forward(ctx, first_row, ids.view([count]), table, out_view).unwrap();
    bits(ctx, &out)
}

fn assert_forward(ctx: &Context<Dev>) {
    for shape in shapes() {
        for dtypes in FLOATS.into_iter().flat_map(|table| FLOATS.map(|out| [table, out])) {
            for starts in [[0, 0], [1, 0], [8, 3]] {
                let (got, want) =
                    (forward(ctx, shape, dtypes, starts), forward(&cpu(), shape, dtypes, starts));
                assert!(got == want, "{shape:?} {dtypes:?} {starts:?}");
            }
        }
    }
}

#[test]
fn forward_has_the_bits_of_the_cpu() {
    for_each_setting(assert_forward);
    with_warps_of_64(assert_forward);
}

/// All bits of `dtable`, from 0.5; tokens, `dout` and `dtable` begin at `starts`.
fn backward<D: Device>(
    ctx: &Context<D>,
    shape: EmbeddingShape,
    ids: &[u32],
    dtype: DType,
    starts: [usize; 3],
) -> Vec<u32> {
    let EmbeddingShape { tokens: count, first_row, rows, hidden_size } = shape;
    let mut padded = vec![ids.first().copied().unwrap_or_default(); starts[0]];
    padded.extend_from_slice(ids);
    let (ids, dout) =
        (upload(ctx, &padded), upload_as(ctx, dtype, &normal_f64(2, starts[1] + count * hidden_size)));
    let mut dtable = upload_as(ctx, F32, &vec![0.5; starts[2] + rows * hidden_size]);
    embedding::backward(
        ctx,
        first_row,
        ids.range(starts[0], [count]),
        dout.range(starts[1], [count, hidden_size]),
        dtable.range_mut(starts[2], [rows, hidden_size]),
    )
    .unwrap();
    bits(ctx, &dtable)
}

fn assert_backward(ctx: &Context<Dev>) {
    for (shape, dtype) in shapes().into_iter().flat_map(|shape| FLOATS.map(|dtype| (shape, dtype))) {
        for starts in [[0, 0, 0], [1, 0, 0], [3, 1, 0], [0, 8, 2]] {
            let ids = tokens(shape);
            let got = backward(ctx, shape, &ids, dtype, starts);
            assert!(got == backward(&cpu(), shape, &ids, dtype, starts), "{shape:?} {dtype} {starts:?}");
        }
    }
}

#[test]
fn backward_adds_with_the_bits_of_the_cpu() {
    for_each_setting(assert_backward);
    with_warps_of_64(assert_backward);
}

#[test]
fn backward_equals_the_reference() {
    let shape = shape(200, 23, 24);
    let (ids, dout) = (tokens(shape), normal_f64(2, 200 * 24));
    let want: Vec<f64> = reference::backward(shape, &ids, &dout).iter().map(|d| d + 0.5).collect();
    for_each_setting(|ctx| {
        for dtype in FLOATS {
            let got: Vec<f32> =
                backward(ctx, shape, &ids, dtype, [0; 3]).into_iter().map(f32::from_bits).collect();
            assert_close(&format!("dtable {dtype}"), &got, &want, rms(&dout), tolerance(F32, shape.tokens));
        }
    });
}

/// Runs of one token, tokens far apart, and tokens at every distance around what a warp compares at a time.
#[test]
fn tokens_of_a_row_find_each_other_at_every_distance() {
    let far = |distance: usize| {
        let mut ids: Vec<u32> = (0..distance as u32 + 40).map(|t| 10 + t).collect();
        (ids[3], ids[3 + distance]) = (1, 1);
        ids
    };
    let distances = [1, 2, 3, 4, 5, 31, 32, 33, 123, 124, 125, 127, 128, 129, 255, 256, 257, 300];
    let lists = [vec![0; 300], (0..300).map(|t| t / 150).collect(), (0..300).map(|t| t % 2).collect()];
    let lists: Vec<Vec<u32>> = distances.map(far).into_iter().chain(lists).collect();
    let compare = |ctx: &Context<Dev>| {
        for ids in &lists {
            let shape = shape(ids.len(), 400, 8);
            let got = backward(ctx, shape, ids, F32, [0; 3]);
            assert!(got == backward(&cpu(), shape, ids, F32, [0; 3]), "{ids:?}");
        }
    };
    for_each_setting(compare);
    with_warps_of_64(compare);
}

#[test]
fn backward_takes_a_word_for_each_token_and_the_cpu_none() {
    fn workspace<D: Device>(ctx: &Context<D>) -> usize {
        let shape = shape(1000, 10, 8);
        backward(ctx, shape, &tokens(shape), F32, [0; 3]);
        ctx.arena.peak().of(Class::Workspace)
    }
    in_one_setting(|ctx| assert!((4000..4000 + 256).contains(&workspace(ctx))));
    assert_eq!(workspace(&cpu()), 0);
}

#[cfg(feature = "emulator")]
#[test]
fn aligned_rows_are_moved_by_whole_sectors() {
    counting(|ctx| {
        let shape = shape(64, 32, 1024);
        ctx.device.driver().take_counters();
        forward(ctx, shape, [Bf16, Bf16], [0, 0]);
        let counters = ctx.device.driver().take_counters();
        assert_eq!(counters.global_sectors, counters.global_sectors_at_best);
        backward(ctx, shape, &tokens(shape), Bf16, [0; 3]);
        let counters = ctx.device.driver().take_counters();
        // The gradients once, each row that has tokens read and written; tokens and links, which the caches hold.
        let rows = (0..32).filter(|row| tokens(shape).contains(row)).count() as u64;
        let of_tensors = 64 * 1024 * 2 / 32 + 2 * rows * 1024 * 4 / 32;
        let rest = counters.global_sectors - of_tensors;
        assert!(rest <= 64 * 40, "{rest} sectors beside {of_tensors}");
    });
}
