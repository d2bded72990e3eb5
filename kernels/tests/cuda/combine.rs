//! Several tensors into one: the bits of the CPU device for all dtypes, numbers of tensors and places among them.

use tisserand_kernels::ops::elementwise::{self, Combine};
use tisserand_kernels::testing::{normal_f64, upload};
use tisserand_kernels::{Block, Context, DType, Device, Element, TensorRef};

use crate::support::{Dev, assert_coalesced, cpu, for_each_setting, with_warps_of_64};

/// `len` elements of each of `count` tensors.
type Values<T> = Vec<Vec<T>>;

/// Combines parts, of which the own one and the others begin so many elements into their blocks; returns the bytes of all
/// of `own`.
fn combined<D: Device, T: Element>(
    ctx: &Context<D>,
    how: Combine,
    values: &Values<T>,
    own: usize,
    [from_own, from_others]: [usize; 2],
) -> Vec<u8> {
    let mut blocks: Vec<Block<D>> = values.iter().map(|values| upload(ctx, values)).collect();
    let all = values[0].len();
    let len = all - from_own.max(from_others);
    let mut target = blocks.remove(own);
    let others: Vec<TensorRef<'_, D>> = blocks.iter().map(|block| block.range(from_others, [len])).collect();
    let (before, after) = others.split_at(own);
    elementwise::combine(&ctx.device, how, before, target.range_mut(from_own, [len]), after).unwrap();
    let mut got = vec![T::zeroed(); all];
    ctx.device.download(target.view([all]), &mut got).unwrap();
    bytemuck::cast_slice(&got).to_vec()
}

fn check_dtype<T: Element>(ctx: &Context<Dev>, values: impl Fn(usize, usize) -> Vec<T>) {
    let cpu = cpu();
    for (count, len) in [(2, 1), (2, 1031), (3, 64), (5, 300), (8, 2064), (9, 33), (32, 40)] {
        let values: Values<T> = (0..count).map(|tensor| values(tensor, len)).collect();
        for how in [Combine::Sum, Combine::Max] {
            let places =
                [(0, [0, 0]), (count - 1, [0, 0]), (count / 2, [1, 1]), (0, [1, 0]), (count - 1, [0, 1])];
            for (own, starts) in places {
                let starts = starts.map(|start: usize| start.min(len - 1));
                let want = combined(&cpu, how, &values, own, starts);
                let got = combined(ctx, how, &values, own, starts);
                assert!(got == want, "{how:?} of {count} tensors of {len} {}, own {own}", T::DTYPE);
            }
        }
    }
}

/// As [`combined`], of many tensors, of which all but the own one lie one behind the other, as communicators receive
/// them. Returns the bytes of `own` alone.
fn combined_stack<D: Device, T: Element>(
    ctx: &Context<D>,
    how: Combine,
    values: &Values<T>,
    own: usize,
    [from_own, from_others]: [usize; 2],
) -> Vec<u8> {
    let len = values[0].len();
    let zeros = |count: usize| vec![T::zeroed(); count];
    let mut target = upload(ctx, &[zeros(from_own), values[own].clone()].concat());
    let others =
        values.iter().enumerate().filter(|(tensor, _)| *tensor != own).flat_map(|(_, values)| values);
    let stack = upload(ctx, &[zeros(from_others), others.copied().collect()].concat());
    let others: Vec<TensorRef<'_, D>> =
        (0..values.len() - 1).map(|other| stack.range(from_others + other * len, [len])).collect();
    let (before, after) = others.split_at(own);
    elementwise::combine(&ctx.device, how, before, target.range_mut(from_own, [len]), after).unwrap();
    let mut got = vec![T::zeroed(); len];
    ctx.device.download(target.range(from_own, [len]), &mut got).unwrap();
    bytemuck::cast_slice(&got).to_vec()
}

fn check_stack<T: Element>(ctx: &Context<Dev>, element: impl Fn(f64) -> T) {
    let cpu = cpu();
    for (count, len) in [(33, 12), (40, 1), (64, 1031), (65, 64), (127, 5), (520, 8), (1031, 4), (8184, 1)] {
        for (how, own, from) in [
            (Combine::Sum, 0, [0, 0]),
            (Combine::Sum, count - 1, [0, 1]),
            (Combine::Sum, 1, [1, 0]),
            (Combine::Max, count / 2, [0, 0]),
        ] {
            // The largest of them is below the zero of a tensor that is not there.
            let number = |x: &f64| if how == Combine::Max { -x.abs() } else { *x };
            let tensor =
                |tensor: usize| normal_f64(tensor as u64, len).iter().map(number).map(&element).collect();
            let values: Values<T> = (0..count).map(tensor).collect();
            let want = combined(&cpu, how, &values, own, [0, 0]);
            let got = combined_stack(ctx, how, &values, own, from);
            assert!(got == want, "{how:?} of {count} tensors of {len} {}, own {own}", T::DTYPE);
        }
    }
}

/// The ranks of an axis may be more than a kernel has parameters.
#[test]
fn tensors_one_behind_the_other_may_be_many() {
    let check = |ctx: &Context<Dev>| {
        check_stack(ctx, |x| x as f32);
        check_stack(ctx, half::bf16::from_f64);
    };
    for_each_setting(check);
    with_warps_of_64(check);
}

/// Numbers of very different sizes, whose sums round.
fn numbers(tensor: usize, len: usize) -> Vec<f64> {
    let scale = 1.1_f64.powi(tensor as i32) * 1.2345;
    normal_f64(tensor as u64, len).iter().map(|x| x * scale).collect()
}

fn check(ctx: &Context<Dev>) {
    check_dtype(ctx, |tensor, len| numbers(tensor, len).iter().map(|x| *x as f32).collect());
    check_dtype(ctx, |tensor, len| numbers(tensor, len).iter().map(|x| half::bf16::from_f64(*x)).collect());
    let integers = |tensor, len| numbers(tensor, len).iter().map(|x| (x * 1e9) as i64).collect::<Vec<_>>();
    check_dtype(ctx, |tensor, len| integers(tensor, len).iter().map(|x| *x as u32).collect());
    check_dtype(ctx, |tensor, len| integers(tensor, len).iter().map(|x| *x as i32).collect());
    check_dtype(ctx, |tensor, len| integers(tensor, len).iter().map(|x| *x as u8).collect());
}

#[test]
fn combinations_have_the_bits_of_the_cpu() {
    for_each_setting(check);
    with_warps_of_64(check);
}

#[test]
fn of_two_zeros_the_same_one_is_the_larger() {
    let cpu = cpu();
    for_each_setting(|ctx| {
        for values in [[0.0_f32, -0.0], [-0.0, 0.0]] {
            let values = values.map(|value| vec![value]).to_vec();
            let want = combined(&cpu, Combine::Max, &values, 0, [0, 0]);
            assert_eq!(combined(ctx, Combine::Max, &values, 0, [0, 0]), want, "{values:?}");
        }
    });
}

#[test]
fn the_largest_is_nan_if_any_is() {
    for_each_setting(|ctx| {
        for position in 0..3 {
            let mut values = vec![vec![1.0_f32], vec![2.0], vec![-3.0]];
            values[position][0] = f32::NAN;
            let largest = combined(ctx, Combine::Max, &values, 1, [0, 0]);
            assert!(f32::from_ne_bytes(largest.try_into().unwrap()).is_nan(), "{position}");
        }
    });
}

#[test]
fn more_tensors_than_the_kernel_takes_are_refused() {
    for_each_setting(|ctx| {
        let mut own = upload(ctx, &[1.0_f32]);
        let other = upload(ctx, &[2.0_f32]);
        let others = vec![other.view([1]); 32];
        let refused = elementwise::combine(&ctx.device, Combine::Sum, &[], own.view_mut([1]), &others);
        let message = refused.unwrap_err().to_string();
        assert!(
            message.contains("33 tensors, but this device combines at most 32, or 8184 of f32 or"),
            "{message}"
        );
    });
}

#[test]
fn accesses_are_coalesced() {
    for dtype in [DType::F32, DType::U8] {
        assert_coalesced("combine", 1.0, |ctx| match dtype {
            DType::F32 => drop(combined(ctx, Combine::Sum, &vec![vec![1.0_f32; 4096]; 4], 1, [0, 0])),
            _ => drop(combined(ctx, Combine::Sum, &vec![vec![1_u8; 8192]; 4], 1, [0, 0])),
        });
    }
    assert_coalesced("stack of f32", 1.0, |ctx| {
        drop(combined_stack(ctx, Combine::Sum, &vec![vec![1.0_f32; 4096]; 40], 1, [0, 0]));
    });
    assert_coalesced("stack of bf16", 1.0, |ctx| {
        drop(combined_stack(ctx, Combine::Sum, &vec![vec![half::bf16::ONE; 4096]; 40], 1, [0, 0]));
    });
}
