//! The gate of the feed-forward layer: the bits of the CPU device, over all of the sigmoid's range.

use tisserand_kernels::ops::swiglu;
use tisserand_kernels::testing::{bits, normal_f64, upload_as};
use tisserand_kernels::{Context, DType, Device};

use crate::support::{Dev, FLOATS, assert_coalesced, cpu, for_each_setting, with_warps_of_64};

/// Tokens × width: below a group, odd, whole groups, several blocks.
const SHAPES: [[usize; 2]; 7] = [[1, 1], [3, 7], [2, 8], [5, 129], [9, 256], [33, 72], [0, 8]];

/// Inputs: gates that go far beyond where e^x ends, on both sides.
fn values(seed: u64, start: usize, len: usize) -> Vec<f64> {
    let spread = |i: usize| if i.is_multiple_of(3) { 35.7 } else { 1.2345 };
    normal_f64(seed, start + len).iter().enumerate().map(|(i, x)| x * spread(i)).collect()
}

/// Elements before gate_up, dout, out and dgate_up in their blocks: all aligned, none, and each alone not.
const STARTS: [[usize; 4]; 7] =
    [[0; 4], [1; 4], [8; 4], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]];

/// Bits of out, then of dgate_up.
fn both<D: Device>(
    ctx: &Context<D>,
    [tokens, width]: [usize; 2],
    dtype: DType,
    [from_gate_up, from_dout, from_out, from_dgate_up]: [usize; 4],
) -> Vec<u32> {
    let len = tokens * width;
    let gate_up = upload_as(ctx, dtype, &values(1, from_gate_up, 2 * len));
    let dout = upload_as(ctx, dtype, &normal_f64(2, from_dout + len));
    let mut out = upload_as(ctx, dtype, &vec![7.0; from_out + len + 1]);
    let mut dgate_up = upload_as(ctx, dtype, &vec![7.0; from_dgate_up + 2 * len + 1]);
    let gate_up = gate_up.range(from_gate_up, [tokens, 2 * width]);
    let dout = dout.range(from_dout, [tokens, width]);
    swiglu::forward(ctx, gate_up, out.range_mut(from_out, [tokens, width])).unwrap();
    swiglu::backward(ctx, gate_up, dout, dgate_up.range_mut(from_dgate_up, [tokens, 2 * width])).unwrap();
    [bits(ctx, &out), bits(ctx, &dgate_up)].concat()
}

fn check(ctx: &Context<Dev>) {
    let cpu = cpu();
    for (shape, dtype) in SHAPES.into_iter().flat_map(|shape| FLOATS.map(|dtype| (shape, dtype))) {
        for starts in STARTS {
            let want = both(&cpu, shape, dtype, starts);
            assert_eq!(both(ctx, shape, dtype, starts), want, "{shape:?} {dtype} from {starts:?}");
        }
    }
}

#[test]
fn both_have_the_bits_of_the_cpu() {
    for_each_setting(check);
    with_warps_of_64(check);
}

/// `gate · sigmoid(gate)` of these gates.
fn silu<D: Device>(ctx: &Context<D>, gates: &[f64]) -> Vec<u32> {
    let rows: Vec<f64> = gates.iter().flat_map(|gate| [*gate, 1.0]).collect();
    let gate_up = upload_as(ctx, DType::F32, &rows);
    let mut out = upload_as(ctx, DType::F32, gates);
    let len = gates.len();
    swiglu::forward(ctx, gate_up.view([len, 2]), out.view_mut([len, 1])).unwrap();
    bits(ctx, &out)
}

#[test]
fn sigmoid_has_the_bits_of_the_cpu_from_end_to_end() {
    let limits = [87.3, 88.7, 88.376, 88.4, 0.346, 0.3466, 1e-8, 1e-40, 100.0, 1e4, 3e38, f64::INFINITY, 0.0];
    let around = limits.iter().flat_map(|x| [x * 0.999_999, *x, x * 1.000_001]);
    let mut gates: Vec<f64> = around.flat_map(|x| [x, -x]).collect();
    gates.extend((-9_000..9_000).map(|i| f64::from(i) * 0.010_007));
    // Every exponent, from below the least normal number on.
    gates.extend((-149..128).flat_map(|e| [1.37 * 2.0_f64.powi(e), -1.37 * 2.0_f64.powi(e)]));
    let want = silu(&cpu(), &gates);
    with_warps_of_64(|ctx| {
        let got = silu(ctx, &gates);
        for ((got, want), gate) in got.iter().zip(&want).zip(&gates) {
            let are_nan = f32::from_bits(*got).is_nan() && f32::from_bits(*want).is_nan();
            assert!(got == want || are_nan, "gate {gate}: {got:x} instead of {want:x}");
        }
        assert!(f32::from_bits(silu(ctx, &[f64::NAN])[0]).is_nan());
    });
}

#[test]
fn accesses_are_coalesced() {
    assert_coalesced("swiglu", 1.0, |ctx| {
        both(ctx, [16, 512], DType::Bf16, [0; 4]);
    });
}
