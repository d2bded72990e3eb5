//! The generator against published vectors; normal numbers against their definition and distribution.

use tisserand_kernels::math::reference::upper_tail;
use tisserand_kernels::ops::philox::{self, GlobalIndex, NormalParams, philox4x32, reference};
use tisserand_kernels::testing::{bits, download, poisoned};
use tisserand_kernels::{Block, Context, Cpu, DType};

fn context(threads: usize) -> Context<Cpu> {
    Context::new(Cpu::new(threads).unwrap(), 64 << 20).unwrap()
}

fn params(first: u64) -> NormalParams {
    let tensor_key = philox::tensor_key("model.layers.0.mlp.up_proj.weight");
    NormalParams {
        seed: 0x1234_5678_9abc_def0,
        tensor_key,
        index: GlobalIndex::contiguous(first),
        std: 1.0,
        mean: 0.0,
    }
}

fn normal(ctx: &Context<Cpu>, params: &NormalParams, len: usize) -> Block<Cpu> {
    let mut out = poisoned(ctx, DType::F32, [len]);
    philox::normal(ctx, params, out.view_mut([len])).unwrap();
    out
}

/// From the file `kat_vectors` of Random123 (github.com/DEShawResearch/random123), philox4x32 10.
#[test]
fn the_generator_gives_the_published_vectors() {
    let all = u32::MAX;
    let vectors = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([all; 4], [all; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, key, want) in vectors {
        assert_eq!(philox4x32(counter, key), want, "{counter:x?} {key:x?}");
    }
}

#[test]
fn tensor_keys_are_fnv_1a() {
    assert_eq!(philox::tensor_key(""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(philox::tensor_key("a"), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(philox::tensor_key("foobar"), 0x8594_4171_f739_67e8);
}

#[test]
fn any_slice_has_the_bits_of_the_definition() {
    let ctx = context(2);
    let last = u64::MAX - 3000;
    for (first, len) in
        [(0, 1), (0, 4100), (1, 63), (6, 64), (1021, 2051), (u64::from(u32::MAX) * 4 - 7, 80), (last, 3000)]
    {
        let params = params(first);
        let got = bits(&ctx, &normal(&ctx, &params, len));
        let want = |i| philox::normal_at(params.seed, params.tensor_key, first + i).to_bits();
        for (i, got) in got.iter().enumerate() {
            assert_eq!(*got, want(i as u64), "element {i} from {first}");
        }
    }
}

#[test]
fn mean_and_standard_deviation_are_one_fused_multiply_add() {
    let ctx = context(1);
    let scaled = NormalParams { std: 0.02, mean: -1.5, ..params(3) };
    let (plain, scaled) = (normal(&ctx, &params(3), 1000), normal(&ctx, &scaled, 1000));
    for (plain, scaled) in download(&ctx, &plain).iter().zip(download(&ctx, &scaled)) {
        assert_eq!(plain.mul_add(0.02, -1.5).to_bits(), scaled.to_bits());
    }
}

#[test]
fn values_equal_the_f64_inverse_of_the_same_bits() {
    let ctx = context(2);
    let params = params(0);
    let got = download(&ctx, &normal(&ctx, &params, 100_000));
    for (i, got) in got.iter().enumerate() {
        let want = reference::normal_at(params.seed, params.tensor_key, i as u64);
        // Near zero the probability has 2^-25 as its step, and the density is 0.4.
        let bound = 2e-6 * want.abs() + 1.6e-7;
        assert!((f64::from(*got) - want).abs() <= bound, "element {i} is {got}, expected {want}");
    }
}

#[test]
fn the_distribution_is_normal() {
    const LEN: usize = 1_000_000;
    let ctx = context(2);
    let values = download(&ctx, &normal(&ctx, &params(5), LEN));
    let moment = |k: i32| values.iter().map(|v| f64::from(*v).powi(k)).sum::<f64>() / LEN as f64;
    // Five standard deviations of each estimate.
    let bound = |variance: f64| 5.0 * (variance / LEN as f64).sqrt();
    assert!(moment(1).abs() < bound(1.0), "mean {}", moment(1));
    assert!((moment(2) - 1.0).abs() < bound(2.0), "variance {}", moment(2));
    assert!(moment(3).abs() < bound(15.0), "skewness {}", moment(3));
    assert!((moment(4) - 3.0).abs() < bound(96.0), "kurtosis {}", moment(4));
    // Counts beyond 0, 1, ... 4 on both sides against the binomial law.
    for limit in 0..5 {
        let probability = upper_tail(f64::from(limit));
        let expected = probability * LEN as f64;
        let spread = 5.0 * (expected * (1.0 - probability)).sqrt();
        for sign in [-1.0, 1.0] {
            let count = values.iter().filter(|v| **v * sign > limit as f32).count() as f64;
            assert!((count - expected).abs() <= spread, "{count} beyond {limit}, expected {expected:.1}");
        }
    }
    // Neighbours, other tensors and other seeds are uncorrelated.
    let correlation = |other: &[f32]| -> f64 {
        values.iter().zip(other).map(|(a, b)| f64::from(a * b)).sum::<f64>() / LEN as f64
    };
    assert!(correlation(&values[1..]).abs() < bound(1.0) && correlation(&values[4..]).abs() < bound(1.0));
    let other_tensor = NormalParams { tensor_key: philox::tensor_key("norm"), ..params(5) };
    let other_seed = NormalParams { seed: 0x1234_5678_9abc_def1, ..params(5) };
    for other in [other_tensor, other_seed] {
        assert!(correlation(&download(&ctx, &normal(&ctx, &other, LEN))).abs() < bound(1.0));
    }
}

#[test]
fn rounding_noise_is_uniform_and_its_streams_differ() {
    use philox::RoundingStream::{FirstMoment, Master, SecondMoment};
    let keys = [
        philox::rounding_key(7, 1, Master),
        philox::rounding_key(7, 1, FirstMoment),
        philox::rounding_key(7, 1, SecondMoment),
        philox::rounding_key(7, 2, Master),
        philox::rounding_key(8, 1, Master),
    ];
    let len = 50_000_u64;
    for (i, key) in keys.iter().enumerate() {
        assert!(!keys[..i].contains(key));
        let sum: f64 = (0..len).map(|g| f64::from(philox::rounding_noise(*key, 1, g))).sum();
        let mean = sum / len as f64 / 65_535.0;
        assert!((mean - 0.5).abs() < 5.0 / (12.0 * len as f64).sqrt(), "mean {mean}");
    }
}

#[test]
fn stochastic_rounding_is_unbiased_over_all_noise_and_keeps_the_limits() {
    for value in [1.0_f32, 1.003, -3.3, 1e-20, f32::from_bits(1)] {
        let rounded = |noise| f64::from(philox::round_stochastic(value, noise).to_f32());
        let mean = (0..=u16::MAX).map(rounded).sum::<f64>() / 65_536.0;
        assert!((mean / f64::from(value) - 1.0).abs() < 1e-12, "mean of {value} is {mean}");
    }
    for noise in [0, 1, u16::MAX] {
        let rounded = |value| philox::round_stochastic(value, noise).to_f32();
        assert_eq!(rounded(f32::INFINITY), f32::INFINITY);
        assert_eq!(rounded(f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert_eq!(rounded(0.0), 0.0);
        assert!(rounded(f32::NAN).is_nan() && rounded(f32::from_bits(u32::MAX)).is_nan());
        assert!(rounded(f32::from_bits(0x7f80_0001)).is_nan());
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let run = |threads| bits(&context(threads), &normal(&context(threads), &params(9), 20_011));
    let one = run(1);
    for threads in [2, 3, 8] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}

#[test]
fn bad_parameters_are_refused_with_their_values() {
    let ctx = context(1);
    let mut out = poisoned(&ctx, DType::F32, [4]);
    let mut refuse =
        |params: NormalParams| philox::normal(&ctx, &params, out.view_mut([4])).unwrap_err().to_string();
    let message = refuse(NormalParams { std: -1.0, ..params(0) });
    assert_eq!(message, "philox::normal: std = -1, mean = 0; both must be finite and std not negative");
    assert!(refuse(NormalParams { std: f32::NAN, ..params(0) }).contains("std = NaN"));
    assert!(refuse(params(u64::MAX - 3)).contains("leaves 64 bits"));
}
