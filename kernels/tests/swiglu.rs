//! SwiGLU on the CPU device: against the reference, at odd sizes and extreme gates, for every thread count.

use tisserand_kernels::ops::swiglu::{self, SwigluShape, reference};
use tisserand_kernels::testing::{
    assert_close, bits, download, normal_f64, poisoned, rms, tolerance, upload_as,
};
use tisserand_kernels::{Block, Context, Cpu, DType};

fn context(threads: usize) -> Context<Cpu> {
    Context::new(Cpu::new(threads).unwrap(), 16 << 20).unwrap()
}

/// Returns (out, dgate_up).
fn run(
    ctx: &Context<Cpu>,
    shape: SwigluShape,
    dtype: DType,
    gate_up: &[f64],
    dout: &[f64],
) -> [Block<Cpu>; 2] {
    let SwigluShape { tokens, width } = shape;
    let (pairs, single) = ([tokens, 2 * width], [tokens, width]);
    let (gate_up, dout) = (upload_as(ctx, dtype, gate_up), upload_as(ctx, dtype, dout));
    let (mut out, mut dgate_up) = (poisoned(ctx, dtype, single), poisoned(ctx, dtype, pairs));
    swiglu::forward(ctx, gate_up.view(pairs), out.view_mut(single)).unwrap();
    swiglu::backward(ctx, gate_up.view(pairs), dout.view(single), dgate_up.view_mut(pairs)).unwrap();
    [out, dgate_up]
}

#[test]
fn both_passes_equal_the_reference() {
    let ctx = context(2);
    for (tokens, width) in [(1, 1), (3, 17), (17, 64), (65, 127)] {
        let shape = SwigluShape { tokens, width };
        let (gate_up, dout) = (normal_f64(1, tokens * 2 * width), normal_f64(2, tokens * width));
        for dtype in [DType::F32, DType::Bf16] {
            let [out, dgate_up] = run(&ctx, shape, dtype, &gate_up, &dout);
            let want = reference::forward(shape, &gate_up);
            assert_close(
                &format!("out {shape:?}"),
                &download(&ctx, &out),
                &want,
                rms(&want),
                tolerance(dtype, 4),
            );
            let want = reference::backward(shape, &gate_up, &dout);
            let name = format!("dgate_up {shape:?}");
            assert_close(&name, &download(&ctx, &dgate_up), &want, rms(&want), tolerance(dtype, 4));
        }
    }
}

#[test]
fn extreme_gates_give_their_limits() {
    let ctx = context(1);
    let gate_up = [-1e30, -100.0, 0.0, 100.0, 1e30, 2.0, 2.0, 2.0, 2.0, 2.0];
    let shape = SwigluShape { tokens: 1, width: 5 };
    let [out, dgate_up] = run(&ctx, shape, DType::F32, &gate_up, &[1.0; 5]);
    let zero_or_double = [0.0, 0.0, 0.0, 200.0, 2e30];
    assert_close("out", &download(&ctx, &out), &zero_or_double, 1e-30, tolerance(DType::F32, 4));
    let want = [0.0, 0.0, 1.0, 2.0, 2.0, 0.0, 0.0, 0.0, 100.0, 1e30];
    assert_close("dgate_up", &download(&ctx, &dgate_up), &want, 1e-30, tolerance(DType::F32, 4));
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let shape = SwigluShape { tokens: 67, width: 129 };
    let (gate_up, dout) = (normal_f64(1, 67 * 258), normal_f64(2, 67 * 129));
    let bits_of = |threads| {
        let ctx = context(threads);
        run(&ctx, shape, DType::F32, &gate_up, &dout).map(|block| bits(&ctx, &block))
    };
    let one = bits_of(1);
    for threads in [2, 3, 8] {
        assert_eq!(bits_of(threads), one, "{threads} threads");
    }
}

#[test]
fn a_wrong_shape_or_dtype_is_refused_by_name() {
    let ctx = context(1);
    let gate_up = poisoned(&ctx, DType::F32, [12]);
    let (mut out, mut wrong) = (poisoned(&ctx, DType::F32, [6]), poisoned(&ctx, DType::Bf16, [6]));
    let refuse = |pairs: [usize; 2], out: tisserand_kernels::TensorMut<'_, Cpu>| {
        swiglu::forward(&ctx, gate_up.view(pairs), out).unwrap_err().to_string()
    };
    let message = refuse([2, 6], out.view_mut([3, 2]));
    assert_eq!(message, "swiglu::forward: `out` has shape [3, 2], expected [2, 3]");
    let message = refuse([2, 6], wrong.view_mut([2, 3]));
    assert_eq!(message, "swiglu::forward: `out` has dtype bf16, expected f32");
    let message = refuse([4, 3], out.view_mut([2, 3]));
    assert_eq!(
        message,
        "swiglu::forward: `gate_up` has shape [4, 3], expected an even number of columns, gate and up"
    );
}
