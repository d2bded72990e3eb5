//! Numbers for people: counts, bytes, durations, rates. Machines read `metrics.jsonl` instead.

/// A count with a decimal suffix: `999`, `12.3k`, `4.56M`, `1.23B`, `1.00T` (B: 10⁹, as is usual for tokens and
/// parameters).
pub fn count(value: u64) -> String {
    if value < 1000 { value.to_string() } else { scaled(value as f64) }
}

/// Something per second, without the unit: `0.25`, `12.5`, `999`, `2.0k`, `1.20M`.
pub fn rate(value: f64) -> String {
    if value < 999.5 || !value.is_finite() { three_digits(value) } else { scaled(value) }
}

/// Bytes with a binary suffix and three digits: `512 B`, `1.50 KiB`, `512 MiB`, `23.4 GiB`.
pub fn bytes(value: u64) -> String {
    if value < 1024 {
        return format!("{value} B");
    }
    let mut value = value as f64 / 1024.0;
    let mut suffixes = ["KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut suffix = suffixes.next().unwrap_or_default();
    for next in suffixes {
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        suffix = next;
    }
    format!("{} {suffix}", three_digits(value))
}

/// A length of time in two units: `12ms`, `8.5s`, `42s`, `3m12s`, `2h05m`, `3d04h`; `-` if it is not a number.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "-".to_owned();
    }
    let seconds = seconds.max(0.0);
    if seconds == 0.0 {
        return "0s".to_owned();
    }
    if seconds < 0.9995 {
        return format!("{:.0}ms", (1e3 * seconds).max(1.0));
    }
    if seconds < 9.95 && seconds.fract() != 0.0 {
        return format!("{seconds:.1}s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole / 3600 % 24),
    }
}

/// The length of one repeated thing with three digits: `1.02 s`, `48.1 ms`, `350 µs`.
pub fn period(seconds: f64) -> String {
    if seconds >= 0.9995 || !seconds.is_finite() {
        format!("{} s", three_digits(seconds))
    } else if seconds >= 0.9995e-3 {
        format!("{} ms", three_digits(1e3 * seconds))
    } else {
        format!("{} µs", three_digits(1e6 * seconds))
    }
}

/// Arithmetic speed, given in 10⁹ operations per second: `151 GFLOP/s`, `989 TFLOP/s`, `1.20 EFLOP/s`.
pub fn flop_rate(gflop_per_s: f64) -> String {
    let mut value = gflop_per_s;
    let mut prefix = 'G';
    for next in ['T', 'P', 'E'] {
        if value < 999.5 || !value.is_finite() {
            break;
        }
        value /= 1e3;
        prefix = next;
    }
    format!("{} {prefix}FLOP/s", three_digits(value))
}

/// A positive number with about three digits: `0.81`, `12.3`, `151`; outside [0.01, 10⁶) as `1.23e-5`.
pub fn three_digits(value: f64) -> String {
    let size = value.abs();
    if !size.is_finite() {
        format!("{value}")
    } else if size != 0.0 && !(0.01..1e6).contains(&size) {
        format!("{value:.2e}")
    } else if size < 9.995 {
        format!("{value:.2}")
    } else if size < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// One decimal for thousands, two above.
fn scaled(value: f64) -> String {
    if value < 999_950.0 {
        format!("{:.1}k", value / 1e3)
    } else if value < 999_995e3 {
        format!("{:.2}M", value / 1e6)
    } else if value < 999_995e6 {
        format!("{:.2}B", value / 1e9)
    } else {
        format!("{:.2}T", value / 1e12)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each<T: Copy>(format: impl Fn(T) -> String, cases: &[(T, &str)]) {
        for &(value, text) in cases {
            assert_eq!(format(value), text);
        }
    }

    #[test]
    fn counts() {
        each(
            count,
            &[
                (0, "0"),
                (999, "999"),
                (1000, "1.0k"),
                (12_345, "12.3k"),
                (245_760, "245.8k"),
                (999_949, "999.9k"),
                (999_950, "1.00M"),
                (4_560_000, "4.56M"),
                (999_995_000, "1.00B"),
                (1_000_000_000_000, "1.00T"),
            ],
        );
    }

    #[test]
    fn rates() {
        each(rate, &[(0.25, "0.25"), (12.5, "12.5"), (999.4, "999"), (999.6, "1.0k"), (2007.0, "2.0k")]);
        each(flop_rate, &[(0.5, "0.50 GFLOP/s"), (151.2, "151 GFLOP/s"), (989e3, "989 TFLOP/s")]);
        each(flop_rate, &[(999.6, "1.00 TFLOP/s"), (1.2e9, "1.20 EFLOP/s"), (f64::NAN, "NaN GFLOP/s")]);
    }

    #[test]
    fn sizes() {
        each(
            bytes,
            &[
                (0, "0 B"),
                (1023, "1023 B"),
                (1536, "1.50 KiB"),
                (512 << 20, "512 MiB"),
                ((1 << 30) - 1, "1.00 GiB"),
                (5 << 50, "5120 TiB"),
            ],
        );
    }

    #[test]
    fn durations() {
        each(
            duration,
            &[
                (0.0, "0s"),
                (0.012, "12ms"),
                (3.0, "3s"),
                (8.54, "8.5s"),
                (59.4, "59s"),
                (59.6, "1m00s"),
                (192.0, "3m12s"),
                (7500.0, "2h05m"),
                (273_600.0, "3d04h"),
                (f64::INFINITY, "-"),
                (-4.0, "0s"),
            ],
        );
        each(period, &[(1.024, "1.02 s"), (0.0481, "48.1 ms"), (0.00035, "350 µs"), (12.34, "12.3 s")]);
    }
}
