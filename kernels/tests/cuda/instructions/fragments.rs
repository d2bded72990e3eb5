//! Tensor cores: who holds which element, and the product.

use half::bf16;
use tisserand_kernels::testing::normal_f64;

use super::Bench;
use crate::support::for_each_setting;

const M: usize = 16;
const N: usize = 8;
const K: usize = 16;

/// Two products, one for each warp: `a` 16 × 16, `b` 16 × 8. What was in `d`, and what is there then.
fn products(a: &[f64], b: &[f64], d: &[f64], check: impl Fn(&[f32])) {
    let operands: Vec<bf16> = a.iter().chain(b).map(|x| bf16::from_f64(*x)).collect();
    let sums: Vec<f32> = d.iter().map(|x| *x as f32).collect();
    for_each_setting(|ctx| {
        let bench = Bench::new(ctx, &operands);
        bench.set_out(&sums);
        let args = [bench.x(0, 4 * M * K), bench.x(4 * M * K, 4 * K * N), bench.out(0, 8 * M * N)];
        bench.run("instruction_multiply_add", [1; 3], 64, 0, &args);
        check(&bench.read::<f32>(2 * M * N));
    });
}

/// The terms of element i of both products, the old value first.
fn terms(a: &[f64], b: &[f64], d: &[f64], i: usize) -> Vec<f64> {
    let (warp, row, column) = (i / (M * N), i % (M * N) / N, i % N);
    let products = (0..K).map(|k| a[(warp * M + row) * K + k] * b[(warp * K + k) * N + column]);
    std::iter::once(d[i]).chain(products).collect()
}

#[test]
fn products_of_small_whole_numbers_are_exact() {
    let whole = |len: usize, seed: usize| {
        (0..len).map(|i| ((i * 37 + seed * 11) % 17) as f64 - 8.0).collect::<Vec<_>>()
    };
    let (a, b, d) = (whole(2 * M * K, 1), whole(2 * K * N, 2), whole(2 * M * N, 3));
    products(&a, &b, &d, |got| {
        let want: Vec<f32> =
            (0..2 * M * N).map(|i| terms(&a, &b, &d, i).iter().sum::<f64>() as f32).collect();
        assert_eq!(got, want);
    });
}

/// The order of a tensor core's sum is its own, and it may cut where others round: a bit of the largest term for each.
#[test]
fn products_of_any_numbers_are_within_rounding() {
    let (a, b, d) = (normal_f64(1, 2 * M * K), normal_f64(2, 2 * K * N), normal_f64(3, 2 * M * N));
    products(&a, &b, &d, |got| {
        for (i, got) in got.iter().enumerate() {
            let terms = terms(&a, &b, &d, i);
            let largest = terms.iter().fold(0.0_f64, |largest, term| largest.max(term.abs()));
            let error = (f64::from(*got) - terms.iter().sum::<f64>()).abs();
            let bound = f64::from(f32::EPSILON) * 4.0 * largest * terms.len() as f64;
            assert!(error <= bound, "element {i}: error {error:.1e}, bound {bound:.1e}");
        }
    });
}

#[test]
fn matrices_go_to_the_lanes_that_the_map_names() {
    let elements: Vec<u16> = (0..256).map(|i| 1000 + i).collect();
    let element = |m: usize, row: usize, column: usize| u32::from(elements[m * 64 + row * 8 + column]);
    let plain = |m, g: usize, t: usize| element(m, g, 2 * t) | element(m, g, 2 * t + 1) << 16;
    let transposed = |m, g: usize, t: usize| element(m, 2 * t, g) | element(m, 2 * t + 1, g) << 16;
    let all = |of: &dyn Fn(usize, usize, usize) -> u32| -> Vec<u32> {
        (0..128).map(|i| of(i / 32, i % 32 / 4, i % 4)).collect()
    };
    for_each_setting(|ctx| {
        let bench = Bench::new(ctx, &elements);
        let args = [bench.x(0, 512), bench.out(0, 512), bench.out(512, 512), bench.out(1024, 512)];
        bench.run("instruction_matrices", [1; 3], 64, 1024, &args);
        let got = bench.read::<u32>(3 * 128);
        assert_eq!([&got[..128], &got[128..256]], [&all(&plain)[..], &all(&transposed)[..]]);
        assert_eq!(bytemuck::cast_slice::<u32, u16>(&got[256..]), elements);
    });
}
