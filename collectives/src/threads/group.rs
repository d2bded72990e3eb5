//! Where the ranks of one axis meet, call by call.
//!
//! A call has one *meeting*. There, ranks leave what the others need of their blocks (parts to be worked on, or a
//! part to be read), wait until all have come, and take it. A part changes hands as an owned
//! block, or is lent as a shared one; so two ranks never write the same elements. With it goes the event behind which
//! it may be touched: the host of a rank never waits for a device.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tisserand_kernels::{Block, Device};

use super::mailbox::Mailbox;
use super::meeting::{Lent, Meeting, Parts, Visit};
use crate::communicator::CommError;

/// What all groups of one program share.
pub(super) struct World<D: Device> {
    pub(super) timeout: Duration,
    pub(super) groups: Mutex<Vec<Weak<Group<D>>>>,
    error: Mutex<Option<CommError>>,
}

impl<D: Device> World<D> {
    pub(super) fn new(timeout: Duration) -> Arc<Self> {
        Arc::new(World { timeout, groups: Mutex::default(), error: Mutex::default() })
    }

    /// Ends every call, under way or to come. The first error is the one that counts.
    pub(super) fn abort(&self, error: CommError) {
        let error = lock(&self.error).get_or_insert(error).clone();
        let groups: Vec<_> = lock(&self.groups).iter().filter_map(Weak::upgrade).collect();
        for group in groups {
            group.end(error.clone());
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a rank gets of others.
pub(super) struct Traded<D: Device> {
    /// By rank.
    pub(super) lent: Lent<D>,
    /// By rank.
    pub(super) handed: Parts<D>,
    /// Behind all of them, this rank may touch what it got.
    pub(super) ready: Vec<D::Event>,
}

/// What a rank gets back.
pub(super) struct Settled<D: Device> {
    pub(super) lent: Option<Block<D>>,
    /// By who had it.
    pub(super) handed: Parts<D>,
    /// Behind all of them, nobody else touches it.
    pub(super) done: Vec<D::Event>,
}

/// The ranks of one axis.
pub(super) struct Group<D: Device> {
    pub(super) axis: Arc<str>,
    /// Their numbers in the world, for messages.
    pub(super) members: Vec<usize>,
    pub(super) world: Arc<World<D>>,
    state: Mutex<State<D>>,
    changed: Condvar,
}

/// What a group's ranks share.
pub(super) struct State<D: Device> {
    /// Why no call succeeds any more.
    error: Option<CommError>,
    /// Number of the meeting at the front.
    first: u64,
    pub(super) meetings: VecDeque<Meeting<D>>,
    /// Groups split off, by the number of the meeting and the color.
    children: HashMap<(u64, usize), Weak<Group<D>>>,
    pub(super) mail: Mailbox<D>,
}

impl<D: Device> Group<D> {
    pub(super) fn new(world: &Arc<World<D>>, axis: Arc<str>, members: Vec<usize>) -> Arc<Self> {
        let state = State {
            error: lock(&world.error).clone(),
            first: 0,
            meetings: VecDeque::new(),
            children: HashMap::new(),
            mail: Mailbox::default(),
        };
        let (world, state) = (Arc::clone(world), Mutex::new(state));
        let group = Arc::new(Group { axis, members, world, state, changed: Condvar::new() });
        lock(&group.world.groups).push(Arc::downgrade(&group));
        group
    }

    pub(super) fn axis(&self) -> &Arc<str> {
        &self.axis
    }

    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<D>> {
        lock(&self.state)
    }

    /// Ends the calls of all groups.
    pub(super) fn abort(&self, error: CommError) {
        self.world.abort(error);
    }

    /// Ends the calls of this group, under way or to come. The first error is the one that counts; returns it.
    pub(super) fn end(&self, error: CommError) -> CommError {
        let mut state = self.state();
        let error = state.error.get_or_insert(error).clone();
        state.mail.refuse_all(&error);
        drop(state);
        self.changed.notify_all();
        error
    }

    /// When a call that begins now is late.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.world.timeout
    }

    /// The group of the ranks `members` of this one, the same for each of them.
    pub(super) fn child(&self, meeting: u64, color: usize, axis: &str, members: &[usize]) -> Arc<Self> {
        let mut state = self.state();
        let slot = state.children.entry((meeting, color)).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let members = members.iter().map(|&rank| self.members[rank]).collect();
            let group = Group::new(&self.world, axis.into(), members);
            *slot = Arc::downgrade(&group);
            group
        })
    }

    /// Every rank's words, at every rank.
    pub(super) fn words(&self, visit: &Visit, words: [usize; 2]) -> Result<Vec<[usize; 2]>, CommError> {
        self.arrive(visit, None, |meeting| meeting.words[visit.rank] = words)?;
        self.meet(visit, |_| ())?;
        Ok(self.leave(visit, |meeting| meeting.words.clone()))
    }

    /// Lends a part to all and hands part i of `parts` to rank i, all of them from `ready` on; returns what each rank
    /// lends, and what each hands to this one.
    pub(super) fn trade(
        &self,
        visit: &Visit,
        ready: D::Event,
        lent: Option<Arc<Block<D>>>,
        parts: Parts<D>,
    ) -> Result<Traded<D>, CommError> {
        let me = visit.rank;
        self.arrive(visit, Some(ready), |meeting| {
            meeting.lent[me] = lent;
            for (receiver, part) in parts.into_iter().enumerate() {
                meeting.awaited[me] += usize::from(part.is_some());
                meeting.handed[receiver][me] = part;
            }
        })?;
        self.meet(visit, |meeting| {
            let (lent, handed) = (meeting.lent.clone(), std::mem::take(&mut meeting.handed[me]));
            let is_there =
                |rank: &usize| lent[*rank].is_some() || handed.get(*rank).is_some_and(Option::is_some);
            let givers = (0..self.size()).filter(|rank| *rank != me && is_there(rank));
            let ready = givers.filter_map(|rank| meeting.guests[rank].ready.clone()).collect();
            Traded { lent, handed, ready }
        })
    }

    /// Gives back what [`Group::trade`] returned (of what is lent, every clone is gone), which this rank no longer
    /// touches from `done` on, and waits for this rank's own: what it lent, and what it handed, by who had it.
    pub(super) fn settle(
        &self,
        visit: &Visit,
        done: D::Event,
        parts: Parts<D>,
    ) -> Result<Settled<D>, CommError> {
        let me = visit.rank;
        let mut state = self.state();
        let meeting = state.meeting(visit.meeting, self.size());
        meeting.served += 1;
        meeting.guests[me].done = Some(done);
        // Who has handed nothing to this rank may have left already.
        let parts = parts.into_iter().enumerate().filter(|(_, part)| part.is_some());
        for (owner, part) in parts {
            meeting.awaited[owner] -= 1;
            meeting.returned[owner][me] = part;
        }
        self.changed.notify_all();
        drop(state);
        // Only what is this rank's is waited for: the slowest reader of other ranks is no concern of it.
        self.until(visit, |meeting| {
            meeting.awaited[me] == 0 && (meeting.lent[me].is_none() || meeting.served == self.size())
        })?;
        Ok(self.leave(visit, |meeting| {
            let (lent, handed) = (meeting.lent[me].take(), std::mem::take(&mut meeting.returned[me]));
            let had_some = |rank: &usize| lent.is_some() || handed.get(*rank).is_some_and(Option::is_some);
            let users = (0..self.size()).filter(|rank| *rank != me && had_some(rank));
            let done = users.filter_map(|rank| meeting.guests[rank].done.clone()).collect();
            let lent = lent.map(|part| Arc::into_inner(part).expect("every reader has dropped its clone"));
            Settled { lent, handed, done }
        }))
    }

    /// Comes to a meeting and leaves something there.
    fn arrive(
        &self,
        visit: &Visit,
        ready: Option<D::Event>,
        deposit: impl FnOnce(&mut Meeting<D>),
    ) -> Result<(), CommError> {
        let mut state = self.state();
        if let Some(error) = &state.error {
            return Err(error.clone());
        }
        let meeting = state.meeting(visit.meeting, self.size());
        let guest = &mut meeting.guests[visit.rank];
        (guest.subject, guest.ready) = (Some(visit.subject), ready);
        deposit(meeting);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until all have come, and for the same thing.
    fn meet<R>(&self, visit: &Visit, take: impl FnOnce(&mut Meeting<D>) -> R) -> Result<R, CommError> {
        self.until(visit, Meeting::is_complete)?;
        let mut state = self.state();
        let meeting = state.meeting(visit.meeting, self.size());
        let Some([(a, one), (b, other)]) = meeting.difference() else { return Ok(take(meeting)) };
        drop(state);
        let (a, b) = (self.members[a], self.members[b]);
        let (axis, sequence) = (&self.axis, visit.sequence);
        let message = format!("{axis} call #{sequence}: rank {a} calls {one}, rank {b} calls {other}");
        Err(self.end(CommError::Mismatch(message)))
    }

    /// Waits until a meeting is in some state.
    fn until(&self, visit: &Visit, done: impl Fn(&Meeting<D>) -> bool) -> Result<(), CommError> {
        let mut state = self.state();
        let mut in_time = true;
        loop {
            if let Some(error) = &state.error {
                return Err(error.clone());
            }
            let meeting = state.meeting(visit.meeting, self.size());
            if done(meeting) {
                return Ok(());
            }
            if !in_time {
                let absent = meeting.absent();
                drop(state);
                return Err(self.end(self.late_ranks(visit.rank, &visit.subject, visit.sequence, absent)));
            }
            (state, in_time) = self.park(state, visit.deadline);
        }
    }

    /// Leaves a meeting for good; the last to leave ends it.
    fn leave<R>(&self, visit: &Visit, take: impl FnOnce(&mut Meeting<D>) -> R) -> R {
        let mut state = self.state();
        let size = self.size();
        let meeting = state.meeting(visit.meeting, size);
        let taken = take(meeting);
        meeting.left += 1;
        while state.meetings.front().is_some_and(|meeting| meeting.left == size) {
            state.meetings.pop_front();
            state.first += 1;
        }
        taken
    }

    /// The number in the world of a rank of this group.
    pub(super) fn member(&self, rank: usize) -> usize {
        self.members[rank]
    }

    /// Parks until something changes, at most until `deadline`; false when that has passed.
    pub(super) fn park<'a>(
        &'a self,
        state: MutexGuard<'a, State<D>>,
        deadline: Instant,
    ) -> (MutexGuard<'a, State<D>>, bool) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (state, false);
        }
        (self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0, true)
    }

    /// Wakes whoever waits here.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }
}

impl<D: Device> State<D> {
    /// A meeting that this rank has not left yet.
    fn meeting(&mut self, number: u64, size: usize) -> &mut Meeting<D> {
        let index = (number - self.first) as usize;
        while self.meetings.len() <= index {
            self.meetings.push_back(Meeting::new(size));
        }
        &mut self.meetings[index]
    }

    /// Why no call succeeds any more.
    pub(super) fn error(&self) -> Option<CommError> {
        self.error.clone()
    }
}
