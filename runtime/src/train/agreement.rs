//! What all ranks agree on between two steps: whether to stop and why, and whether a checkpoint is due. One round of
//! the control plane, in which the largest word of all ranks counts.

use std::fmt;

use tisserand_collectives::control::{Combine, ControlPlane};
use tisserand_collectives::{Channel, Failure};

use super::pace::Slowest;
use crate::run::StopReason;

/// Why a run stops before its last step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StopCause {
    /// The limit of the run file is near.
    MaxMinutes,
    /// The limit that Slurm sets the job is near.
    JobLimit,
    /// A signal.
    Signal(StopReason),
    /// The file `stop` in the run folder.
    File,
}

impl StopCause {
    /// In ascending order of what counts when ranks bring different ones.
    const ALL: [StopCause; 7] = [
        StopCause::MaxMinutes,
        StopCause::JobLimit,
        StopCause::Signal(StopReason::Terminate),
        StopCause::Signal(StopReason::User1),
        StopCause::Signal(StopReason::User2),
        StopCause::Signal(StopReason::Interrupt),
        StopCause::File,
    ];
}

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopCause::MaxMinutes => f.write_str("run.max_minutes is nearly over"),
            StopCause::JobLimit => f.write_str("Slurm's time limit is near"),
            StopCause::Signal(reason) => f.write_str(reason.signal_name()),
            StopCause::File => f.write_str("the file stop in the run folder"),
        }
    }
}

/// What a rank brings, and what all have agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Agreement {
    /// Why to stop; `None` to go on.
    pub(super) stop: Option<StopCause>,
    /// Whether to save.
    pub(super) save: bool,
    /// Which rank takes longest for its own work.
    pub(super) slowest: Slowest,
}

impl Agreement {
    /// What all ranks do, from what each brings.
    ///
    /// # Errors
    /// A failure on any rank.
    pub(super) fn reach(self, control: &dyn ControlPlane) -> Result<Agreement, Failure> {
        let agreed = control.reduce(Channel::Step, Combine::Max, &self.words())?;
        Ok(Agreement::of([agreed[0], agreed[1], agreed[2]]))
    }

    fn words(self) -> [u64; 3] {
        let place = |cause| StopCause::ALL.iter().position(|other| *other == cause);
        let stop = self.stop.and_then(place).map_or(0, |place| place as u64 + 1);
        [stop, u64::from(self.save), self.slowest.word()]
    }

    fn of([stop, save, slowest]: [u64; 3]) -> Agreement {
        let place = stop.checked_sub(1).map(|place| place as usize);
        let stop = place.and_then(|place| StopCause::ALL.get(place).copied());
        Agreement { stop, save: save > 0, slowest: Slowest::of(slowest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_was_meant() {
        for stop in StopCause::ALL.into_iter().map(Some).chain([None]) {
            for save in [false, true] {
                let meant = Agreement { stop, save, slowest: Slowest::of(77) };
                assert_eq!(Agreement::of(meant.words()), meant);
            }
        }
    }
}
