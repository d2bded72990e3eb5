//! Who asked the run to stop: signals, noted by their handler in a [`StopFlag`] which the trainer reads between
//! steps. The time limit is [`super::time_limit`], the files that ask for the same are [`super::triggers`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Why a signal asked the run to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum StopReason {
    /// SIGTERM: the job is cancelled, preempted or out of time.
    Terminate = 1,
    /// SIGUSR1: Slurm's warning ahead of the limit (`--signal=USR1@300`).
    User1 = 2,
    /// SIGUSR2: the same, on machines whose scripts use that one.
    User2 = 3,
    /// SIGINT: control-C.
    Interrupt = 4,
}

impl StopReason {
    /// Every reason.
    pub const ALL: [StopReason; 4] =
        [StopReason::Terminate, StopReason::User1, StopReason::User2, StopReason::Interrupt];

    /// The name of the signal.
    pub fn signal_name(self) -> &'static str {
        match self {
            StopReason::Terminate => "SIGTERM",
            StopReason::User1 => "SIGUSR1",
            StopReason::User2 => "SIGUSR2",
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
        let set = self.0.load(Ordering::Relaxed);
        StopReason::ALL.into_iter().find(|reason| *reason as u8 == set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays_and_clones_share_it() {
        let flag = StopFlag::new();
        assert_eq!(flag.requested(), None);
        flag.clone().request(StopReason::User1);
        flag.request(StopReason::Terminate);
        assert_eq!(flag.requested(), Some(StopReason::User1));
        for reason in StopReason::ALL {
            let flag = StopFlag::new();
            flag.request(reason);
            assert_eq!(flag.requested(), Some(reason));
        }
    }
}
