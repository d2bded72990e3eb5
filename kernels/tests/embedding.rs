//! Embedding on the CPU device: against the reference, at odd sizes, for every thread count.

use tisserand_kernels::ops::embedding::{self, EmbeddingShape, reference};
use tisserand_kernels::testing::{
    assert_close, bits, download, normal_f64, poisoned, rms, tolerance, upload, upload_as,
};
use tisserand_kernels::{Block, Context, Cpu, DType};

use DType::{Bf16, F32};

fn context(threads: usize) -> Context<Cpu> {
    Context::new(Cpu::new(threads).unwrap(), 16 << 20).unwrap()
}

fn shapes() -> impl Iterator<Item = EmbeddingShape> {
    [(1, 1, 1), (0, 3, 5), (7, 2, 3), (67, 131, 17), (301, 97, 64), (1031, 13, 31)]
        .into_iter()
        .map(|(tokens, rows, hidden_size)| EmbeddingShape { tokens, first_row: 0, rows, hidden_size })
}

/// Tokens of every row, with repetitions.
fn tokens(shape: EmbeddingShape) -> Vec<u32> {
    (0..shape.tokens).map(|t| ((t * t + 3 * t) % shape.rows) as u32).collect()
}

/// The rows of `ids` in `table`, as `dtype`.
fn forward(
    ctx: &Context<Cpu>,
    shape: EmbeddingShape,
    ids: &[u32],
    table: &[f64],
    (table_dtype, dtype): (DType, DType),
) -> Block<Cpu> {
    let EmbeddingShape { tokens: count, first_row, rows, hidden_size } = shape;
    let (ids, table) = (upload(ctx, ids), upload_as(ctx, table_dtype, table));
    let mut out = poisoned(ctx, dtype, [count, hidden_size]);
    let (table, out_view) = (table.view([rows, hidden_size]), out.view_mut([count, hidden_size]));
    embedding::forward(ctx, first_row, ids.view([count]), table, out_view).unwrap();
    out
}

#[test]
fn forward_equals_the_reference_exactly() {
    let ctx = context(2);
    for shape in shapes() {
        let ids = tokens(shape);
        let table = normal_f64(1, shape.rows * shape.hidden_size);
        // The numbers are exact in bf16, so every combination of dtypes copies them exactly.
        let want: Vec<f32> = reference::forward(shape, &ids, &table).iter().map(|&v| v as f32).collect();
        for dtypes in [(F32, F32), (Bf16, Bf16), (F32, Bf16), (Bf16, F32)] {
            let out = forward(&ctx, shape, &ids, &table, dtypes);
            assert_eq!(download(&ctx, &out), want, "{shape:?} {dtypes:?}");
        }
    }
}

/// The gradient of the table, from `start`.
fn backward(ctx: &Context<Cpu>, shape: EmbeddingShape, ids: &[u32], dtype: DType, start: f64) -> Block<Cpu> {
    let EmbeddingShape { tokens: count, first_row, rows, hidden_size } = shape;
    let dout = upload_as(ctx, dtype, &normal_f64(2, count * hidden_size));
    let ids = upload(ctx, ids);
    let mut dtable = upload_as(ctx, F32, &vec![start; rows * hidden_size]);
    let (dout, dtable_view) = (dout.view([count, hidden_size]), dtable.view_mut([rows, hidden_size]));
    embedding::backward(ctx, first_row, ids.view([count]), dout, dtable_view).unwrap();
    dtable
}

#[test]
fn backward_equals_the_reference_and_adds() {
    let ctx = context(2);
    for (shape, dtype) in shapes().flat_map(|s| [F32, Bf16].map(move |d| (s, d))) {
        let dout = normal_f64(2, shape.tokens * shape.hidden_size);
        let want: Vec<f64> =
            reference::backward(shape, &tokens(shape), &dout).iter().map(|d| d + 0.5).collect();
        let got = download(&ctx, &backward(&ctx, shape, &tokens(shape), dtype, 0.5));
        let bound = tolerance(F32, shape.tokens);
        assert_close(&format!("dtable {shape:?} {dtype}"), &got, &want, rms(&dout), bound);
    }
}

/// The vocabulary of `whole` over `ranks` tables of equal size: the last has padding, or nothing else.
fn parts(whole: EmbeddingShape, ranks: usize) -> impl Iterator<Item = EmbeddingShape> {
    let rows = whole.rows.div_ceil(ranks);
    (0..ranks).map(move |rank| EmbeddingShape { first_row: rank * rows, rows, ..whole })
}

#[test]
fn the_outputs_of_the_parts_of_a_table_sum_to_the_whole_exactly() {
    let ctx = context(2);
    for (whole, ranks) in shapes().flat_map(|s| [1, 2, 3, 4].map(move |ranks| (s, ranks))) {
        let (ids, hidden) = (tokens(whole), whole.hidden_size);
        let table = normal_f64(1, whole.rows * hidden);
        let want = download(&ctx, &forward(&ctx, whole, &ids, &table, (Bf16, Bf16)));
        let mut sum = vec![0.0; want.len()];
        for part in parts(whole, ranks) {
            // A padded row that is read would show.
            let rest = &table[table.len().min(part.first_row * hidden)..];
            let mut padded = rest[..rest.len().min(part.rows * hidden)].to_vec();
            padded.resize(part.rows * hidden, f64::NAN);
            let out = download(&ctx, &forward(&ctx, part, &ids, &padded, (Bf16, Bf16)));
            sum.iter_mut().zip(out).for_each(|(sum, out)| *sum += out);
        }
        assert_eq!(sum, want, "{whole:?} over {ranks}");
    }
}

#[test]
fn the_gradients_of_the_parts_of_a_table_are_the_rows_of_the_whole_to_the_bit() {
    let ctx = context(2);
    for (whole, ranks) in shapes().flat_map(|s| [1, 2, 3, 4].map(move |ranks| (s, ranks))) {
        let ids = tokens(whole);
        let mut want = bits(&ctx, &backward(&ctx, whole, &ids, Bf16, 0.5));
        let padded_rows = whole.rows.div_ceil(ranks) * ranks;
        want.resize(padded_rows * whole.hidden_size, 0.5_f32.to_bits());
        let got: Vec<u32> =
            parts(whole, ranks).flat_map(|part| bits(&ctx, &backward(&ctx, part, &ids, Bf16, 0.5))).collect();
        assert!(got == want, "{whole:?} over {ranks}");
    }
}

#[test]
fn any_token_outside_the_table_gives_zeros_and_takes_no_gradient() {
    let ctx = context(2);
    let shape = EmbeddingShape { tokens: 5, first_row: 7, rows: 3, hidden_size: 2 };
    let (ids, table) = ([6, 10, 0, u32::MAX, 9], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    for dtypes in [(F32, F32), (Bf16, Bf16)] {
        let out = download(&ctx, &forward(&ctx, shape, &ids, &table, dtypes));
        assert_eq!(out, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0, 6.0]);
        let dtable = download(&ctx, &backward(&ctx, shape, &ids, dtypes.1, 0.0));
        assert_eq!(dtable[..4], [0.0; 4]);
        assert!(dtable[4..].iter().all(|d| *d != 0.0), "{dtable:?}");
    }
    let nowhere = EmbeddingShape { first_row: usize::MAX, ..shape };
    assert_eq!(download(&ctx, &forward(&ctx, nowhere, &ids, &table, (F32, F32))), [0.0; 10]);
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let shape = EmbeddingShape { tokens: 1031, first_row: 40, rows: 231, hidden_size: 33 };
    let ids = tokens(EmbeddingShape { rows: 301, ..shape });
    let run = |threads| {
        let ctx = context(threads);
        bits(&ctx, &backward(&ctx, shape, &ids, F32, 0.25))
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn wrong_shapes_and_dtypes_are_refused_by_name() {
    let ctx = context(1);
    let (ids, floats) = (upload(&ctx, &[0_u32, 1]), upload_as(&ctx, F32, &[0.0; 6]));
    let mut target = poisoned(&ctx, F32, [6]);
    let (ids, table) = (ids.view([2]), floats.view([3, 2]));
    let message = embedding::forward(&ctx, 0, ids, table, target.range_mut(0, [3, 2])).unwrap_err();
    assert_eq!(message.to_string(), "embedding::forward: `out` has shape [3, 2], expected [2, 2]");
    let floats_as_ids = floats.range(0, [2]);
    let message = embedding::forward(&ctx, 0, floats_as_ids, table, target.range_mut(0, [2, 2])).unwrap_err();
    assert_eq!(message.to_string(), "embedding::forward: `tokens` has dtype f32, expected u32");
    let (dout, dtable) = (floats.range(0, [1, 2]), target.range_mut(0, [3, 2]));
    let message = embedding::backward(&ctx, 0, ids, dout, dtable).unwrap_err();
    assert_eq!(message.to_string(), "embedding::backward: `dout` has shape [1, 2], expected [2, 2]");
}
