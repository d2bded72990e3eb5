//! When a run must stop early: before its time limit, or because a signal asked for it. No signal is handled
//! here: the handler sets a [`StopFlag`], the trainer reads it between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
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

/// Why a signal asked the run to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum StopReason {
    /// SIGTERM: the job is cancelled, preempted or out of time.
    Terminate = 1,
    /// SIGUSR1: Slurm's warning ahead of the limit (`--signal=B:USR1@300`).
    User1 = 2,
    /// SIGINT: control-C.
    Interrupt = 3,
}

impl StopReason {
    /// Every reason.
    pub const ALL: [StopReason; 3] = [StopReason::Terminate, StopReason::User1, StopReason::Interrupt];

    /// The name of the signal.
    pub fn signal_name(self) -> &'static str {
        match self {
            StopReason::Terminate => "SIGTERM",
            StopReason::User1 => "SIGUSR1",
            StopReason::Interrupt => "SIGINT",
        }
    }
}

/// Set once by a signal handler, read by the trainer; clones share it. Setting it is one atomic
/// operation, so a handler may do it.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicU8>);

impl StopFlag {
    /// Not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the run to stop at the next step boundary. The first reason stays.
    pub fn request(&self, reason: StopReason) {
        // Failure means that a reason is set already, which is what is wanted.
        let _ = self.0.compare_exchange(0, reason as u8, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Why to stop; `None` to go on.
    pub fn requested(&self) -> Option<StopReason> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(StopReason::Terminate),
            2 => Some(StopReason::User1),
            _ => Some(StopReason::Interrupt),
        }
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

    #[test]
    fn the_first_reason_stays_and_clones_share_it() {
        let flag = StopFlag::new();
        assert_eq!(flag.requested(), None);
        flag.clone().request(StopReason::User1);
        flag.request(StopReason::Terminate);
        assert_eq!(flag.requested(), Some(StopReason::User1));
        for reason in [StopReason::Terminate, StopReason::User1, StopReason::Interrupt] {
            let flag = StopFlag::new();
            flag.request(reason);
            assert_eq!(flag.requested(), Some(reason));
        }
    }
}
