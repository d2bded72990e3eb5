//! Matrix products on the CPU device: against the reference, at odd sizes, for every thread count.

use tisserand_kernels::ops::gemm::{self, GemmShape, Layout, reference};
use tisserand_kernels::ops::{Write, swiglu};
use tisserand_kernels::testing::{
    assert_close, bits, download, normal_f64, poisoned, rms, tolerance, upload_as,
};
use tisserand_kernels::{Block, Context, Cpu, DType};

use DType::{Bf16, F32};

fn context(threads: usize) -> Context<Cpu> {
    Context::new(Cpu::new(threads).unwrap(), 64 << 20).unwrap()
}

/// Extents of a linear layer.
#[derive(Clone, Copy, Debug)]
struct Linear {
    tokens: usize,
    inputs: usize,
    outputs: usize,
}

/// Size one, primes, one below and above tiles, more than one block of every dimension.
fn shapes() -> impl Iterator<Item = Linear> {
    let sizes = [
        (1, 1, 1),
        (1, 7, 1),
        (1, 129, 67),
        (1, 1031, 259),
        (5, 1, 3),
        (7, 13, 1),
        (2, 3, 5),
        (13, 31, 33),
        (11, 257, 31),
        (97, 64, 101),
        (12, 384, 32),
        (193, 769, 65),
        (131, 127, 389),
        (1031, 37, 41),
    ];
    sizes.into_iter().map(|(tokens, inputs, outputs)| Linear { tokens, inputs, outputs })
}

fn dtypes() -> impl Iterator<Item = (DType, DType)> {
    [(F32, F32), (Bf16, Bf16), (Bf16, F32), (F32, Bf16)].into_iter()
}

/// What the three ops give for one layer; accumulated outputs start from `start`.
struct Outputs {
    out: Block<Cpu>,
    dx: Block<Cpu>,
    dweight: Block<Cpu>,
}

struct Inputs {
    x: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
    dout: Vec<f64>,
}

fn inputs(Linear { tokens, inputs, outputs }: Linear) -> Inputs {
    Inputs {
        x: normal_f64(1, tokens * inputs),
        weight: normal_f64(2, outputs * inputs),
        bias: normal_f64(3, outputs),
        dout: normal_f64(4, tokens * outputs),
    }
}

fn run(
    ctx: &Context<Cpu>,
    layer: Linear,
    (dtype, weight_dtype): (DType, DType),
    with_bias: bool,
    write: Write,
    start: f64,
) -> Outputs {
    let Linear { tokens, inputs: width, outputs } = layer;
    let Inputs { x, weight, bias, dout } = inputs(layer);
    let (x, dout) = (upload_as(ctx, dtype, &x), upload_as(ctx, dtype, &dout));
    let (weight, bias) = (upload_as(ctx, weight_dtype, &weight), upload_as(ctx, weight_dtype, &bias));
    let (x, dout) = (x.view([tokens, width]), dout.view([tokens, outputs]));
    let weight = weight.view([outputs, width]);
    let bias = with_bias.then(|| bias.view([outputs]));

    let mut out = poisoned(ctx, dtype, [tokens, outputs]);
    gemm::linear_forward(ctx, x, weight, bias, out.view_mut([tokens, outputs])).unwrap();
    let mut dx = match write {
        Write::Replace => poisoned(ctx, dtype, [tokens, width]),
        Write::Add => upload_as(ctx, dtype, &vec![start; tokens * width]),
    };
    gemm::linear_backward_input(ctx, dout, weight, write, dx.view_mut([tokens, width])).unwrap();
    let mut dweight = upload_as(ctx, F32, &vec![start; outputs * width]);
    gemm::linear_backward_weight(ctx, dout, x, dweight.view_mut([outputs, width])).unwrap();
    Outputs { out, dx, dweight }
}

#[test]
fn products_equal_the_reference_with_and_without_bias_and_addition() {
    let ctx = context(2);
    for (layer, dtypes) in shapes().flat_map(|s| dtypes().map(move |d| (s, d))) {
        let Linear { tokens, inputs: width, outputs } = layer;
        let Inputs { x, weight, bias, dout } = inputs(layer);
        let shape = GemmShape { m: tokens, n: outputs, k: width };
        let want_out = reference::product(Layout::Nt, shape, &x, &weight);
        let shape = GemmShape { m: tokens, n: width, k: outputs };
        let want_dx = reference::product(Layout::Nn, shape, &dout, &weight);
        let shape = GemmShape { m: outputs, n: width, k: tokens };
        let want_dweight = reference::product(Layout::Tn, shape, &dout, &x);
        // Terms are products of two numbers of this size.
        let terms = |a: &[f64], b: &[f64], k: usize| rms(a) * rms(b) * (k as f64).sqrt() + 1.0;
        for (with_bias, write, start) in [(false, Write::Replace, 0.0), (true, Write::Add, 0.5)] {
            let name = format!("{layer:?} {dtypes:?} {write:?}");
            let outputs_got = run(&ctx, layer, dtypes, with_bias, write, start);
            let bias_of = |i: usize| if with_bias { bias[i % outputs] } else { 0.0 };
            let want: Vec<f64> = want_out.iter().enumerate().map(|(i, y)| y + bias_of(i)).collect();
            let check = |what: &str, got: &Block<Cpu>, want: &[f64], scale: f64, k: usize| {
                let bound = tolerance(got.dtype(), k);
                assert_close(&format!("{what} {name}"), &download(&ctx, got), want, scale, bound);
            };
            check("out", &outputs_got.out, &want, terms(&x, &weight, width), width);
            let plus = |want: &[f64]| want.iter().map(|w| w + start).collect::<Vec<_>>();
            check("dx", &outputs_got.dx, &plus(&want_dx), terms(&dout, &weight, outputs), outputs);
            let want = plus(&want_dweight);
            // dweight always adds, also where dx replaces.
            check("dweight", &outputs_got.dweight, &want, terms(&dout, &x, tokens), tokens);
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let layers = [(1, 1031, 259), (259, 769, 390), (7, 33, 17)];
    for (tokens, inputs, outputs) in layers {
        let layer = Linear { tokens, inputs, outputs };
        for dtypes in dtypes() {
            let run = |threads| {
                let ctx = context(threads);
                let got = run(&ctx, layer, dtypes, true, Write::Add, 0.5);
                [&got.out, &got.dx, &got.dweight].map(|block| bits(&ctx, block))
            };
            let one = run(1);
            for threads in [2, 3, 8] {
                assert!(run(threads) == one, "{layer:?} {dtypes:?}: {threads} threads");
            }
        }
    }
}

#[test]
fn a_sum_of_no_terms_is_the_bias_or_leaves_what_was_there() {
    let ctx = context(2);
    let got = run(&ctx, Linear { tokens: 3, inputs: 0, outputs: 2 }, (F32, F32), true, Write::Replace, 0.0);
    let bias: Vec<f32> = normal_f64(3, 2).iter().map(|&b| b as f32).collect();
    assert_eq!(download(&ctx, &got.out), bias.repeat(3));
    let got = run(&ctx, Linear { tokens: 0, inputs: 3, outputs: 2 }, (F32, F32), true, Write::Replace, 0.5);
    assert_eq!(download(&ctx, &got.dweight), [0.5; 6]);
    let got = run(&ctx, Linear { tokens: 3, inputs: 2, outputs: 0 }, (F32, F32), true, Write::Replace, 0.5);
    assert_eq!(download(&ctx, &got.dx), [0.0; 6]);
}

#[test]
fn fused_ops_are_the_plain_ones_one_after_the_other() {
    let ctx = context(2);
    let (tokens, inputs, width) = (13, 31, 9);
    let outputs = 2 * width;
    let shape = GemmShape { m: tokens, n: outputs, k: inputs };
    let (x, weight) = (normal_f64(1, tokens * inputs), normal_f64(2, outputs * inputs));
    let residual = normal_f64(3, tokens * outputs);
    let products = reference::product(Layout::Nt, shape, &x, &weight);
    let sums: Vec<f64> =
        products.iter().zip(&residual).map(|(product, residual)| product + residual).collect();
    for (dtype, weight_dtype) in dtypes() {
        let (x, residual) = (upload_as(&ctx, dtype, &x), upload_as(&ctx, dtype, &residual));
        let weight = upload_as(&ctx, weight_dtype, &weight);
        let (x, weight) = (x.view([tokens, inputs]), weight.view([outputs, inputs]));

        let mut out = poisoned(&ctx, dtype, [tokens, outputs]);
        let added = out.view_mut([tokens, outputs]);
        gemm::linear_add(&ctx, x, weight, residual.view([tokens, outputs]), added).unwrap();
        assert_close("linear_add", &download(&ctx, &out), &sums, rms(&sums), tolerance(dtype, inputs));

        let (mut gate_up, mut gated) = (out, poisoned(&ctx, dtype, [tokens, width]));
        let (wide, narrow) = ([tokens, outputs], [tokens, width]);
        gemm::linear_swiglu(&ctx, x, weight, gate_up.view_mut(wide), gated.view_mut(narrow)).unwrap();
        let mut want_gate_up = poisoned(&ctx, dtype, wide);
        let mut want = poisoned(&ctx, dtype, narrow);
        gemm::linear_forward(&ctx, x, weight, None, want_gate_up.view_mut(wide)).unwrap();
        swiglu::forward(&ctx, want_gate_up.view(wide), want.view_mut(narrow)).unwrap();
        assert_eq!(bits(&ctx, &gate_up), bits(&ctx, &want_gate_up));
        assert_eq!(bits(&ctx, &gated), bits(&ctx, &want));
    }
}

#[test]
fn wrong_shapes_and_dtypes_are_refused_by_name() {
    let ctx = context(1);
    let (f32s, bf16s) = (upload_as(&ctx, F32, &[0.0; 12]), upload_as(&ctx, Bf16, &[0.0; 12]));
    let mut target = poisoned(&ctx, F32, [12]);

    let mut forward = |x: [usize; 2], weight: [usize; 2], bias: usize, out: [usize; 2]| {
        let (x, weight, bias) = (f32s.range(0, x), f32s.range(0, weight), f32s.range(0, [bias]));
        let out = target.range_mut(0, out);
        gemm::linear_forward(&ctx, x, weight, Some(bias), out).map_err(|e| e.to_string())
    };
    assert_eq!(forward([2, 3], [4, 3], 4, [2, 4]), Ok(()));
    let refusal = |text: &str| Err(format!("gemm::linear_forward: {text}"));
    assert_eq!(forward([2, 3], [3, 4], 3, [2, 3]), refusal("`weight` has shape [3, 4], expected [3, 3]"));
    assert_eq!(forward([2, 3], [4, 3], 3, [2, 4]), refusal("`bias` has shape [3], expected [4]"));
    assert_eq!(forward([2, 3], [4, 3], 4, [4, 2]), refusal("`out` has shape [4, 2], expected [2, 4]"));

    let (x, weight) = (bf16s.range(0, [2, 3]), f32s.range(0, [4, 3]));
    let message = gemm::linear_forward(&ctx, x, weight, None, target.range_mut(0, [2, 4])).unwrap_err();
    assert_eq!(message.to_string(), "gemm::linear_forward: `out` has dtype f32, expected bf16");
    let bias = Some(bf16s.range(0, [4]));
    let (x, out) = (f32s.range(0, [2, 3]), target.range_mut(0, [2, 4]));
    let message = gemm::linear_forward(&ctx, x, weight, bias, out).unwrap_err();
    assert_eq!(message.to_string(), "gemm::linear_forward: `bias` has dtype bf16, expected f32");

    let dout = f32s.range(0, [2, 4]);
    let dx = target.range_mut(0, [2, 4]);
    let message = gemm::linear_backward_input(&ctx, dout, weight, Write::Add, dx).unwrap_err();
    assert_eq!(message.to_string(), "gemm::linear_backward_input: `dx` has shape [2, 4], expected [2, 3]");
    let mut half = poisoned(&ctx, Bf16, [12]);
    let (x, dweight) = (f32s.range(0, [2, 3]), half.view_mut([4, 3]));
    let message = gemm::linear_backward_weight(&ctx, dout, x, dweight).unwrap_err();
    assert_eq!(message.to_string(), "gemm::linear_backward_weight: `dweight` has dtype bf16, expected f32");
    let (x, dweight) = (f32s.range(0, [3, 3]), target.range_mut(0, [4, 3]));
    let message = gemm::linear_backward_weight(&ctx, dout, x, dweight).unwrap_err();
    assert_eq!(message.to_string(), "gemm::linear_backward_weight: `x` has shape [3, 3], expected [2, 3]");
}
