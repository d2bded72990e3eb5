//! RMS norm on the CPU device: against the reference, at odd sizes, for every thread count.

use tisserand_kernels::ops::Write;
use tisserand_kernels::ops::rms_norm::{self, RmsNormShape, reference};
use tisserand_kernels::testing::{
    assert_close, bits, download, normal_f64, poisoned, rms, tolerance, upload_as,
};
use tisserand_kernels::{Context, Cpu, DType, TensorRef};

const EPS: f64 = 1e-5;

fn context(threads: usize) -> Context<Cpu> {
    Context::new(Cpu::new(threads).unwrap(), 64 << 20).unwrap()
}

fn shapes() -> impl Iterator<Item = RmsNormShape> {
    [(1, 1), (1, 17), (3, 64), (65, 31), (130, 129), (257, 384)]
        .into_iter()
        .map(|(rows, width)| RmsNormShape { rows, width })
}

fn dtypes() -> impl Iterator<Item = (DType, DType)> {
    use DType::{Bf16, F32};
    [(F32, F32), (Bf16, Bf16), (Bf16, F32), (F32, Bf16)].into_iter()
}

#[test]
fn forward_equals_the_reference() {
    let ctx = context(2);
    for (shape, (dtype, weight_dtype)) in shapes().flat_map(|s| dtypes().map(move |d| (s, d))) {
        let RmsNormShape { rows, width } = shape;
        let (x, weight) = (normal_f64(1, rows * width), normal_f64(2, width));
        let (out, mut rstd) = (poisoned(&ctx, dtype, [rows, width]), poisoned(&ctx, DType::F32, [rows]));
        let mut out = out;
        let (x_block, weight_block) = (upload_as(&ctx, dtype, &x), upload_as(&ctx, weight_dtype, &weight));
        let (x_view, weight_view) = (x_block.view([rows, width]), weight_block.view([width]));
        rms_norm::forward(
            &ctx,
            EPS as f32,
            x_view,
            weight_view,
            out.view_mut([rows, width]),
            rstd.view_mut([rows]),
        )
        .unwrap();
        let (want, want_rstd) = reference::forward(shape, EPS, &x, &weight);
        assert_close(
            &format!("out {shape:?}"),
            &download(&ctx, &out),
            &want,
            rms(&want),
            tolerance(dtype, width),
        );
        assert_close(
            &format!("rstd {shape:?}"),
            &download(&ctx, &rstd),
            &want_rstd,
            0.0,
            tolerance(DType::F32, width),
        );
    }
}

#[test]
fn the_fused_addition_has_the_bits_of_the_plain_ops() {
    let ctx = context(2);
    for (shape, (dtype, weight_dtype)) in shapes().flat_map(|s| dtypes().map(move |d| (s, d))) {
        let RmsNormShape { rows, width } = shape;
        let (x, residual) = (normal_f64(3, rows * width), normal_f64(4, rows * width));
        let total: Vec<f64> = x.iter().zip(&residual).map(|(a, b)| a + b).collect();
        let weight = upload_as(&ctx, weight_dtype, &normal_f64(5, width));
        let (x, residual) = (upload_as(&ctx, dtype, &x), upload_as(&ctx, dtype, &residual));
        let total = upload_as(&ctx, dtype, &total);
        let grid = [rows, width];
        let [mut sum, mut fused, mut plain] = [(); 3].map(|()| poisoned(&ctx, dtype, grid));
        let mut rstd = poisoned(&ctx, DType::F32, [rows]);
        let weight = weight.view([width]);
        let eps = EPS as f32;
        rms_norm::add_forward(
            &ctx,
            eps,
            x.view(grid),
            residual.view(grid),
            weight,
            sum.view_mut(grid),
            fused.view_mut(grid),
            rstd.view_mut([rows]),
        )
        .unwrap();
        rms_norm::forward(&ctx, eps, total.view(grid), weight, plain.view_mut(grid), rstd.view_mut([rows]))
            .unwrap();
        assert_eq!(bits(&ctx, &sum), bits(&ctx, &total), "sum {shape:?} {dtype}");
        assert_eq!(bits(&ctx, &fused), bits(&ctx, &plain), "out {shape:?} {dtype}");
    }
}

/// Runs backward and returns (dx, dweight), both starting from `start`.
fn backward(
    ctx: &Context<Cpu>,
    shape: RmsNormShape,
    (dtype, weight_dtype): (DType, DType),
    write: Write,
    start: f64,
) -> (tisserand_kernels::Block<Cpu>, tisserand_kernels::Block<Cpu>) {
    let RmsNormShape { rows, width } = shape;
    let grid = [rows, width];
    let (x, weight, dout) = (normal_f64(1, rows * width), normal_f64(2, width), normal_f64(3, rows * width));
    let rstd = reference::forward(shape, EPS, &x, &weight).1;
    let (x, dout) = (upload_as(ctx, dtype, &x), upload_as(ctx, dtype, &dout));
    let (weight, rstd) = (upload_as(ctx, weight_dtype, &weight), upload_as(ctx, DType::F32, &rstd));
    let mut dx = upload_as(ctx, dtype, &vec![start; rows * width]);
    let mut dweight = upload_as(ctx, DType::F32, &vec![start; width]);
    rms_norm::backward(
        ctx,
        dout.view(grid),
        x.view(grid),
        weight.view([width]),
        rstd.view([rows]),
        write,
        dx.view_mut(grid),
        dweight.view_mut([width]),
    )
    .unwrap();
    (dx, dweight)
}

#[test]
fn backward_equals_the_reference_and_adds_where_told() {
    let ctx = context(2);
    for (shape, dtypes) in shapes().flat_map(|s| dtypes().map(move |d| (s, d))) {
        let RmsNormShape { rows, width } = shape;
        let (x, weight, dout) =
            (normal_f64(1, rows * width), normal_f64(2, width), normal_f64(3, rows * width));
        let rstd = reference::forward(shape, EPS, &x, &weight).1;
        let (want_dx, want_dweight) = reference::backward(shape, &dout, &x, &weight, &rstd);
        // dx is a difference of terms of this size; in rows of one element it vanishes but for eps.
        let scale = rms(&dout) * rms(&weight) * rstd.iter().fold(0.0, |a: f64, r| a.max(*r));
        for (write, start) in [(Write::Replace, 0.0), (Write::Add, 0.5)] {
            let (dx, dweight) = backward(&ctx, shape, dtypes, write, start);
            let plus = |want: &[f64]| want.iter().map(|w| w + start).collect::<Vec<_>>();
            let name = format!("{shape:?} {dtypes:?} {write:?}");
            assert_close(
                &format!("dx {name}"),
                &download(&ctx, &dx),
                &plus(&want_dx),
                scale,
                tolerance(dtypes.0, width),
            );
            let bound = tolerance(DType::F32, rows);
            assert_close(
                &format!("dweight {name}"),
                &download(&ctx, &dweight),
                &plus(&want_dweight),
                rms(&want_dweight),
                bound,
            );
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let shape = RmsNormShape { rows: 321, width: 129 };
    let run = |threads| {
        let ctx = context(threads);
        let (dx, dweight) = backward(&ctx, shape, (DType::F32, DType::F32), Write::Add, 0.5);
        (bits(&ctx, &dx), bits(&ctx, &dweight))
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}

#[test]
fn a_wrong_shape_or_dtype_is_refused_by_name() {
    let ctx = context(1);
    let (x, weight) = (upload_as(&ctx, DType::F32, &[0.0; 6]), upload_as(&ctx, DType::F32, &[0.0; 4]));
    let mut out = poisoned(&ctx, DType::Bf16, [6]);
    let mut rstd = poisoned(&ctx, DType::F32, [2]);
    let mut refuse = |x: TensorRef<'_, Cpu>, weight: TensorRef<'_, Cpu>| {
        let (out, rstd) = (out.view_mut([2, 3]), rstd.view_mut([2]));
        rms_norm::forward(&ctx, 1e-5, x, weight, out, rstd).unwrap_err().to_string()
    };
    let message = refuse(x.view([2, 3]), weight.view([4]));
    assert_eq!(message, "rms_norm::forward: `weight` has shape [4], expected [3]");
    let message = refuse(x.view([2, 3]), weight.range(0, [3]));
    assert_eq!(message, "rms_norm::forward: `out` has dtype bf16, expected f32");
}
