//! RMS norms: against the reference for rows of all kinds of widths, and the same bits whatever the addresses.

use tisserand_kernels::ops::Write;
use tisserand_kernels::ops::rms_norm::{self, RmsNormShape, reference};
use tisserand_kernels::testing::{assert_close, download, normal_f64, rms, tolerance, upload_as};
use tisserand_kernels::{Block, Context, DType, Device};

use crate::support::{Dev, FLOATS, assert_coalesced, for_each_setting, in_one_setting, with_warps_of_64};

const EPS: f64 = 1e-5;

/// Rows × width: one lane, several rows of a team, teams of warps, odd widths, and around the ends of each kind of row
/// that kernels tell apart.
const SHAPES: [(usize, usize); 15] = [
    (1, 1),
    (3, 8),
    (130, 32),
    (67, 31),
    (65, 128),
    (5, 264),
    (3, 1500),
    (9, 2056),
    (3, 4096),
    (2, 4104),
    (2, 8192),
    (2, 8193),
    (3, 8200),
    (2, 16_384),
    (2, 16_392),
];

fn dtypes() -> impl Iterator<Item = [DType; 2]> {
    FLOATS.into_iter().flat_map(|x| FLOATS.map(|weight| [x, weight]))
}

/// A tensor that begins `start` elements into its block, and nothing was written to before or behind it.
struct Placed<D: Device> {
    block: Block<D>,
    start: usize,
    len: usize,
}

impl<D: Device> Placed<D> {
    fn new(ctx: &Context<D>, dtype: DType, start: usize, values: &[f64]) -> Self {
        let mut padded = vec![7.0; start];
        padded.extend(values);
        padded.push(7.0);
        Placed { block: upload_as(ctx, dtype, &padded), start, len: values.len() }
    }

    /// Its elements; those around it must be as they were.
    fn get(&self, ctx: &Context<D>) -> Vec<f32> {
        let all = download(ctx, &self.block);
        let (before, rest) = all.split_at(self.start);
        let (own, behind) = rest.split_at(self.len);
        assert!(before.iter().chain(behind).all(|x| *x == 7.0), "wrote outside of the tensor");
        own.to_vec()
    }
}

macro_rules! view {
    ($placed:expr, $($extent:expr),+) => { $placed.block.range($placed.start, [$($extent),+]) };
}
macro_rules! view_mut {
    ($placed:expr, $($extent:expr),+) => { $placed.block.range_mut($placed.start, [$($extent),+]) };
}

/// Inputs of all ops.
struct Inputs {
    shape: RmsNormShape,
    x: Vec<f64>,
    weight: Vec<f64>,
    dout: Vec<f64>,
}

impl Inputs {
    fn new((rows, width): (usize, usize)) -> Self {
        let [x, dout] = [1, 2].map(|seed| normal_f64(seed, rows * width));
        Inputs { shape: RmsNormShape { rows, width }, x, weight: normal_f64(3, width), dout }
    }
}

const NAN: f64 = f64::NAN;

/// Elements before each tensor of an op in its block, in the order in which the functions below make them.
type Starts = [usize; 5];

/// All begin so far in.
const fn all(start: usize) -> Starts {
    [start; 5]
}

/// (out, rstd) of the plain op.
fn forward<D: Device>(
    ctx: &Context<D>,
    inputs: &Inputs,
    [dtype, weight_dtype]: [DType; 2],
    starts: Starts,
) -> (Vec<f32>, Vec<f32>) {
    let RmsNormShape { rows, width } = inputs.shape;
    let x = Placed::new(ctx, dtype, starts[0], &inputs.x);
    let weight = Placed::new(ctx, weight_dtype, starts[1], &inputs.weight);
    let mut out = Placed::new(ctx, dtype, starts[2], &vec![NAN; rows * width]);
    let mut rstd = Placed::new(ctx, DType::F32, starts[3], &vec![NAN; rows]);
    rms_norm::forward(
        ctx,
        EPS as f32,
        view!(x, rows, width),
        view!(weight, width),
        view_mut!(out, rows, width),
        view_mut!(rstd, rows),
    )
    .unwrap();
    (out.get(ctx), rstd.get(ctx))
}

/// (sum, out, rstd) of the fused op, with `dout` as the residual.
fn add_forward<D: Device>(
    ctx: &Context<D>,
    inputs: &Inputs,
    [dtype, weight_dtype]: [DType; 2],
    starts: Starts,
) -> [Vec<f32>; 3] {
    let RmsNormShape { rows, width } = inputs.shape;
    let x = Placed::new(ctx, dtype, starts[0], &inputs.x);
    let residual = Placed::new(ctx, dtype, starts[1], &inputs.dout);
    let weight = Placed::new(ctx, weight_dtype, starts[2], &inputs.weight);
    let [mut sum, mut out] = [3, 4].map(|n| Placed::new(ctx, dtype, starts[n], &vec![NAN; rows * width]));
    let mut rstd = Placed::new(ctx, DType::F32, starts[0], &vec![NAN; rows]);
    rms_norm::add_forward(
        ctx,
        EPS as f32,
        view!(x, rows, width),
        view!(residual, rows, width),
        view!(weight, width),
        view_mut!(sum, rows, width),
        view_mut!(out, rows, width),
        view_mut!(rstd, rows),
    )
    .unwrap();
    [sum, out, rstd].map(|tensor| tensor.get(ctx))
}

/// (dx, dweight), both from 0.5 on where they are added to.
fn backward<D: Device>(
    ctx: &Context<D>,
    inputs: &Inputs,
    [dtype, weight_dtype]: [DType; 2],
    write: Write,
    starts: Starts,
) -> (Vec<f32>, Vec<f32>) {
    let RmsNormShape { rows, width } = inputs.shape;
    let rstd = reference::forward(inputs.shape, EPS, &inputs.x, &inputs.weight).1;
    let x = Placed::new(ctx, dtype, starts[0], &inputs.x);
    let dout = Placed::new(ctx, dtype, starts[1], &inputs.dout);
    let weight = Placed::new(ctx, weight_dtype, starts[2], &inputs.weight);
    let rstd = Placed::new(ctx, DType::F32, starts[3], &rstd);
    let before = if write == Write::Add { 0.5 } else { NAN };
    let mut dx = Placed::new(ctx, dtype, starts[4], &vec![before; rows * width]);
    let mut dweight = Placed::new(ctx, DType::F32, starts[0], &vec![0.5; width]);
    rms_norm::backward(
        ctx,
        view!(dout, rows, width),
        view!(x, rows, width),
        view!(weight, width),
        view!(rstd, rows),
        write,
        view_mut!(dx, rows, width),
        view_mut!(dweight, width),
    )
    .unwrap();
    (dx.get(ctx), dweight.get(ctx))
}

fn check_forward(ctx: &Context<Dev>, inputs: &Inputs, dtypes: [DType; 2]) {
    let RmsNormShape { width, .. } = inputs.shape;
    let name = format!("{:?} {dtypes:?}", inputs.shape);
    let (want, want_rstd) = reference::forward(inputs.shape, EPS, &inputs.x, &inputs.weight);
    let (out, rstd) = forward(ctx, inputs, dtypes, all(0));
    assert_close(&format!("out {name}"), &out, &want, rms(&want), tolerance(dtypes[0], width));
    assert_close(&format!("rstd {name}"), &rstd, &want_rstd, 0.0, tolerance(DType::F32, width));
    assert_eq!(forward(ctx, inputs, dtypes, all(1)), (out, rstd), "{name}: other bits at odd addresses");
}

fn check_add_forward(ctx: &Context<Dev>, inputs: &Inputs, dtypes: [DType; 2]) {
    let name = format!("{:?} {dtypes:?}", inputs.shape);
    let [sum, out, rstd] = add_forward(ctx, inputs, dtypes, all(0));
    let exact: Vec<f64> = inputs.x.iter().zip(&inputs.dout).map(|(x, residual)| x + residual).collect();
    let rounded = download(ctx, &upload_as(ctx, dtypes[0], &exact));
    assert_eq!(sum, rounded, "sum {name}");
    let x = rounded.iter().map(|x| f64::from(*x)).collect();
    let plain = Inputs { x, weight: inputs.weight.clone(), dout: Vec::new(), shape: inputs.shape };
    assert_eq!(
        forward(ctx, &plain, dtypes, all(0)),
        (out.clone(), rstd.clone()),
        "{name}: bits of the plain ops"
    );
    assert_eq!(
        add_forward(ctx, inputs, dtypes, all(3)),
        [sum, out, rstd],
        "{name}: other bits at odd addresses"
    );
}

fn check_backward(ctx: &Context<Dev>, inputs: &Inputs, dtypes: [DType; 2], write: Write) {
    let RmsNormShape { rows, width } = inputs.shape;
    let name = format!("{:?} {dtypes:?} {write:?}", inputs.shape);
    let rstd = reference::forward(inputs.shape, EPS, &inputs.x, &inputs.weight).1;
    let (dx, dweight) = reference::backward(inputs.shape, &inputs.dout, &inputs.x, &inputs.weight, &rstd);
    let plus = |want: &[f64], before: f64| want.iter().map(|w| w + before).collect::<Vec<_>>();
    // dx is a difference of terms of this size; in rows of one element it vanishes but for eps.
    let scale = rms(&inputs.dout) * rms(&inputs.weight) * rstd.iter().fold(0.0, |a: f64, r| a.max(*r));
    let want = plus(&dx, if write == Write::Add { 0.5 } else { 0.0 });
    let got = backward(ctx, inputs, dtypes, write, all(0));
    assert_close(&format!("dx {name}"), &got.0, &want, scale, tolerance(dtypes[0], width));
    let (want, bound) = (plus(&dweight, 0.5), tolerance(DType::F32, rows));
    assert_close(&format!("dweight {name}"), &got.1, &want, rms(&dweight), bound);
    assert_eq!(backward(ctx, inputs, dtypes, write, all(1)), got, "{name}: other bits at odd addresses");
}

/// Shapes in full for one pair of dtypes; for the others those that are quick.
fn cases(every: bool) -> impl Iterator<Item = (Inputs, [DType; 2])> {
    dtypes().flat_map(move |dtypes| {
        let full = every || dtypes == [DType::Bf16, DType::F32];
        let shapes = SHAPES.into_iter().filter(move |(rows, width)| full || rows * width < 5000);
        shapes.map(move |shape| (Inputs::new(shape), dtypes))
    })
}

#[test]
fn forward_equals_the_reference() {
    let check = |every| {
        move |ctx: &Context<Dev>| {
            cases(every).for_each(|(inputs, dtypes)| check_forward(ctx, &inputs, dtypes))
        }
    };
    with_warps_of_64(check(true));
    for_each_setting(check(false));
}

#[test]
fn the_fused_addition_has_the_bits_of_the_plain_ops() {
    let check = |ctx: &Context<Dev>| {
        cases(false).for_each(|(inputs, dtypes)| check_add_forward(ctx, &inputs, dtypes));
    };
    with_warps_of_64(check);
    for_each_setting(check);
}

#[test]
fn backward_equals_the_reference_and_adds_where_told() {
    let check = |every| {
        move |ctx: &Context<Dev>| {
            for (inputs, dtypes) in cases(every) {
                let wide = inputs.shape.width > 4096;
                for write in [Write::Add, Write::Replace].into_iter().take(if wide { 1 } else { 2 }) {
                    check_backward(ctx, &inputs, dtypes, write);
                }
            }
        }
    };
    with_warps_of_64(check(true));
    for_each_setting(check(false));
}

#[test]
fn one_tensor_at_an_odd_address_changes_no_bits() {
    in_one_setting(|ctx| {
        for (inputs, dtypes) in [(3, 264), (2, 4104)]
            .into_iter()
            .flat_map(|shape| FLOATS.map(|x| (Inputs::new(shape), [x, DType::F32])))
        {
            let plain = forward(ctx, &inputs, dtypes, all(0));
            let fused = add_forward(ctx, &inputs, dtypes, all(0));
            let back = backward(ctx, &inputs, dtypes, Write::Add, all(0));
            for odd in 0..5 {
                let mut starts = all(0);
                starts[odd] = 1;
                assert_eq!(forward(ctx, &inputs, dtypes, starts), plain, "{odd}");
                assert_eq!(add_forward(ctx, &inputs, dtypes, starts), fused, "{odd}");
                assert_eq!(backward(ctx, &inputs, dtypes, Write::Add, starts), back, "{odd}");
            }
        }
    });
}

#[test]
fn rows_of_no_tokens_are_no_work() {
    for_each_setting(|ctx| {
        let inputs = Inputs::new((0, 128));
        assert_eq!(forward(ctx, &inputs, [DType::Bf16; 2], all(0)), (Vec::new(), Vec::new()));
        let (dx, dweight) = backward(ctx, &inputs, [DType::Bf16; 2], Write::Add, all(0));
        assert_eq!((dx, dweight), (Vec::new(), vec![0.5; 128]));
    });
}

#[test]
fn accesses_are_coalesced() {
    const DTYPES: [DType; 2] = [DType::Bf16; 2];
    for shape in [(256, 128), (16, 1024), (4, 4096), (2, 16_384)] {
        assert_coalesced(&format!("forward {shape:?}"), 1.0, |ctx| {
            forward(ctx, &Inputs::new(shape), DTYPES, all(0));
        });
        assert_coalesced(&format!("fused {shape:?}"), 1.0, |ctx| {
            add_forward(ctx, &Inputs::new(shape), DTYPES, all(0));
        });
    }
    // The partial sums, of f32, go out as two packs for each thread: half a sector at a time.
    for shape in [(64, 128), (64, 1024)] {
        assert_coalesced(&format!("backward {shape:?}"), 1.02, |ctx| {
            backward(ctx, &Inputs::new(shape), DTYPES, Write::Add, all(0));
        });
    }
}
