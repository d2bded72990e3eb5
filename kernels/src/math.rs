//! Our own elementary functions: fixed polynomials with explicit fused multiply-adds, hence the same bits
//! on every device. Branch-free, so that loops over them vectorise.

/// `e^x` in f32, relative error below 2 units in the last place; 0 below -87.3, infinity above 88.7, NaN kept.
///
/// Range reduction `x = n ln 2 + r`, `|r| <= ln 2 / 2`, with ln 2 in two parts (Cody and Waite), then a
/// degree-6 polynomial for `e^r` (coefficients of Cephes `expf`, netlib.org/cephes).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Clamped so that 2^n below stays a normal number; the true limits are restored at the end.
    let clamped = x.clamp(-87.3, 88.7);
    let n = (clamped * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let series = p.mul_add(r * r, r) + 1.0;
    // `n as i32` saturates and checks for NaN, which costs more than all the rest; adding 1.5 · 2^23 leaves
    // the same integer in the low bits. Of a NaN they are meaningless, and not used.
    const SHIFT: f32 = 12_582_912.0;
    let n = ((n + SHIFT).to_bits() as i32).wrapping_sub(SHIFT.to_bits() as i32);
    // 2^n as two factors, since n = 128 alone has no f32.
    let half = n >> 1;
    let power = |e: i32| f32::from_bits((e.wrapping_add(127) << 23) as u32);
    let value = series * power(half) * power(n.wrapping_sub(half));
    let value = if x < -87.3 { 0.0 } else { value };
    let value = if x > 88.7 { f32::INFINITY } else { value };
    if x.is_nan() { x } else { value }
}

/// `1 / (1 + e^-x)` by [`exp`].
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_to_two_units_in_the_last_place() {
        for i in -870_000..=885_000 {
            let x = i as f32 * 1e-4;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(((got - want) / want).abs() < 2.4e-7, "exp({x}) = {got}, expected {want}");
        }
    }

    #[test]
    fn exp_keeps_the_limits() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
