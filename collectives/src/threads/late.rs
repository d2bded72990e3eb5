//! Who is to blame when a call ends at its deadline.

use std::sync::Weak;

use tisserand_kernels::Device;

use super::group::{Group, lock};
use crate::communicator::CommError;
use crate::control::Failure;

impl<D: Device> Group<D> {
    /// Ranks of the world that wait in this group for others, and for whom.
    fn waits(&self) -> (Vec<usize>, Vec<usize>) {
        let state = self.state();
        let Some(meeting) = state.meetings.iter().find(|meeting| !meeting.is_complete()) else {
            return (Vec::new(), Vec::new());
        };
        let absent = meeting.absent();
        let member = |rank: usize| self.members[rank];
        let waiting = (0..self.size()).filter(|rank| !absent.contains(rank)).map(member).collect::<Vec<_>>();
        // A meeting that nobody has come to has nobody waiting.
        if waiting.is_empty() {
            (Vec::new(), Vec::new())
        } else {
            (waiting, absent.into_iter().map(member).collect())
        }
    }

    /// Ranks of the world that others wait for, in whatever group, and that wait for nobody themselves. All ranks
    /// make the same calls in the same order, so once all that can go on has, the others are at least where the
    /// late one is, and none of its own calls waits.
    fn culprits(&self) -> Vec<usize> {
        let groups: Vec<_> = lock(&self.world.groups).iter().filter_map(Weak::upgrade).collect();
        let (mut waiting, mut awaited) = (Vec::new(), Vec::new());
        for group in groups {
            let (here, for_whom) = group.waits();
            waiting.extend(here);
            awaited.extend(for_whom);
        }
        awaited.retain(|rank| !waiting.contains(rank));
        awaited.sort_unstable();
        awaited.dedup();
        awaited
    }

    /// A call of the rank `waiting` ended at its deadline because of the ranks `late`, both of this group. They may
    /// be late because others are.
    pub(super) fn late_ranks(
        &self,
        waiting: usize,
        subject: &dyn std::fmt::Display,
        sequence: u64,
        late: Vec<usize>,
    ) -> CommError {
        let names = |ranks: &[usize]| ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let late: Vec<usize> = late.into_iter().map(|rank| self.members[rank]).collect();
        let mut cause = format!(
            "late: rank {} waited {:.0} s (run.collective_timeout_s) in {} #{sequence}, {subject}, for rank {}",
            self.members[waiting],
            self.world.timeout.as_secs_f64(),
            self.axis,
            names(&late),
        );
        let culprits = self.culprits();
        let first = culprits.iter().find(|rank| late.contains(rank)).or(culprits.first());
        if !culprits.is_empty() && !culprits.iter().any(|rank| late.contains(rank)) {
            cause += &format!(", which waits as well, in the end for rank {}", names(&culprits));
        }
        Failure::fault(first.or(late.first()).copied().unwrap_or(self.members[waiting]), cause).into()
    }
}
