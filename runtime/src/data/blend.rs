//! Which source the i-th sample of a run comes from: a table of one period, repeated for ever.
//!
//! The table is Tijdeman's solution of the chairman assignment problem (R. Tijdeman, Discrete Mathematics
//! 32, 1980): after any number n of samples, each of k sources has given n · share samples up to less than
//! 1 − 1/(2k − 2). No state: source and index within the source are functions of i alone.

use crate::{Error, Result};

/// Longest period. Weights that are not multiples of 1/period for a shorter one are rounded to this grid.
const MAX_PERIOD: usize = 65_536;

/// The mixture of the sources of a run.
#[derive(Clone, Debug)]
pub struct Blend {
    /// Samples of each source in one period.
    counts: Vec<u64>,
    /// One period.
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    source: u32,
    /// How many samples the source gave earlier in the period.
    rank: u32,
}

impl Blend {
    /// The blend of sources with these weights (any positive scale).
    ///
    /// Shares are exact when the weights are multiples of 1/P of their sum for some P ≤ 65,536 (0.6 and
    /// 0.4, or 3 and 1); otherwise they are off by less than 1/65,536. No source is rounded to nothing.
    ///
    /// # Errors
    /// No weight, more than 65,536, or one that is not a positive number.
    pub fn new(weights: &[f64]) -> Result<Self> {
        if weights.is_empty() || weights.len() > MAX_PERIOD {
            let n = weights.len();
            return Err(Error::input(format!(
                "data.sources has {n} entries; 1 to {MAX_PERIOD} are possible"
            )));
        }
        for (i, weight) in weights.iter().enumerate() {
            if !(weight.is_finite() && *weight > 0.0) {
                return Err(Error::input(format!(
                    "data.sources[{i}].weight = {weight} is not a positive number; hint: leave the source out"
                )));
            }
        }
        // Divided by the largest first, so that the sum cannot overflow.
        let largest = weights.iter().copied().fold(0.0, f64::max);
        let sum: f64 = weights.iter().map(|w| w / largest).sum();
        let shares: Vec<f64> = weights.iter().map(|w| w / largest / sum).collect();
        let counts = (1..=MAX_PERIOD)
            .find_map(|period| exact_counts(&shares, period))
            .unwrap_or_else(|| rounded_counts(&shares, MAX_PERIOD));
        let slots = assign(&counts);
        Ok(Blend { counts, slots })
    }

    /// The source of sample `index` of the run, and the index of that sample among those of its source.
    pub fn locate(&self, index: u64) -> (usize, u64) {
        let period = self.slots.len() as u64;
        let slot = self.slots[(index % period) as usize];
        let source = slot.source as usize;
        (source, index / period * self.counts[source] + u64::from(slot.rank))
    }

    /// How many of the first `samples` samples of the run come from `source`.
    pub fn count(&self, source: usize, samples: u64) -> u64 {
        let period = self.slots.len() as u64;
        let rest = &self.slots[..(samples % period) as usize];
        let in_rest = rest.iter().filter(|slot| slot.source as usize == source).count() as u64;
        samples / period * self.counts[source] + in_rest
    }

    /// The share of `source` that the table realises.
    pub fn share(&self, source: usize) -> f64 {
        self.counts[source] as f64 / self.slots.len() as f64
    }
}

/// The counts of a period that gives exactly these shares, if there are any.
fn exact_counts(shares: &[f64], period: usize) -> Option<Vec<u64>> {
    let mut counts = Vec::new();
    for share in shares {
        let ideal = share * period as f64;
        if (ideal - ideal.round()).abs() > 1e-9 || ideal < 0.5 {
            return None;
        }
        counts.push(ideal.round() as u64);
    }
    (counts.iter().sum::<u64>() == period as u64).then_some(counts)
}

/// Largest remainders, each count at least one.
fn rounded_counts(shares: &[f64], period: usize) -> Vec<u64> {
    let ideal: Vec<f64> = shares.iter().map(|share| share * period as f64).collect();
    let mut counts: Vec<u64> = ideal.iter().map(|x| (x.floor() as u64).max(1)).collect();
    let missing = |counts: &[u64]| period as i64 - counts.iter().sum::<u64>() as i64;
    while missing(&counts) != 0 {
        let step = missing(&counts).signum();
        let lack = |i: usize| step as f64 * (ideal[i] - counts[i] as f64);
        let candidates = (0..counts.len()).filter(|&i| step > 0 || counts[i] > 1);
        let Some(best) = candidates.max_by(|&a, &b| lack(a).total_cmp(&lack(b)).then(b.cmp(&a))) else {
            break;
        };
        counts[best] = counts[best].saturating_add_signed(step);
    }
    counts
}

/// One period in which source s appears `counts[s]` times, as evenly as can be.
fn assign(counts: &[u64]) -> Vec<Slot> {
    let period: u64 = counts.iter().sum();
    let fine = (2 * counts.len() as u64).saturating_sub(2).max(1);
    let mut given = vec![0u64; counts.len()];
    let mut slots = Vec::with_capacity(period as usize);
    for n in 1..=period {
        // Among the sources that lag by at least 1/(2k − 2) after this slot, the one whose deadline comes
        // first. The deadline of the next sample is ((given + 1)(2k − 2) − 1) · period / count / (2k − 2).
        let lags = |s: usize| counts[s] * n * fine >= given[s] * period * fine + period;
        let earlier = |&a: &usize, &b: &usize| {
            let (due_a, due_b) = ((given[a] + 1) * fine - 1, (given[b] + 1) * fine - 1);
            (due_a * counts[b]).cmp(&(due_b * counts[a]))
        };
        let source = (0..counts.len()).filter(|&s| lags(s)).min_by(earlier).unwrap_or(0);
        slots.push(Slot { source: source as u32, rank: given[source] as u32 });
        given[source] += 1;
    }
    assert_eq!(given, counts, "a period of the blend has the wrong counts");
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(weights: &[f64], samples: u64) {
        let blend = Blend::new(weights).unwrap();
        let mut given = vec![0u64; weights.len()];
        for i in 0..samples {
            let (source, index) = blend.locate(i);
            assert_eq!(index, given[source], "index within the source at sample {i}");
            given[source] += 1;
            for (s, &count) in given.iter().enumerate() {
                let error = count as f64 - (i + 1) as f64 * blend.share(s);
                assert!(error.abs() < 1.0, "{weights:?}: source {s} is off by {error} after {}", i + 1);
            }
        }
        for (s, &count) in given.iter().enumerate() {
            assert_eq!(blend.count(s, samples), count);
        }
        let sum: f64 = weights.iter().sum();
        for (s, weight) in weights.iter().enumerate() {
            assert!((blend.share(s) - weight / sum).abs() <= 1.0 / MAX_PERIOD as f64, "share {s}");
        }
    }

    #[test]
    fn shares_hold_within_one_sample_at_every_moment() {
        check(&[1.0], 100);
        check(&[0.6, 0.4], 1000);
        check(&[3.0, 1.0], 1000);
        check(&[0.5, 0.3, 0.1, 0.05, 0.05], 5000);
        check(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 1000);
        check(&[std::f64::consts::PI, 1.0, std::f64::consts::E, 0.001], 140_000);
        check(&[0.618, 0.236, 0.146, 0.09, 0.0557, 0.0344, 0.02129], 70_000);
        check(&[1e300, 1e300], 10);
    }

    #[test]
    fn ordinary_weights_are_exact() {
        let blend = Blend::new(&[0.6, 0.4]).unwrap();
        assert_eq!(blend.count(0, 1_000_000_000_000), 600_000_000_000);
        assert_eq!(Blend::new(&[0.7, 0.2, 0.1]).unwrap().count(2, 10_000_000), 1_000_000);
    }

    #[test]
    fn a_tiny_weight_still_gives_samples() {
        let blend = Blend::new(&[1.0, 1e-12]).unwrap();
        assert_eq!(blend.count(1, MAX_PERIOD as u64), 1);
    }

    #[test]
    fn many_sources_fit() {
        let weights: Vec<f64> = (0..300).map(|i| 1.0 + (i as f64).sqrt()).collect();
        let blend = Blend::new(&weights).unwrap();
        let total: u64 = (0..300).map(|s| blend.count(s, 1_000_003)).sum();
        assert_eq!(total, 1_000_003);
    }

    #[test]
    fn bad_weights_are_named() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let message = Blend::new(&[1.0, bad]).unwrap_err().to_string();
            assert!(message.contains("data.sources[1].weight"), "{message}");
        }
        assert!(Blend::new(&[]).is_err());
    }
}
