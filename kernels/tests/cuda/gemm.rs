//! Matrix products: those of linear layers against the reference, for all types, odd sizes and odd addresses.

mod tiles;

use tisserand_kernels::ops::Write;
use tisserand_kernels::ops::gemm::parts::terms_of_part;
use tisserand_kernels::ops::gemm::{self, GemmShape, Layout, reference};
use tisserand_kernels::testing::{assert_close, download, normal_f64, poisoned, rms, tolerance, upload_as};
use tisserand_kernels::{Block, Context, DType, Device, Storage};

use crate::support::{Dev, FLOATS, for_each_setting};
use DType::{Bf16, F32};
use Layout::{Nn, Nt, Tn};

/// What a linear layer's three products need, and where in their blocks the tensors begin.
#[derive(Clone, Copy, Debug)]
struct Linear {
    tokens: usize,
    inputs: usize,
    outputs: usize,
    start: usize,
}

/// Size one, primes, one below and above chunks, steps and tiles; aligned, and not.
const LAYERS: [Linear; 8] = [
    Linear { tokens: 1, inputs: 1, outputs: 1, start: 0 },
    Linear { tokens: 1, inputs: 128, outputs: 136, start: 0 },
    Linear { tokens: 7, inputs: 13, outputs: 3, start: 1 },
    Linear { tokens: 64, inputs: 32, outputs: 64, start: 0 },
    Linear { tokens: 63, inputs: 31, outputs: 129, start: 0 },
    Linear { tokens: 72, inputs: 104, outputs: 56, start: 8 },
    Linear { tokens: 72, inputs: 104, outputs: 56, start: 3 },
    Linear { tokens: 33, inputs: 72, outputs: 67, start: 0 },
];

/// A block of `values` that begins at element `start`.
fn placed<D: Device>(ctx: &Context<D>, dtype: DType, start: usize, values: &[f64]) -> Block<D> {
    let before = vec![f64::NAN; start];
    upload_as(ctx, dtype, &[&before, values].concat())
}

/// A tensor that products replace, or to which they add: its block, and what it held.
fn target<D: Device>(ctx: &Context<D>, dtype: DType, start: usize, old: &[f64], write: Write) -> Block<D> {
    match write {
        Write::Replace => poisoned(ctx, dtype, [start + old.len()]),
        Write::Add => placed(ctx, dtype, start, old),
    }
}

/// Compares the part of a block from `start` on.
fn check(ctx: &Context<Dev>, what: &str, got: &Block<Dev>, start: usize, want: &[f64], scale: f64, k: usize) {
    let got_values = &download_from(ctx, got, start, want.len());
    assert_close(what, got_values, want, scale, tolerance(got.dtype(), k));
}

fn download_from(ctx: &Context<Dev>, block: &Block<Dev>, start: usize, len: usize) -> Vec<f32> {
    let mut copy = poisoned(ctx, block.dtype(), [len]);
    ctx.device.copy(block.range(start, [len]), copy.view_mut([len])).unwrap();
    download(ctx, &copy)
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// The size of a sum's terms.
fn scale(a: &[f64], b: &[f64], k: usize) -> f64 {
    rms(a) * rms(b) * (k as f64).sqrt() + 1.0
}

fn check_linear(ctx: &Context<Dev>, layer: Linear, dtype: DType, weight_dtype: DType, write: Write) {
    let Linear { tokens, inputs, outputs, start } = layer;
    let name = format!("{layer:?} {dtype} × {weight_dtype} {write:?}");
    let x = normal_f64(1, tokens * inputs);
    let weight = normal_f64(2, outputs * inputs);
    let bias = normal_f64(3, outputs);
    let dout = normal_f64(4, tokens * outputs);
    let old = normal_f64(5, tokens.max(outputs) * inputs);
    let x_block = placed(ctx, dtype, start, &x);
    let dout_block = placed(ctx, dtype, start, &dout);
    let weight_block = placed(ctx, weight_dtype, start, &weight);
    let bias_block = placed(ctx, weight_dtype, start, &bias);
    let x_view = x_block.range(start, [tokens, inputs]);
    let dout_view = dout_block.range(start, [tokens, outputs]);
    let weight_view = weight_block.range(start, [outputs, inputs]);

    let mut out = poisoned(ctx, dtype, [start + tokens * outputs]);
    let with_bias = (write == Write::Add).then(|| bias_block.range(start, [outputs]));
    let out_view = out.range_mut(start, [tokens, outputs]);
    gemm::linear_forward(ctx, x_view, weight_view, with_bias, out_view).unwrap();
    let mut want = reference::product(Nt, GemmShape { m: tokens, n: outputs, k: inputs }, &x, &weight);
    if with_bias.is_some() {
        want = sum(&want, &bias.repeat(tokens));
    }
    check(ctx, &format!("out {name}"), &out, start, &want, scale(&x, &weight, inputs), inputs);

    let old_dx = &old[..tokens * inputs];
    let mut dx = target(ctx, dtype, start, old_dx, write);
    let dx_view = dx.range_mut(start, [tokens, inputs]);
    gemm::linear_backward_input(ctx, dout_view, weight_view, write, dx_view).unwrap();
    let mut want = reference::product(Nn, GemmShape { m: tokens, n: inputs, k: outputs }, &dout, &weight);
    if write == Write::Add {
        want = sum(&want, old_dx);
    }
    check(ctx, &format!("dx {name}"), &dx, start, &want, scale(&dout, &weight, outputs), outputs);

    let old_dweight = &old[..outputs * inputs];
    let mut dweight = target(ctx, F32, start, old_dweight, Write::Add);
    let dweight_view = dweight.range_mut(start, [outputs, inputs]);
    gemm::linear_backward_weight(ctx, dout_view, x_view, dweight_view).unwrap();
    let want = reference::product(Tn, GemmShape { m: outputs, n: inputs, k: tokens }, &dout, &x);
    let want = sum(&want, old_dweight);
    check(ctx, &format!("dweight {name}"), &dweight, start, &want, scale(&dout, &x, tokens), tokens);
}

#[test]
fn linear_layers_equal_the_reference() {
    for_each_setting(|ctx| {
        for layer in LAYERS {
            check_linear(ctx, layer, F32, F32, Write::Add);
            check_linear(ctx, layer, F32, Bf16, Write::Replace);
            check_linear(ctx, layer, Bf16, F32, Write::Add);
            check_linear(ctx, layer, Bf16, Bf16, Write::Replace);
            check_linear(ctx, layer, Bf16, Bf16, Write::Add);
        }
    });
}

/// Operands of one product, whatever the layout.
struct Operands {
    shape: GemmShape,
    a: Vec<f64>,
    b: Vec<f64>,
    old: Vec<f64>,
}

fn operands(shape: GemmShape) -> Operands {
    let GemmShape { m, n, k } = shape;
    Operands { shape, a: normal_f64(1, m * k), b: normal_f64(2, n * k), old: normal_f64(3, m * n) }
}

#[test]
fn adds_a_residual_before_it_rounds() {
    for_each_setting(|ctx| {
        for (dtype, start) in FLOATS.into_iter().flat_map(|d| [0, 3].map(|s| (d, s))) {
            let (tokens, inputs, outputs) = (70, 48, 72);
            let shape = GemmShape { m: tokens, n: outputs, k: inputs };
            let Operands { a: x, b: weight, old: residual, .. } = operands(shape);
            let blocks = [&x, &weight, &residual].map(|values| placed(ctx, dtype, start, values));
            let views = [
                blocks[0].range(start, [tokens, inputs]),
                blocks[1].range(start, [outputs, inputs]),
                blocks[2].range(start, [tokens, outputs]),
            ];
            let mut out = poisoned(ctx, dtype, [tokens, outputs]);
            let out_view = out.view_mut([tokens, outputs]);
            gemm::linear_add(ctx, views[0], views[1], views[2], out_view).unwrap();
            let want = sum(&reference::product(Nt, shape, &x, &weight), &residual);
            let name = format!("{dtype} from {start}");
            check(ctx, &name, &out, 0, &want, scale(&x, &weight, inputs), inputs);
        }
    });
}

#[test]
fn adds_parts_of_long_sums_in_order() {
    let (outputs, inputs, tokens) = (24, 40, 2000);
    let shape = GemmShape { m: outputs, n: inputs, k: tokens };
    assert_eq!(terms_of_part(Tn, shape, Bf16, Bf16), 256, "eight parts, the last of 208");
    let Operands { a: dout, b: x, old, .. } = operands(shape);
    let want = sum(&reference::product(Tn, shape, &dout, &x), &old);
    for_each_setting(|ctx| {
        // Aligned operands are copied, others converted: the same parts, and the same bits.
        let sums = [0, 1].map(|start| {
            let [dout_block, x_block] = [&dout, &x].map(|values| placed(ctx, Bf16, start, values));
            let mut dweight = target(ctx, F32, start, &old, Write::Add);
            let dout_view = dout_block.range(start, [tokens, outputs]);
            let x_view = x_block.range(start, [tokens, inputs]);
            let dweight_view = dweight.range_mut(start, [outputs, inputs]);
            gemm::linear_backward_weight(ctx, dout_view, x_view, dweight_view).unwrap();
            let scale = scale(&dout, &x, tokens);
            check(ctx, &format!("from {start}"), &dweight, start, &want, scale, tokens);
            download_from(ctx, &dweight, start, want.len())
        });
        assert_eq!(sums[0], sums[1]);
    });
}

#[test]
fn of_no_terms_is_the_bias_or_leaves_what_was_there() {
    for_each_setting(|ctx| {
        for dtype in FLOATS {
            let none = upload_as(ctx, dtype, &[]);
            let bias = upload_as(ctx, dtype, &[1.0, -2.0]);
            let mut out = poisoned(ctx, dtype, [3, 2]);
            let (x, weight) = (none.view([3, 0]), none.view([2, 0]));
            gemm::linear_forward(ctx, x, weight, Some(bias.view([2])), out.view_mut([3, 2])).unwrap();
            assert_eq!(download(ctx, &out), [1.0, -2.0, 1.0, -2.0, 1.0, -2.0]);
            let mut dweight = upload_as(ctx, F32, &[0.5; 6]);
            let (dout, x) = (none.view([0, 2]), none.view([0, 3]));
            gemm::linear_backward_weight(ctx, dout, x, dweight.view_mut([2, 3])).unwrap();
            assert_eq!(download(ctx, &dweight), [0.5; 6]);
        }
    });
}
