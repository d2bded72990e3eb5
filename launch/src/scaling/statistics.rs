//! Medians and spread of repeated measurements.

use serde::{Deserialize, Serialize};

/// What a series of measurements says, in the unit of its values.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Number of values.
    pub count: usize,
    /// Smallest.
    pub min: f64,
    /// First quartile.
    pub q1: f64,
    /// Median.
    pub median: f64,
    /// Third quartile.
    pub q3: f64,
    /// Largest.
    pub max: f64,
    /// Arithmetic mean.
    pub mean: f64,
}

impl Summary {
    /// Of these values; `None` without any.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let [q1, median, q3] = [0.25, 0.5, 0.75].map(|share| quantile(&sorted, share));
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Some(Summary { count: sorted.len(), min, q1, median, q3, max, mean })
    }
}

/// The value below which `share` of the sorted values lie: linear between neighbours (type 7 of Hyndman and Fan,
/// "Sample quantiles in statistical packages", 1996: what NumPy and R compute).
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_neighbours() {
        let summary = Summary::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        let Summary { count, min, q1, median, q3, max, mean } = summary;
        assert_eq!((count, min, max, mean), (4, 1.0, 4.0, 2.5));
        assert_eq!((q1, median, q3), (1.75, 2.5, 3.25));
    }

    #[test]
    fn one_value_is_all_of_them_and_none_is_none() {
        let one = Summary::of([7.0]).unwrap();
        assert_eq!([one.min, one.q1, one.median, one.q3, one.max, one.mean], [7.0; 6]);
        assert_eq!(Summary::of([]), None);
    }
}
