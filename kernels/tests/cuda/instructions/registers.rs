//! Instructions on registers, and who a thread is.

use half::bf16;
use tisserand_kernels::Context;

use super::{Bench, random_words};
use crate::support::{Dev, for_each_setting, with_warps_of_64};

/// Zeros, ones, subnormal numbers, the largest, those that no bf16 holds, infinities, and what is no number.
const SPECIAL: [u32; 20] = [
    0,
    0x8000_0000,
    0x3f80_0000,
    0xbf80_0000,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x8080_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x3f80_8000,
    0x3f81_8000,
    0x3f80_7fff,
    0x3f80_8001,
    0x7f7f_8000,
    0x4b00_0001,
];

/// What a row of `instruction_arithmetic` must hold.
enum Row {
    /// The bits of a number; any NaN for a NaN.
    Number(fn(f32, f32, f32) -> f32),
    /// The value of a number, whose zero may have either sign; any NaN for a NaN.
    Value(fn(f32, f32, f32) -> f32),
    /// A word.
    Word(fn(f32, f32, f32) -> u32),
    /// Two bf16; any NaN for a NaN.
    Halves(fn(f32, f32, f32) -> [f32; 2]),
}

const ROWS: [Row; 17] = [
    Row::Number(f32::mul_add),
    Row::Number(|a, b, c| a * b + c),
    Row::Number(|a, _, _| a.sqrt()),
    Row::Number(|a, b, _| a / b),
    Row::Number(|a, _, _| a.round_ties_even()),
    Row::Value(|a, b, _| a.max(b)),
    Row::Value(|a, b, _| a.min(b)),
    Row::Word(|a, b, _| ((u64::from(a.to_bits()) * u64::from(b.to_bits())) >> 32) as u32),
    Row::Halves(|a, b, _| [a, b]),
    Row::Halves(|a, _, _| [a, 0.0]),
    Row::Number(|a, _, _| f32::from_bits(a.to_bits() << 16)),
    Row::Number(|a, _, _| f32::from_bits(a.to_bits() & 0xffff_0000)),
    Row::Number(|a, _, _| f32::from_bits(a.to_bits() << 16)),
    Row::Number(|a, b, _| a + b),
    Row::Word(|a, _, _| u32::from(a.is_nan())),
    Row::Number(|a, _, _| 1.0 / a),
    Row::Word(|a, _, _| ((u64::from(a.to_bits()) << 20) | (1 << 63)).trailing_zeros()),
];

impl Row {
    fn holds(&self, [a, b, c]: [f32; 3], got: u32) -> bool {
        let number = |want: f32, got: f32| want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan();
        let half = |want: f32, got: u16| number(bf16::from_f32(want).to_f32(), bf16::from_bits(got).to_f32());
        match self {
            Row::Number(of) => number(of(a, b, c), f32::from_bits(got)),
            Row::Value(of) => {
                let (want, got) = (of(a, b, c), f32::from_bits(got));
                number(want, got) || want == got
            }
            Row::Word(of) => of(a, b, c) == got,
            Row::Halves(of) => {
                let [low, high] = of(a, b, c);
                half(low, got as u16) && half(high, (got >> 16) as u16)
            }
        }
    }
}

/// All pairs of special numbers, then random bits.
fn operands() -> Vec<[f32; 3]> {
    let special = SPECIAL.map(f32::from_bits);
    let pairs = special.iter().flat_map(|a| special.iter().map(|b| [*a, *b]));
    let pairs = pairs.enumerate().map(|(i, [a, b])| [a, b, special[i * 7 % special.len()]]);
    let random = random_words(1, 3 * 4000);
    pairs.chain(random.chunks(3).map(|bits| [0, 1, 2].map(|i| f32::from_bits(bits[i])))).collect()
}

#[test]
fn arithmetic_is_rounded_once_to_nearest() {
    let operands = operands();
    let len = operands.len();
    let columns: Vec<f32> = (0..3_usize).flat_map(|i| operands.iter().map(move |of| of[i])).collect();
    for_each_setting(|ctx| {
        let bench = Bench::new(ctx, &columns);
        let column = |i: usize| bench.x(4 * i * len, 4 * len);
        let args = [column(0), column(1), column(2), bench.out(0, 4 * ROWS.len() * len), (len as u32).into()];
        bench.run("instruction_arithmetic", [len.div_ceil(128), 1, 1], 128, 0, &args);
        for (row, (expected, got)) in ROWS.iter().zip(bench.rows(ROWS.len(), len)).enumerate() {
            for (operands, got) in operands.iter().zip(got) {
                let bits = operands.map(f32::to_bits);
                assert!(expected.holds(*operands, got), "row {row}: {bits:08x?} gives {got:08x}");
            }
        }
    });
}

#[test]
fn powers_of_two_are_within_their_error() {
    const ERROR: f64 = 1.0 / (1 << 22) as f64;
    let special = [0.0, -0.0, f32::NEG_INFINITY, f32::INFINITY, 127.999, 128.0, -125.999, -127.0, -150.0];
    let random = random_words(2, 4000).into_iter().map(|word| word as f32 / u32::MAX as f32 * 256.0 - 128.0);
    let x: Vec<f32> = special.into_iter().chain(random).collect();
    for_each_setting(|ctx| {
        let bench = Bench::new(ctx, &x);
        let args = [bench.x(0, 4 * x.len()), bench.out(0, 4 * x.len()), (x.len() as u32).into()];
        bench.run("instruction_exp2", [x.len().div_ceil(128), 1, 1], 128, 0, &args);
        for (x, got) in x.iter().zip(bench.read::<f32>(x.len())) {
            let want = f64::from(*x).exp2();
            let fits = if want < 2.0_f64.powi(-126) {
                got == 0.0
            } else if want > f64::from(f32::MAX) {
                got == f32::INFINITY
            } else {
                (f64::from(got) - want).abs() <= ERROR * want
            };
            assert!(fits, "2^{x} gives {got}, not {want}");
        }
    });
}

#[test]
fn threads_know_their_places() {
    const GRID: [u32; 3] = [3, 2, 2];
    const THREADS: u32 = 128;
    let all = (GRID.iter().product::<u32>() * THREADS) as usize;
    let expected = |warp: u32, row: usize, me: u32| {
        let (block, thread) = (me / THREADS, me % THREADS);
        let [x, y, z] = [block % 3, block / 3 % 2, block / 6];
        [thread, THREADS, x, y, z, 3, 2, 2, thread % warp, thread / warp, THREADS / warp][row]
    };
    let check = |ctx: &Context<Dev>, warp| {
        let bench = Bench::new(ctx, &[0_u32]);
        bench.run("instruction_places", GRID.map(|n| n as usize), THREADS, 0, &[bench.out(0, 44 * all)]);
        for (row, got) in bench.rows(11, all).into_iter().enumerate() {
            let want: Vec<u32> = (0..all as u32).map(|me| expected(warp, row, me)).collect();
            assert_eq!(got, want, "row {row}");
        }
    };
    for_each_setting(|ctx| check(ctx, 32));
    with_warps_of_64(|ctx| check(ctx, 64));
}

#[test]
fn lanes_exchange_words_and_vote() {
    let x: Vec<u32> = random_words(3, 128).into_iter().map(|word| word % 900).collect();
    let check = |ctx: &Context<Dev>, warp: u32| {
        let bench = Bench::new(ctx, &x);
        bench.run("instruction_shuffles", [1; 3], 128, 0, &[bench.x(0, 512), bench.out(0, 15 * 512)]);
        let rows = bench.rows(15, 128);
        let of_lane = |of: &dyn Fn(u32) -> u32| -> Vec<u32> {
            (0..128).map(|me| x[(me / warp * warp + of(me % warp)) as usize]).collect()
        };
        for i in 0..warp.ilog2() {
            assert_eq!(rows[i as usize], of_lane(&|lane| lane ^ (1 << i)));
        }
        let below = |lane: u32, distance| if lane + distance < warp { lane + distance } else { lane };
        assert_eq!(rows[6], of_lane(&|lane| lane ^ (warp - 1)));
        assert_eq!(rows[7], of_lane(&|lane| below(lane, 5)));
        assert_eq!(rows[8], of_lane(&|lane| below(lane, 1)));
        assert_eq!(rows[9], of_lane(&|lane| (lane * 7 + 3) % warp));
        assert_eq!(rows[10], of_lane(&|lane| warp - 1 - lane));
        let votes = |me: u32| -> u64 {
            let vote = |lane| u64::from(x[(me / warp * warp + lane) as usize].is_multiple_of(3)) << lane;
            (0..warp).map(vote).sum()
        };
        assert_eq!(rows[11], (0..128).map(|me| votes(me) as u32).collect::<Vec<_>>());
        assert_eq!(rows[12], (0..128).map(|me| (votes(me) >> 32) as u32).collect::<Vec<_>>());
        assert_eq!([&rows[13], &rows[14]], [&vec![1; 128], &vec![2; 128]]);
    };
    for_each_setting(|ctx| check(ctx, 32));
    with_warps_of_64(|ctx| check(ctx, 64));
}
