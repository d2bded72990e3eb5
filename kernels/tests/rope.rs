//! Rotary embedding on the CPU device: against the reference, against printed tables, for every thread count.

use tisserand_kernels::ops::rope::{self, RopeScaling, RopeShape, Turn, reference};
use tisserand_kernels::testing::{
    assert_close, bits, download, normal_f64, poisoned, rms, tolerance, upload, upload_as,
};
use tisserand_kernels::{Block, Context, Cpu, DType};

fn context(threads: usize) -> Context<Cpu> {
    Context::new(Cpu::new(threads).unwrap(), 16 << 20).unwrap()
}

const MAX_POSITIONS: usize = 300;

fn table(head_dim: usize) -> Vec<f32> {
    rope::table(head_dim, 1e4, &RopeScaling::None, MAX_POSITIONS)
}

fn positions(tokens: usize) -> Vec<u32> {
    (0..tokens).map(|t| (t * 37 % MAX_POSITIONS) as u32).collect()
}

/// Turns `x` on the device.
fn turned(ctx: &Context<Cpu>, shape: RopeShape, turn: Turn, dtype: DType, x: &[f64]) -> Block<Cpu> {
    let RopeShape { tokens, heads, head_dim } = shape;
    let (positions, table) = (upload(ctx, &positions(tokens)), upload(ctx, &table(head_dim)));
    let mut x = upload_as(ctx, dtype, x);
    let op = if turn == Turn::Forward { rope::forward } else { rope::backward };
    let table = table.view([MAX_POSITIONS, head_dim]);
    op(ctx, positions.view([tokens]), table, x.view_mut([tokens, heads, head_dim])).unwrap();
    x
}

fn shapes() -> impl Iterator<Item = RopeShape> {
    [(1, 1, 2), (1, 3, 64), (33, 2, 18), (65, 3, 80), (127, 1, 128)]
        .into_iter()
        .map(|(tokens, heads, head_dim)| RopeShape { tokens, heads, head_dim })
}

#[test]
fn both_turns_equal_the_reference() {
    let ctx = context(2);
    for shape in shapes() {
        let RopeShape { tokens, heads, head_dim } = shape;
        let x = normal_f64(1, tokens * heads * head_dim);
        let table: Vec<f64> = table(head_dim).iter().map(|&v| f64::from(v)).collect();
        for (turn, dtype) in
            [Turn::Forward, Turn::Backward].map(|t| [(t, DType::F32), (t, DType::Bf16)]).concat()
        {
            let got = download(&ctx, &turned(&ctx, shape, turn, dtype, &x));
            let want = reference::rope(shape, turn, &positions(tokens), &table, &x);
            assert_close(&format!("{shape:?} {turn:?}"), &got, &want, rms(&want), tolerance(dtype, 2));
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let shape = RopeShape { tokens: 131, heads: 3, head_dim: 34 };
    let x = normal_f64(1, 131 * 3 * 34);
    let run = |threads| {
        let ctx = context(threads);
        bits(&ctx, &turned(&ctx, shape, Turn::Forward, DType::F32, &x))
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}

/// Frequencies printed by transformers 5.23 with PyTorch 2.11 for Llama 3.1's `rope_scaling`, head_dim 32.
#[test]
fn llama3_frequencies_equal_those_of_hugging_face() {
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let want: [f32; 16] = [
        1.0,
        0.44036663,
        0.19392276,
        0.0853971,
        0.03760603,
        0.01656044,
        0.007292665,
        0.003211446,
        0.000524846,
        7.7846555e-05,
        3.4281024e-05,
        1.5096218e-05,
        6.6478697e-06,
        2.9274997e-06,
        1.2891732e-06,
        5.677088e-07,
    ];
    assert_eq!(rope::inverse_frequencies(32, 500_000.0, &scaling), want);
    let linear = rope::inverse_frequencies(8, 10_000.0, &RopeScaling::Linear { factor: 3.0 });
    assert_eq!(linear, [0.33333334, 0.033333335, 0.0033333332, 0.00033333336]);
}

#[test]
fn a_wrong_shape_or_dtype_is_refused_by_name() {
    let ctx = context(1);
    let positions = upload(&ctx, &[0_u32, 1]);
    let table = poisoned(&ctx, DType::F32, [24]);
    let mut x = poisoned(&ctx, DType::F32, [24]);
    let (two, one) = (positions.view([2]), positions.range(0, [1]));
    let message =
        rope::forward(&ctx, one, table.view([6, 4]), x.view_mut([2, 3, 4])).unwrap_err().to_string();
    assert_eq!(message, "rope::forward: `positions` has shape [1], expected [2]");
    let message =
        rope::forward(&ctx, two, table.view([4, 6]), x.view_mut([2, 3, 4])).unwrap_err().to_string();
    assert_eq!(message, "rope::forward: `table` has shape [4, 6], expected [4, 4]");
    let message =
        rope::backward(&ctx, two, table.view([8, 3]), x.view_mut([2, 4, 3])).unwrap_err().to_string();
    assert_eq!(message, "rope::backward: head_dim = 3 is not even");
}
