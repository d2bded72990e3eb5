//! Axes: from values to places in a figure, and the ticks between.

/// An axis.
#[derive(Clone, PartialEq, Debug)]
pub struct Axis {
    /// What it shows, with the unit.
    pub label: String,
    /// Values with what is written at them.
    pub ticks: Vec<(f64, String)>,
    low: f64,
    high: f64,
    is_log: bool,
}

impl Axis {
    /// From 0 to at least `largest`, with some five ticks at round values.
    pub fn linear(label: &str, largest: f64, written: impl Fn(f64) -> String) -> Axis {
        Axis::between(label, 0.0, if largest > 0.0 { largest } else { f64::NAN }, written)
    }

    /// From at most `least` to at least `most`, with some five ticks at round values.
    pub fn between(label: &str, least: f64, most: f64, written: impl Fn(f64) -> String) -> Axis {
        let least = if least.is_finite() { least } else { 0.0 };
        let (least, most) = match most {
            most if most.is_finite() && most > least => (least, most),
            most if most == least && least != 0.0 => (least - 0.1 * least.abs(), least + 0.1 * least.abs()),
            _ => (least, least + 1.0),
        };
        let step = round_step((most - least) / 5.0);
        let [first, last] = [(least / step + 1e-9).floor(), (most / step - 1e-9).ceil()];
        let ticks =
            (first as i64..=last as i64).map(|i| i as f64 * step).map(|value| (value, written(value)));
        let (low, high) = (first * step, last * step);
        Axis { label: label.to_owned(), ticks: ticks.collect(), low, high, is_log: false }
    }

    /// Logarithmic, with ticks at these positive values, ascending.
    pub fn log(label: &str, values: &[f64], written: impl Fn(f64) -> String) -> Axis {
        let ticks = values.iter().map(|value| (*value, written(*value))).collect();
        let low = values.first().copied().unwrap_or(1.0);
        let high = values.last().copied().unwrap_or(low);
        // A single value stands in the middle.
        let (low, high) = if low == high { (low / 2.0, high * 2.0) } else { (low, high) };
        Axis { label: label.to_owned(), ticks, low, high, is_log: true }
    }

    /// Logarithmic, from at most `least` to at least `most`, both positive, with ticks at 1, 2 and 5 times powers of
    /// ten.
    pub fn decades(label: &str, least: f64, most: f64, written: impl Fn(f64) -> String) -> Axis {
        let round = |power: i32| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power));
        let [first, last] = [least, most].map(|value| value.log10().floor() as i32);
        let all: Vec<f64> = (first..=last + 1).flat_map(round).collect();
        let begin = all.iter().rposition(|value| *value <= least * (1.0 + 1e-9)).unwrap_or(0);
        let end = all.iter().position(|value| *value >= most * (1.0 - 1e-9)).unwrap_or(all.len() - 1);
        Axis::log(label, &all[begin..=end.max(begin)], written)
    }

    /// Where a value lies: 0 at the lowest, 1 at the highest.
    pub fn place(&self, value: f64) -> f64 {
        match self.is_log {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        }
    }
}

/// The next of 1, 2, 2.5, 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    steps.iter().map(|step| step * power).find(|step| *step >= least * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_largest_value() {
        let ticks = |largest: f64| -> Vec<f64> {
            Axis::linear("", largest, |value| value.to_string()).ticks.iter().map(|tick| tick.0).collect()
        };
        assert_eq!(ticks(1.0), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(1234.0), [0.0, 250.0, 500.0, 750.0, 1000.0, 1250.0]);
        assert_eq!(ticks(0.0), ticks(f64::NAN));
        assert_eq!(ticks(7.0), [0.0, 2.0, 4.0, 6.0, 8.0]);
    }

    #[test]
    fn an_axis_between_two_values_has_both_and_a_single_value_in_its_middle() {
        let axis = Axis::between("", -0.3, 0.4, |value| value.to_string());
        assert_eq!((axis.low, axis.high), (-0.4, 0.4));
        assert!((axis.place(0.0) - 0.5).abs() < 1e-12);
        let axis = Axis::between("", 3.0, 3.0, |value| value.to_string());
        assert!((axis.place(3.0) - 0.5).abs() < 0.1, "{axis:?}");
        assert_eq!(Axis::between("", 0.0, 0.0, |value| value.to_string()).high, 1.0);
    }

    #[test]
    fn decades_enclose_their_values() {
        let ticks = |least: f64, most: f64| -> Vec<f64> {
            Axis::decades("", least, most, |value| value.to_string())
                .ticks
                .iter()
                .map(|tick| tick.0)
                .collect()
        };
        assert_eq!(ticks(900.0, 4100.0), [500.0, 1000.0, 2000.0, 5000.0]);
        assert_eq!(ticks(10.0, 10.0), [10.0]);
        assert_eq!(ticks(1.0, 20.0), [1.0, 2.0, 5.0, 10.0, 20.0]);
    }

    #[test]
    fn places_run_from_nought_to_one() {
        let log = Axis::log("", &[1.0, 2.0, 4.0], |value| value.to_string());
        assert_eq!([1.0, 2.0, 4.0].map(|value| log.place(value)), [0.0, 0.5, 1.0]);
        assert_eq!(Axis::log("", &[8.0], |value| value.to_string()).place(8.0), 0.5);
        assert_eq!(Axis::linear("", 10.0, |value| value.to_string()).place(5.0), 0.5);
    }
}
