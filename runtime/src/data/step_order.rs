//! Which samples a step consumes.

use std::ops::Range;

use super::dataset::Dataset;
use crate::{Error, Result};

/// The order of the data of a run: step s consumes `global_batch` consecutive samples.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepOrder {
    global_batch: u64,
    skip: Vec<[u64; 2]>,
}

impl StepOrder {
    /// An order of `global_batch` samples per step that passes over the data of `skip`, inclusive ranges of
    /// steps counted from 0.
    ///
    /// A range is given in the steps of the run as it stood before the range was added: `[10, 12]` makes
    /// step 10 train on what was the data of step 13. Ranges apply in the order of the list, so a second
    /// range names steps as seen in the log of the run that already had the first.
    ///
    /// # Errors
    /// An empty batch or a range that ends before it begins.
    pub fn new(global_batch: usize, skip: &[[u64; 2]]) -> Result<Self> {
        if global_batch == 0 {
            return Err(Error::input("training.global_batch = 0; it is at least 1"));
        }
        if let Some([first, last]) = skip.iter().find(|[first, last]| first > last || *last == u64::MAX) {
            return Err(Error::input(format!("data.skip: [{first}, {last}] is not a range of steps")));
        }
        Ok(StepOrder { global_batch: global_batch as u64, skip: skip.to_vec() })
    }

    /// Samples per step.
    pub fn global_batch(&self) -> usize {
        self.global_batch as usize
    }

    /// The step whose data `step` trains on, had nothing been skipped.
    pub fn data_step(&self, step: u64) -> u64 {
        // The last range was added last: it speaks of the run that the earlier ranges make.
        self.skip.iter().rev().fold(step, |step, [first, last]| {
            if step < *first { step } else { step.saturating_add(last - first + 1) }
        })
    }

    /// The samples of the run that `step` consumes.
    pub fn samples(&self, step: u64) -> Range<u64> {
        let first = self.data_step(step).saturating_mul(self.global_batch);
        first..first.saturating_add(self.global_batch)
    }

    /// How many samples a run of `steps` steps passes, skipped ones included.
    pub fn samples_of_run(&self, steps: u64) -> u64 {
        steps.checked_sub(1).map_or(0, |last| self.samples(last).end)
    }
}

/// A hash of which samples the steps consume, as 64 hexadecimal digits: equal hashes, equal order.
/// BLAKE3 over (source, epoch, sample), each u64 little endian.
pub fn order_hash(dataset: &Dataset, order: &StepOrder, steps: Range<u64>) -> String {
    let mut hasher = blake3::Hasher::new();
    for index in steps.flat_map(|step| order.samples(step)) {
        let id = dataset.sample(index);
        for word in [id.source as u64, id.epoch, id.sample] {
            hasher.update(&word.to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_steps_are_passed_over() {
        let order = StepOrder::new(4, &[[10, 12]]).unwrap();
        assert_eq!(order.data_step(9), 9);
        assert_eq!(order.data_step(10), 13);
        assert_eq!(order.samples(10), 52..56);
        assert_eq!(order.samples_of_run(0), 0);
        assert_eq!(order.samples_of_run(11), 56);
    }

    #[test]
    fn a_second_range_speaks_of_the_run_with_the_first() {
        let first = StepOrder::new(1, &[[10, 12]]).unwrap();
        let both = StepOrder::new(1, &[[10, 12], [20, 21]]).unwrap();
        let steps: Vec<u64> = (0..30).map(|step| both.data_step(step)).collect();
        let expected: Vec<u64> =
            (0..32).filter(|step| !(20..=21).contains(step)).map(|step| first.data_step(step)).collect();
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_range_inside_an_earlier_one_skips_further() {
        let order = StepOrder::new(1, &[[10, 12], [10, 10]]).unwrap();
        assert_eq!(order.data_step(10), 14);
    }

    #[test]
    fn bad_ranges_are_refused() {
        assert!(StepOrder::new(1, &[[3, 2]]).is_err());
        assert!(StepOrder::new(0, &[]).is_err());
    }
}
