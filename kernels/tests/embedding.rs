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
        .map(|(tokens, vocab_size, hidden_size)| EmbeddingShape { tokens, vocab_size, hidden_size })
}

/// Tokens of every row, with repetitions.
fn tokens(shape: EmbeddingShape) -> Vec<u32> {
    (0..shape.tokens).map(|t| ((t * t + 3 * t) % shape.vocab_size) as u32).collect()
}

#[test]
fn forward_equals_the_reference_exactly() {
    let ctx = context(2);
    for shape in shapes() {
        let EmbeddingShape { tokens: count, vocab_size, hidden_size } = shape;
        let ids = tokens(shape);
        let table = normal_f64(1, vocab_size * hidden_size);
        // The numbers are exact in bf16, so every combination of dtypes copies them exactly.
        let want: Vec<f32> = reference::forward(shape, &ids, &table).iter().map(|&v| v as f32).collect();
        for (table_dtype, dtype) in [(F32, F32), (Bf16, Bf16), (F32, Bf16), (Bf16, F32)] {
            let (ids, table) = (upload(&ctx, &ids), upload_as(&ctx, table_dtype, &table));
            let mut out = poisoned(&ctx, dtype, [count, hidden_size]);
            let out_view = out.view_mut([count, hidden_size]);
            embedding::forward(&ctx, ids.view([count]), table.view([vocab_size, hidden_size]), out_view)
                .unwrap();
            assert_eq!(download(&ctx, &out), want, "{shape:?} {table_dtype} {dtype}");
        }
    }
}

/// The gradient of the table, from `start`.
fn backward(ctx: &Context<Cpu>, shape: EmbeddingShape, dtype: DType, start: f64) -> Block<Cpu> {
    let EmbeddingShape { tokens: count, vocab_size, hidden_size } = shape;
    let dout = upload_as(ctx, dtype, &normal_f64(2, count * hidden_size));
    let ids = upload(ctx, &tokens(shape));
    let mut dtable = upload_as(ctx, F32, &vec![start; vocab_size * hidden_size]);
    let dtable_view = dtable.view_mut([vocab_size, hidden_size]);
    embedding::backward(ctx, ids.view([count]), dout.view([count, hidden_size]), dtable_view).unwrap();
    dtable
}

#[test]
fn backward_equals_the_reference_and_adds() {
    let ctx = context(2);
    for (shape, dtype) in shapes().flat_map(|s| [F32, Bf16].map(move |d| (s, d))) {
        let dout = normal_f64(2, shape.tokens * shape.hidden_size);
        let want: Vec<f64> =
            reference::backward(shape, &tokens(shape), &dout).iter().map(|d| d + 0.5).collect();
        let got = download(&ctx, &backward(&ctx, shape, dtype, 0.5));
        let bound = tolerance(F32, shape.tokens);
        assert_close(&format!("dtable {shape:?} {dtype}"), &got, &want, rms(&dout), bound);
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let shape = EmbeddingShape { tokens: 1031, vocab_size: 301, hidden_size: 33 };
    let run = |threads| {
        let ctx = context(threads);
        bits(&ctx, &backward(&ctx, shape, F32, 0.25))
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
    let message = embedding::forward(&ctx, ids, table, target.range_mut(0, [3, 2])).unwrap_err();
    assert_eq!(message.to_string(), "embedding::forward: `out` has shape [3, 2], expected [2, 2]");
    let floats_as_ids = floats.range(0, [2]);
    let message = embedding::forward(&ctx, floats_as_ids, table, target.range_mut(0, [2, 2])).unwrap_err();
    assert_eq!(message.to_string(), "embedding::forward: `tokens` has dtype f32, expected u32");
    let (dout, dtable) = (floats.range(0, [1, 2]), target.range_mut(0, [3, 2]));
    let message = embedding::backward(&ctx, ids, dout, dtable).unwrap_err();
    assert_eq!(message.to_string(), "embedding::backward: `dout` has shape [1, 2], expected [2, 2]");
}

#[test]
#[should_panic(expected = "token 3 at position 1 is not below vocab_size 3")]
fn a_token_outside_the_table_is_a_broken_invariant() {
    let ctx = context(1);
    let (ids, table) = (upload(&ctx, &[0_u32, 3]), upload_as(&ctx, F32, &[0.0; 6]));
    let mut out = poisoned(&ctx, F32, [2, 2]);
    let _ = embedding::forward(&ctx, ids.view([2]), table.view([3, 2]), out.view_mut([2, 2]));
}
