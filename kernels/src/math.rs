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

/// Natural logarithm in f32, error below 2 units in the last place; `ln(0)` is -infinity, negative numbers
/// give NaN, infinity and NaN are kept, subnormal numbers are exact inputs like any other.
///
/// `x = 2^e · (1 + r)` with `1 + r` in `[sqrt(1/2), sqrt(2))`, a degree-8 polynomial for
/// `(ln(1 + r) - r + r²/2) / r³` (coefficients of Cephes `logf`, netlib.org/cephes), and `e ln 2` in two
/// parts, the small one added first.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
    const TWO_TO_23: f32 = 8_388_608.0;
    let subnormal = x < f32::MIN_POSITIVE;
    let bits = if subnormal { x * TWO_TO_23 } else { x }.to_bits();
    let exponent = (bits.wrapping_sub(SQRT_HALF_BITS) as i32) >> 23;
    let r = f32::from_bits(bits.wrapping_sub((exponent as u32) << 23)) - 1.0;
    let e = exponent as f32 - if subnormal { 23.0 } else { 0.0 };
    let mut p = 7.037_683_6e-2_f32;
    p = p.mul_add(r, -1.151_461e-1);
    p = p.mul_add(r, 1.167_699_9e-1);
    p = p.mul_add(r, -1.242_014_1e-1);
    p = p.mul_add(r, 1.424_932_3e-1);
    p = p.mul_add(r, -1.666_805_8e-1);
    p = p.mul_add(r, 2.000_071_5e-1);
    p = p.mul_add(r, -2.499_999_4e-1);
    p = p.mul_add(r, 3.333_333e-1);
    let square = r * r;
    let low = (-0.5_f32).mul_add(square, e.mul_add(LN2_LOW, p * r * square));
    let value = e.mul_add(LN2_HIGH, r + low);
    let value = if x == f32::INFINITY { x } else { value };
    let value = if x == 0.0 { f32::NEG_INFINITY } else { value };
    if x >= 0.0 { value } else { f32::NAN }
}

/// The `x` for which a standard normal variable is below `x` with probability `p`, for `p` in (0, 1);
/// relative error below 2e-6 from `p = 2^-33` up. Below 2^-33 the result stays near -6.4, so it is finite
/// even for 0 and 1; NaN is kept.
///
/// As in Giles, "Approximating the erfinv function" (GPU Computing Gems, 2011): with the two-sided tail
/// `q = 2 min(p, 1 - p)` and `y = 1 - q`, the result is `y` times a smooth function of
/// `w = -ln(q (2 - q)) = -ln((1 - y)(1 + y))`: one polynomial in `w` up to 6.25, one in `sqrt(w)` above.
/// The coefficients interpolate the f64 inverse at Chebyshev nodes.
#[inline(always)]
pub fn inverse_normal(p: f32) -> f32 {
    const CENTRE: [f32; 10] = [
        -6.524_335_9e-9,
        -4.720_460_4e-9,
        6.105_193e-7,
        -2.690_758_4e-6,
        -1.782_157_8e-5,
        2.765_764_7e-4,
        -1.182_908_7e-3,
        -8.115_799e-3,
        3.417_172e-1,
        2.296_035_3,
    ];
    const TAIL: [f32; 9] = [
        6.284_17e-5,
        -2.968_483e-4,
        6.420_89e-4,
        -9.835_189e-4,
        1.539_639_3e-3,
        -2.912_039_7e-3,
        4.634_146e-3,
        1.424_634_3,
        4.717_089,
    ];
    // Where w ends: p = 2^-33 gives 21.5; the polynomial was fitted up to here.
    const LARGEST_W: f32 = 22.5;
    let q = 2.0 * if p < 0.5 { p } else { 1.0 - p };
    let w = (-ln(q * (2.0 - q))).min(LARGEST_W);
    let central = polynomial(&CENTRE, w - 3.0);
    let tail = polynomial(&TAIL, w.max(0.0).sqrt() - 3.5);
    let magnitude = (1.0 - q) * if w < 6.25 { central } else { tail };
    if p < 0.5 { -magnitude } else { magnitude }
}

/// Horner's scheme, highest coefficient first.
#[inline(always)]
fn polynomial<const N: usize>(coefficients: &[f32; N], x: f32) -> f32 {
    let mut value = coefficients[0];
    for coefficient in &coefficients[1..] {
        value = value.mul_add(x, *coefficient);
    }
    value
}

/// Plain f64 versions for tests.
pub mod reference {
    use std::f64::consts::PI;

    /// Density of the standard normal distribution.
    pub fn normal_density(x: f64) -> f64 {
        (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
    }

    /// Probability that a standard normal variable exceeds `x >= 0`: the power series near the centre, the
    /// continued fraction of Laplace in the tail (Marsaglia, Evaluating the Normal Distribution, 2004).
    pub fn upper_tail(x: f64) -> f64 {
        if x > 3.0 {
            let fraction = (1..300).rev().fold(x, |tail, k| x + f64::from(k) / tail);
            return normal_density(x) / fraction;
        }
        let (mut term, mut sum) = (x, x);
        for k in 1..100 {
            term *= x * x / f64::from(2 * k + 1);
            sum += term;
        }
        0.5 - normal_density(x) * sum
    }

    /// Inverse of the standard normal distribution function for `p` in (0, 1), by Newton's method.
    pub fn inverse_normal(p: f64) -> f64 {
        let tail = p.min(1.0 - p);
        // The upper tail is below exp(-x²/2), so this start is beyond the root, and there the logarithm
        // of the tail is concave: the iteration comes down to the root without passing it.
        let mut x = (-2.0 * tail.ln()).sqrt();
        for _ in 0..50 {
            let probability = upper_tail(x);
            x -= (tail / probability).ln() * probability / normal_density(x);
        }
        if p < 0.5 { -x } else { x }
    }
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

    #[test]
    fn ln_is_accurate_to_two_units_in_the_last_place() {
        for bits in (1..f32::INFINITY.to_bits()).step_by(1021).chain(0x3f00_0000..0x3f00_4000) {
            let x = f32::from_bits(bits);
            let (got, want) = (f64::from(ln(x)), f64::from(x).ln());
            let unit = f64::from(f32::EPSILON) * want.abs();
            assert!((got - want).abs() <= 2.0 * unit, "ln({x}) = {got}, expected {want}");
        }
        for x in (0..200_000).map(|i| 0.99 + i as f32 * 1e-7) {
            let (got, want) = (f64::from(ln(x)), f64::from(x).ln());
            assert!((got - want).abs() <= 2.4e-7 * want.abs(), "ln({x}) = {got}, expected {want}");
        }
    }

    #[test]
    fn ln_keeps_the_limits() {
        assert_eq!(ln(0.0), f32::NEG_INFINITY);
        assert_eq!(ln(f32::INFINITY), f32::INFINITY);
        assert_eq!(ln(1.0), 0.0);
        assert!(ln(-1.0).is_nan() && ln(f32::NEG_INFINITY).is_nan() && ln(f32::NAN).is_nan());
    }

    #[test]
    fn inverse_normal_equals_its_reference() {
        let tails = (-33..-1).flat_map(|e| (0..64).map(move |i| 2.0_f32.powi(e) * (1.0 + i as f32 / 64.0)));
        let upper = (1..4096).map(|i| 0.5 + i as f32 / 8192.0);
        for p in tails.chain(upper) {
            let (got, want) = (f64::from(inverse_normal(p)), reference::inverse_normal(f64::from(p)));
            assert!(
                (got - want).abs() <= 2e-6 * want.abs(),
                "inverse_normal({p:e}) = {got}, expected {want}"
            );
        }
        assert_eq!(inverse_normal(0.5), 0.0);
        assert!(inverse_normal(f32::NAN).is_nan());
        assert!(inverse_normal(0.0) < -6.3 && inverse_normal(0.0) > -6.6);
        assert_eq!(inverse_normal(1.0), -inverse_normal(0.0));
    }
}
