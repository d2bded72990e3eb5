//! When a run must stop before a time limit: `run.max_minutes`, or the end of the job, of which Slurm is asked while
//! the run goes on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A point in time, also one that is over or further away than an [`Instant`] reaches.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Deadline {
    from: Instant,
    after_s: f64,
}

impl Deadline {
    /// So many seconds after `from`.
    pub fn new(from: Instant, after_s: f64) -> Self {
        Deadline { from, after_s }
    }

    /// Seconds left; negative past it.
    pub fn remaining_s(&self) -> f64 {
        self.after_s - self.from.elapsed().as_secs_f64()
    }
}

/// When the job ends, as far as anybody knows. Clones share it: who asks Slurm tells, rank 0 reads.
#[derive(Clone, Debug, Default)]
pub struct JobEnd(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    end: Option<Deadline>,
    notices: Vec<String>,
}

impl JobEnd {
    /// The job ends then; `None`: there is no limit, or none is known. `notice` is a line for the log.
    pub fn tell(&self, end: Option<Deadline>, notice: String) {
        let mut told = self.told();
        told.end = end;
        told.notices.push(notice);
    }

    /// When it ends.
    pub fn end(&self) -> Option<Deadline> {
        self.told().end
    }

    /// Lines for the log since the last call.
    pub fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut self.told().notices)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// `run.max_minutes`.
    MaxMinutes,
    /// The job's.
    Job,
}

/// The limits of a start.
#[derive(Clone, Debug)]
pub struct TimeLimit {
    max: Option<Deadline>,
    job: JobEnd,
    lead_s: Option<f64>,
}

impl TimeLimit {
    /// `max_minutes` after `started`, `None` for no such limit; and the end of the job. `lead_s`: seconds that a stop
    /// leaves for the save (`run.stop_before_limit_s`); `None`: twice what the slowest save takes.
    pub fn new(max_minutes: Option<f64>, started: Instant, job: JobEnd, lead_s: Option<f64>) -> Self {
        let max = max_minutes.map(|minutes| Deadline::new(started, 60.0 * minutes));
        TimeLimit { max, job, lead_s }
    }

    /// Seconds that must be left when a step begins: for itself, and for the save after it. Twice the slowest save,
    /// since the speed of a shared file system varies.
    pub fn needed_s(&self, longest_step_s: f64, save_s: f64) -> f64 {
        longest_step_s + self.lead_s.unwrap_or(2.0 * save_s)
    }

    /// The limit before which the step about to start might not leave the time for a checkpoint.
    pub fn must_stop(&self, longest_step_s: f64, save_s: f64) -> Option<Limit> {
        let needed_s = self.needed_s(longest_step_s, save_s);
        // A NaN anywhere means stop: a checkpoint too early costs less than none.
        let is_near =
            |end: Deadline| needed_s.partial_cmp(&end.remaining_s()).is_none_or(|order| order.is_ge());
        let limits = [(Limit::MaxMinutes, self.max), (Limit::Job, self.job.end())];
        limits.into_iter().find(|(_, end)| end.is_some_and(is_near)).map(|(limit, _)| limit)
    }

    /// Seconds left before the first limit; `None` without one.
    pub fn remaining_s(&self) -> Option<f64> {
        let left = [self.max, self.job.end()].into_iter().flatten().map(|end| end.remaining_s());
        left.reduce(f64::min)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A limit of a minute, of which so many seconds are over.
    fn minute(elapsed_s: f64, lead_s: Option<f64>) -> TimeLimit {
        let started = Instant::now().checked_sub(Duration::from_secs_f64(elapsed_s)).unwrap();
        TimeLimit::new(Some(1.0), started, JobEnd::default(), lead_s)
    }

    #[test]
    fn a_step_and_two_saves_must_fit_before_the_limit() {
        assert_eq!(minute(0.0, None).must_stop(10.0, 5.0), None);
        assert_eq!(minute(38.0, None).must_stop(10.0, 5.0), None);
        assert_eq!(minute(40.0, None).must_stop(10.0, 5.0), Some(Limit::MaxMinutes));
        assert_eq!(minute(0.0, None).must_stop(f64::NAN, 5.0), Some(Limit::MaxMinutes));
    }

    #[test]
    fn a_lead_that_is_given_counts_instead_of_what_was_measured() {
        assert_eq!(minute(38.0, Some(1.0)).must_stop(10.0, 500.0), None);
        assert_eq!(minute(20.0, Some(30.0)).must_stop(10.0, 0.0), Some(Limit::MaxMinutes));
    }

    #[test]
    fn without_a_limit_nothing_stops() {
        let limit = TimeLimit::new(None, Instant::now(), JobEnd::default(), None);
        assert_eq!(limit.must_stop(1e12, f64::NAN), None);
        assert_eq!(limit.remaining_s(), None);
    }

    #[test]
    fn the_end_of_the_job_may_become_known_move_and_go_away() {
        let job = JobEnd::default();
        let limit = TimeLimit::new(None, Instant::now(), job.clone(), None);
        job.tell(Some(Deadline::new(Instant::now(), 20.0)), "ends soon".to_owned());
        assert_eq!(limit.must_stop(10.0, 6.0), Some(Limit::Job));
        assert!(limit.remaining_s().is_some_and(|left| left > 10.0 && left <= 20.0));
        job.tell(Some(Deadline::new(Instant::now(), 1e9)), "ends later".to_owned());
        assert_eq!(limit.must_stop(10.0, 6.0), None);
        job.tell(None, "never ends".to_owned());
        assert_eq!(limit.must_stop(1e12, 6.0), None);
        assert_eq!(job.take_notices(), ["ends soon", "ends later", "never ends"]);
        assert!(job.take_notices().is_empty());
    }
}
