//! When a run must stop before its time limit.

use std::time::Instant;

/// The job's time limit, from `run.max_minutes` or Slurm.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimit {
    max_s: Option<f64>,
    started: Instant,
}

impl TimeLimit {
    /// `max_minutes` after `started`; `None` for no limit.
    pub fn new(max_minutes: Option<f64>, started: Instant) -> Self {
        TimeLimit { max_s: max_minutes.map(|minutes| 60.0 * minutes), started }
    }

    /// Whether the step about to start might not leave the time for a checkpoint: the longest step so far and
    /// twice the longest save must fit, since the speed of a shared file system varies. Seconds.
    pub fn must_stop(&self, longest_step_s: f64, save_s: f64) -> bool {
        self.must_stop_after(self.started.elapsed().as_secs_f64(), longest_step_s, save_s)
    }

    /// Seconds left; `None` without a limit, negative past it.
    pub fn remaining_s(&self) -> Option<f64> {
        self.max_s.map(|max_s| max_s - self.started.elapsed().as_secs_f64())
    }

    fn must_stop_after(&self, elapsed_s: f64, longest_step_s: f64, save_s: f64) -> bool {
        let needed_s = elapsed_s + longest_step_s + 2.0 * save_s;
        // A NaN anywhere means stop: a checkpoint too early costs less than none.
        self.max_s.is_some_and(|max_s| needed_s.partial_cmp(&max_s).is_none_or(|order| order.is_ge()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_and_two_saves_must_fit_before_the_limit() {
        let limit = TimeLimit::new(Some(1.0), Instant::now());
        assert!(!limit.must_stop_after(0.0, 10.0, 5.0));
        assert!(!limit.must_stop_after(39.9, 10.0, 5.0));
        assert!(limit.must_stop_after(40.0, 10.0, 5.0));
        assert!(limit.must_stop_after(0.0, f64::NAN, 5.0));
        assert!(!limit.must_stop(0.0, 0.0));
    }

    #[test]
    fn without_a_limit_nothing_stops() {
        let limit = TimeLimit::new(None, Instant::now());
        assert!(!limit.must_stop_after(1e12, 1e12, f64::NAN));
        assert_eq!(limit.remaining_s(), None);
    }
}
