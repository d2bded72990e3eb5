//! Sums of squares and their tree on the CPU device.

use tisserand_kernels::ops::CHUNK;
use tisserand_kernels::ops::grad_norm::{self, reference};
use tisserand_kernels::testing::{
    assert_close, bits, cast, download, normal_f64, poisoned, tolerance, upload_as,
};
use tisserand_kernels::{Block, Context, Cpu, DType, TensorRef};

fn context(threads: usize) -> Context<Cpu> {
    Context::new(Cpu::new(threads).unwrap(), 64 << 20).unwrap()
}

fn partials(ctx: &Context<Cpu>, x: TensorRef<'_, Cpu>) -> Block<Cpu> {
    let chunks = x.len().div_ceil(CHUNK);
    let mut partials = poisoned(ctx, DType::F32, [chunks]);
    grad_norm::sum_of_squares(ctx, x, partials.view_mut([chunks])).unwrap();
    partials
}

fn tree_sum(ctx: &Context<Cpu>, values: &[f64]) -> u32 {
    let mut partials = upload_as(ctx, DType::F32, values);
    let mut out = poisoned(ctx, DType::F32, [1]);
    grad_norm::tree_sum(ctx, partials.view_mut([values.len()]), out.view_mut([1])).unwrap();
    bits(ctx, &out)[0]
}

#[test]
fn sum_of_squares_equals_the_reference() {
    let ctx = context(2);
    for len in [0, 1, 17, CHUNK - 1, CHUNK, CHUNK + 1, 40 * CHUNK + 7] {
        let values = normal_f64(1, len);
        let x = upload_as(&ctx, DType::F32, &values);
        let got = download(&ctx, &partials(&ctx, x.view([len])));
        let want = reference::sum_of_squares(&values);
        assert_close(&format!("{len}"), &got, &want, 0.0, tolerance(DType::F32, CHUNK));
    }
}

#[test]
fn tree_sum_has_the_bits_of_the_tree_seen_from_its_root() {
    let ctx = context(2);
    let many = [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1, 5 * CHUNK + 3, 1025 * CHUNK + 17];
    for len in (0..70).chain(many) {
        let values: Vec<f64> = normal_f64(len as u64, len);
        let want = reference::tree_sum(&cast(&values));
        assert_eq!(tree_sum(&ctx, &values), want.to_bits(), "{len} partials");
    }
}

#[test]
fn slices_at_chunks_give_the_partials_of_the_whole() {
    let ctx = context(2);
    let len = 11 * CHUNK + 5;
    let x = upload_as(&ctx, DType::F32, &normal_f64(1, len));
    let whole = bits(&ctx, &partials(&ctx, x.view([len])));
    for cut in [1, 4, 11] {
        let at = cut * CHUNK;
        let mut slices = bits(&ctx, &partials(&ctx, x.range(0, [at])));
        slices.extend(bits(&ctx, &partials(&ctx, x.range(at, [len - at]))));
        assert_eq!(slices, whole, "cut after chunk {cut}");
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let run = |threads| {
        let ctx = context(threads);
        let x = upload_as(&ctx, DType::F32, &normal_f64(1, 300_001));
        (bits(&ctx, &partials(&ctx, x.view([300_001]))), tree_sum(&ctx, &normal_f64(2, 5001)))
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}

#[test]
fn values_that_are_not_finite_reach_the_sum() {
    let ctx = context(2);
    for (at, value) in [(0, f64::NAN), (40_000, f64::INFINITY), (49_999, f64::NAN)] {
        let mut values = normal_f64(1, 50_000);
        values[at] = value;
        let x = upload_as(&ctx, DType::F32, &values);
        let partials = download(&ctx, &partials(&ctx, x.view([50_000])));
        let partials: Vec<f64> = partials.iter().map(|p| f64::from(*p)).collect();
        let sum = f32::from_bits(tree_sum(&ctx, &partials));
        assert!(!sum.is_finite(), "{value} at {at} gave {sum}");
    }
}

#[test]
fn a_wrong_number_of_partials_is_refused() {
    let ctx = context(1);
    let x = upload_as(&ctx, DType::F32, &vec![0.0; CHUNK + 1]);
    let mut partials = poisoned(&ctx, DType::F32, [1]);
    let error = grad_norm::sum_of_squares(&ctx, x.view([CHUNK + 1]), partials.view_mut([1])).unwrap_err();
    assert_eq!(error.to_string(), "grad_norm::sum_of_squares: `partials` has shape [1], expected [2]");
}
