//! Kernels that go through flat buffers.

use half::bf16;
use tisserand_kernels::ops::adamw::{self, AdamwParams};
use tisserand_kernels::ops::elementwise::{self, Combine};
use tisserand_kernels::ops::grad_norm;
use tisserand_kernels::ops::philox::{self, GlobalIndex, NormalParams};
use tisserand_kernels::ops::step_scalars::StepScalars;
use tisserand_kernels::ops::{CHUNK, Write};
use tisserand_kernels::testing::upload;
use tisserand_kernels::{Block, DType, Float, TensorRef};

use super::*;

/// Elements behind the last whole sweep.
const TAIL: usize = 100;

/// Of tensors that begin at the second element of their buffers, or at the first.
fn check_elementwise(stride: Stride, begin: usize) {
    let (ctx, sweeps) = (far(), (1_usize << 32).div_ceil(stride.len()) + 1);
    let len = sweeps * stride.len() + TAIL;
    let [mut wide, mut narrow] = [DType::F32, DType::Bf16].map(|dtype| zeros(&ctx, dtype, begin + len));
    let windows = stride.windows(0..sweeps, TAIL);
    let places: Vec<_> = windows.iter().map(|window| begin + window.start..begin + window.end).collect();
    for (place, seed) in places.iter().zip(1..) {
        put(&ctx, &mut wide, place.start, &numbers::<f32>(seed, place.len()));
    }
    elementwise::cast(&ctx, wide.range(begin, [len]), narrow.range_mut(begin, [len])).unwrap();
    elementwise::add_assign(&ctx, narrow.range(begin, [len]), wide.range_mut(begin, [len])).unwrap();
    for (place, seed) in places.iter().zip(1..) {
        let want: Vec<bf16> = numbers(seed, place.len());
        assert!(get::<_, bf16>(&ctx, &narrow, place.clone()) == want, "cast of {place:?}");
        let twice: Vec<f32> = want.iter().map(|x| 2.0 * x.to_f32()).collect();
        assert!(get::<_, f32>(&ctx, &wide, place.clone()) == twice, "add_assign of {place:?}");
    }
    elementwise::fill(&ctx, 1.5, wide.range_mut(begin, [len])).unwrap();
    for place in places {
        assert!(get::<_, f32>(&ctx, &wide, place.clone()).iter().all(|x| *x == 1.5), "fill of {place:?}");
    }
}

#[test]
fn conversions_additions_and_fills_reach_every_element_of_a_large_buffer() {
    check_elementwise(whole_grid(8), 0);
    // By single elements, of which the grid is that of groups: cast and add_assign have as many blocks as there may be.
    check_elementwise(whole_grid(1), 1);
}

#[test]
fn combinations_count_packs_of_the_longest_tensors() {
    let (ctx, stride) = (far(), whole_grid(4));
    let len = 15 * stride.len() + TAIL;
    assert!(len > 7 << 30 && len < 1 << 33, "near the limit of the kernel");
    let (mut own, mut other) = (zeros(&ctx, DType::F32, len), zeros(&ctx, DType::F32, len));
    let windows = stride.windows(0..15, TAIL);
    for (i, window) in windows.iter().enumerate() {
        put(&ctx, &mut own, window.start, &numbers::<f32>(i as u64, window.len()));
        put(&ctx, &mut other, window.start, &vec![1.0_f32; window.len()]);
    }
    let others = [other.view([len])];
    elementwise::combine(&ctx.device, Combine::Sum, &[], own.view_mut([len]), &others).unwrap();
    for (i, window) in windows.into_iter().enumerate() {
        let want: Vec<f32> = numbers::<f32>(i as u64, window.len()).iter().map(|x| x + 1.0).collect();
        assert!(get::<_, f32>(&ctx, &own, window.clone()) == want, "{window:?}");
    }
}

#[test]
fn stacks_of_large_tensors_are_combined() {
    const COUNT: usize = 64;
    let (ctx, len) = (far(), (1 << 27) + 64);
    assert!((COUNT - 1) * len > 1 << 32);
    let (mut own, mut stack) = (zeros(&ctx, DType::Bf16, len), zeros(&ctx, DType::Bf16, (COUNT - 1) * len));
    let ends = [0..64, len - 64..len];
    for (i, end) in ends.iter().enumerate() {
        put(&ctx, &mut own, end.start, &numbers::<bf16>(i as u64, 64));
        for other in 0..COUNT - 1 {
            put(&ctx, &mut stack, other * len + end.start, &[bf16::from_f32(other as f32); 64]);
        }
    }
    let others: Vec<TensorRef<'_, Dev>> = (0..COUNT - 1).map(|i| stack.range(i * len, [len])).collect();
    let (before, after) = others.split_at(COUNT / 2);
    elementwise::combine(&ctx.device, Combine::Max, before, own.view_mut([len]), after).unwrap();
    for (i, end) in ends.into_iter().enumerate() {
        let largest = bf16::from_f32((COUNT - 2) as f32);
        let want: Vec<bf16> = numbers::<bf16>(i as u64, 64).iter().map(|x| x.max(largest)).collect();
        assert!(get::<_, bf16>(&ctx, &own, end.clone()) == want, "{end:?}");
    }
}

/// What [`adamw::update`] changes in a window: master weights, moments, compute copy.
type State<T> = ([Vec<T>; 3], Vec<bf16>);

/// The states of windows, each with the numbers of its seed, after one update of all.
fn updated<T: Float>(
    ctx: &Context<Dev>,
    len: usize,
    windows: &[(Range<usize>, u64)],
    index: GlobalIndex,
) -> Vec<State<T>> {
    let mut scalars =
        StepScalars { lr: 0.1, beta1: 0.9, beta2: 0.95, step: 7, update: 1, ..StepScalars::default() };
    (scalars.clip_factor, scalars.bias_correction1, scalars.bias_correction2) = (1.0, 0.1, 0.05);
    let scalars = upload(ctx, &scalars.to_words());
    let (mut grad, mut weights) = (zeros(ctx, DType::F32, len), zeros(ctx, DType::Bf16, len));
    let [mut master, mut m, mut v] = [(); 3].map(|()| zeros(ctx, T::DTYPE, len));
    for (window, seed) in windows {
        put(ctx, &mut grad, window.start, &numbers::<f32>(*seed, window.len()));
        put(ctx, &mut master, window.start, &numbers::<T>(seed + 100, window.len()));
        put(ctx, &mut m, window.start, &numbers::<T>(seed + 200, window.len()));
        let squares: Vec<T> =
            numbers::<f32>(seed + 300, window.len()).iter().map(|x| T::from_f32(x * x)).collect();
        put(ctx, &mut v, window.start, &squares);
    }
    let params = AdamwParams { lr_scale: 1.0, eps: 1e-8, weight_decay: 0.1, tensor_key: 5, index };
    let scalars = scalars.view([scalars.len()]);
    let [p, a, b, w] = [&mut master, &mut m, &mut v, &mut weights].map(|block| block.view_mut([len]));
    adamw::update(ctx, &params, scalars, grad.view([len]), p, a, b, w).unwrap();
    let state = |(window, _): &(Range<usize>, u64)| {
        let state = [&master, &m, &v].map(|block: &Block<Dev>| get::<_, T>(ctx, block, window.clone()));
        (state, get::<_, bf16>(ctx, &weights, window.clone()))
    };
    windows.iter().map(state).collect()
}

/// Elements of an update are independent, so a window alone has the bits of the whole.
fn check_update<T: Float + PartialEq>(elements: usize) {
    let stride = Stride { elements, blocks: 2048 };
    let sweeps = (1_usize << 32).div_ceil(stride.len()) + 2;
    let (len, first) = (sweeps * stride.len() + TAIL, 3 << 33);
    let mut windows = stride.windows(0..1, 0);
    windows.extend(stride.windows(sweeps - 3..sweeps, TAIL));
    let windows: Vec<_> = windows.into_iter().zip(0..).collect();
    let got = updated::<T>(&far(), len, &windows, GlobalIndex::contiguous(first));
    let small = near();
    for ((window, seed), got) in windows.into_iter().zip(got) {
        let index = GlobalIndex::contiguous(first + window.start as u64);
        let want = updated::<T>(&small, window.len(), &[(0..window.len(), seed)], index);
        assert!(want == [got], "{:?} of {window:?}", T::DTYPE);
    }
}

#[test]
fn updates_of_all_parameters_of_a_large_rank_have_the_bits_of_small_ones() {
    check_update::<f32>(4);
    check_update::<bf16>(8);
}

#[test]
fn sums_over_chunks_reach_the_end_of_a_large_buffer() {
    let (ctx, block) = (far(), CHUNK * 16);
    let len = (1 << 32) + 5 * block + 3;
    let chunks = len.div_ceil(CHUNK);
    let mut x = zeros(&ctx, DType::F32, len);
    let ends = [0..block, len - 3..len];
    for end in &ends {
        put(&ctx, &mut x, end.start, &numbers::<f32>(1, end.len()));
    }
    let mut partials = zeros(&ctx, DType::F32, chunks);
    grad_norm::sum_of_squares(&ctx, x.view([len]), partials.view_mut([chunks])).unwrap();
    let small = near();
    for (end, of) in ends.into_iter().zip([0..16, chunks - 1..chunks]) {
        let mut x = zeros(&small, DType::F32, end.len());
        put(&small, &mut x, 0, &numbers::<f32>(1, end.len()));
        let mut want = zeros(&small, DType::F32, of.len());
        grad_norm::sum_of_squares(&small, x.view([end.len()]), want.view_mut([of.len()])).unwrap();
        let want = get::<_, f32>(&small, &want, 0..of.len());
        assert_eq!(get::<_, f32>(&ctx, &partials, of), want, "{end:?}");
    }
    // The chunks of a plain sum, then the tree over them, of which everything but the ends is zero.
    let mut sum = zeros(&ctx, DType::F32, 1);
    elementwise::sum(&ctx, x.view([len]), Write::Replace, sum.view_mut([1])).unwrap();
    let mut ends = zeros(&small, DType::F32, block + 3);
    put(&small, &mut ends, 0, &numbers::<f32>(1, block));
    put(&small, &mut ends, block, &numbers::<f32>(1, 3));
    let mut want = zeros(&small, DType::F32, 1);
    elementwise::sum(&small, ends.view([block + 3]), Write::Replace, want.view_mut([1])).unwrap();
    assert_eq!(get::<_, f32>(&ctx, &sum, 0..1), get::<_, f32>(&small, &want, 0..1));
}

#[test]
fn initial_numbers_are_those_of_their_index_at_the_end_of_a_large_tensor() {
    let (ctx, stride, first) = (far(), whole_grid(4), 1_u64 << 40);
    let len = 9 * stride.len() + TAIL;
    assert!(len > 1 << 32);
    let params = |start| NormalParams {
        seed: 3,
        tensor_key: 4,
        index: GlobalIndex::contiguous(start),
        std: 0.02,
        mean: 0.0,
    };
    let mut out = zeros(&ctx, DType::F32, len);
    philox::normal(&ctx, &params(first), out.view_mut([len])).unwrap();
    let small = near();
    for window in stride.windows(0..9, TAIL) {
        let mut want = zeros(&small, DType::F32, window.len());
        philox::normal(&small, &params(first + window.start as u64), want.view_mut([window.len()])).unwrap();
        let want = get::<_, f32>(&small, &want, 0..window.len());
        assert!(get::<_, f32>(&ctx, &out, window.clone()) == want, "{window:?}");
    }
}
