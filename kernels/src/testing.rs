//! What tests of every device share: inputs, tolerances, comparisons, gradient checks.

use crate::{Block, Class, Context, DType, Device, Element, Float, Shape};

/// Largest error that an f32 computation over `reduction_len` terms with results stored as `dtype` may
/// show, relative to the size of its terms. The one place where tolerances come from.
///
/// Storage rounds once (half an epsilon of `dtype`); f32 sums of n terms grow like sqrt(n) roundings
/// (Higham, Accuracy and Stability of Numerical Algorithms, §2.8, random-walk model), with a factor 4 in hand.
pub fn tolerance(dtype: DType, reduction_len: usize) -> f64 {
    let arithmetic = 4.0 * f64::from(f32::EPSILON) * (reduction_len.max(4) as f64).sqrt();
    arithmetic + if dtype == DType::F32 { 0.0 } else { dtype.epsilon() }
}

/// Asserts `|got - want| <= tolerance · (|want| + scale)` for every element; NaN never passes.
///
/// `scale` is the size of the terms of which an element is the sum: where they cancel, the error is
/// relative to them and not to the result. [`rms`] of the expected values where nothing cancels.
///
/// # Panics
/// With the worst element's index, values and error over bound.
pub fn assert_close<T: Float>(what: &str, got: &[T], want: &[f64], scale: f64, tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let mut worst = (0, 0.0);
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let got = f64::from(got.to_f32());
        let ratio = if got == *want { 0.0 } else { (got - want).abs() / (tolerance * (want.abs() + scale)) };
        let ratio = if ratio.is_nan() { f64::INFINITY } else { ratio };
        if ratio > worst.1 {
            worst = (i, ratio);
        }
    }
    let (i, ratio) = worst;
    assert!(
        ratio <= 1.0,
        "{what}: element {i} is {:?}, expected {}; error is {ratio:.2} of the tolerance {tolerance:.2e}",
        got.get(i),
        want[i],
    );
}

/// Root of the mean square.
pub fn rms(values: &[f64]) -> f64 {
    (values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// Asserts that `gradient` is the derivative of `loss` at `x`, by central differences.
///
/// # Panics
/// With the first element that disagrees by more than 1e-6 relative to the gradient's scale.
pub fn check_gradient(what: &str, x: &[f64], gradient: &[f64], loss: impl Fn(&[f64]) -> f64) {
    assert_eq!(x.len(), gradient.len(), "{what}: length");
    let scale = gradient.iter().fold(1e-3_f64, |scale, g| scale.max(g.abs()));
    let mut moved = x.to_vec();
    for i in 0..x.len() {
        let h = 1e-5 * x[i].abs().max(1.0);
        moved[i] = x[i] + h;
        let above = loss(&moved);
        moved[i] = x[i] - h;
        let below = loss(&moved);
        moved[i] = x[i];
        let difference = (above - below) / (2.0 * h);
        let error = (difference - gradient[i]).abs() / scale;
        assert!(error < 1e-6, "{what}[{i}]: gradient {}, central difference {difference}", gradient[i]);
    }
}

/// `len` repeatable numbers, roughly normal, rounded to bf16 so that every dtype holds them exactly.
pub fn normal_f64(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    let mut uniform = || {
        // splitmix64 (Steele, Lea, Flood 2014)
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    };
    let mut normal = || (0..6).map(|_| uniform()).sum::<f64>() * 2.0_f64.sqrt() - 3.0 * 2.0_f64.sqrt();
    (0..len).map(|_| f64::from(half::bf16::from_f64(normal()).to_f32())).collect()
}

/// The same numbers in another element type.
pub fn cast<T: Float>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&v| T::from_f32(v as f32)).collect()
}

/// A block with these elements.
///
/// # Panics
/// If the arena is too small: tests size it.
pub fn upload<D: Device, T: Element>(ctx: &Context<D>, values: &[T]) -> Block<D> {
    let mut block = ctx.arena.block(Class::Activations, T::DTYPE, values.len()).expect("arena of the test");
    ctx.device.upload(values, block.view_mut([values.len()])).expect("upload");
    block
}

/// A block of floating-point `dtype` with these numbers.
///
/// # Panics
/// As [`upload`].
pub fn upload_as<D: Device>(ctx: &Context<D>, dtype: DType, values: &[f64]) -> Block<D> {
    crate::match_float!(dtype, T => upload(ctx, &cast::<T>(values)))
}

/// A block whose every byte is set, so that an op that forgets to write an element is caught: NaN for
/// floating-point types.
///
/// # Panics
/// As [`upload`].
pub fn poisoned<D: Device>(ctx: &Context<D>, dtype: DType, shape: impl Into<Shape>) -> Block<D> {
    let len = shape.into().len();
    match dtype {
        DType::F32 => upload(ctx, &vec![f32::from_bits(u32::MAX); len]),
        DType::Bf16 => upload(ctx, &vec![half::bf16::from_bits(u16::MAX); len]),
        DType::U32 => upload(ctx, &vec![u32::MAX; len]),
        DType::I32 => upload(ctx, &vec![-1_i32; len]),
        DType::U8 => upload(ctx, &vec![u8::MAX; len]),
    }
}

/// All elements of a floating-point block, widened to f32.
///
/// # Panics
/// If the device fails.
pub fn download<D: Device>(ctx: &Context<D>, block: &Block<D>) -> Vec<f32> {
    crate::match_float!(block.dtype(), T => {
        let mut values = vec![T::from_f32(0.0); block.len()];
        ctx.device.download(block.view([block.len()]), &mut values).expect("download");
        values.iter().map(|v| v.to_f32()).collect()
    })
}

/// The bits of [`download`], for comparisons that must be exact.
///
/// # Panics
/// As [`download`].
pub fn bits<D: Device>(ctx: &Context<D>, block: &Block<D>) -> Vec<u32> {
    download(ctx, block).iter().map(|v| v.to_bits()).collect()
}
