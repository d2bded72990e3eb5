//! Where the ranks of one axis meet, call by call.
//!
//! A call has one *meeting*. There, ranks leave what the others need of their blocks (parts to be worked on, or a
//! part to be read), wait until all have come, and take it. A part changes hands as an owned
//! block, or is lent as a shared one; so two ranks never write the same elements.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tisserand_kernels::{Block, DType, Device};

use super::mailbox::Mailbox;
use crate::communicator::{Call, CommError};
use crate::control::Failure;

/// What all groups of one program share.
pub(super) struct World<D: Device> {
    timeout: Duration,
    groups: Mutex<Vec<Weak<Group<D>>>>,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ranks of one axis.
pub(super) struct Group<D: Device> {
    axis: Arc<str>,
    /// Their numbers in the world, for messages.
    members: Vec<usize>,
    world: Arc<World<D>>,
    state: Mutex<State<D>>,
    changed: Condvar,
}

/// What a group's ranks share.
pub(super) struct State<D: Device> {
    /// Why no call succeeds any more.
    error: Option<CommError>,
    /// Number of the meeting at the front.
    first: u64,
    meetings: VecDeque<Meeting<D>>,
    /// Groups split off, by the number of the meeting and the color.
    children: HashMap<(u64, usize), Weak<Group<D>>>,
    pub(super) mail: Mailbox<D>,
}

/// Parts of a block, by rank.
pub(super) type Parts<D> = Vec<Option<Block<D>>>;

/// What each rank lends to all.
pub(super) type Lent<D> = Vec<Option<Arc<Block<D>>>>;

/// What ranks must agree on, and what they left for each other.
struct Meeting<D: Device> {
    /// What each rank came for, once it has come.
    subjects: Vec<Option<Subject>>,
    /// Parts handed over: by receiver, then giver.
    handed: Vec<Parts<D>>,
    /// Parts on their way back: by owner, then by who had them.
    returned: Vec<Parts<D>>,
    /// How many of its parts each rank has handed over and not got back.
    awaited: Vec<usize>,
    /// Parts lent to all, by owner.
    lent: Lent<D>,
    words: Vec<[usize; 2]>,
    /// Ranks that have read what was lent.
    served: usize,
    /// Ranks that have left.
    left: usize,
}

/// What ranks of one meeting must agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Subject {
    Call { call: Call, len: usize, dtype: DType },
    Words,
}

impl Subject {
    /// How often ranks meet for it.
    pub(super) fn meetings(&self) -> u64 {
        match self {
            Subject::Call { call: Call::Send { .. } | Call::Recv { .. }, .. } => 0,
            _ => 1,
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Words => f.write_str("barrier or split"),
            Subject::Call { call, len, dtype } => {
                write!(f, "{} of {len} {dtype}", call.kind().name())?;
                match call {
                    Call::AllReduce(op) | Call::ReduceScatter(op) => write!(f, " ({op:?})"),
                    Call::Broadcast { root } => write!(f, " from {root}"),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl<D: Device> Meeting<D> {
    fn new(size: usize) -> Self {
        let parts = || (0..size).map(|_| (0..size).map(|_| None).collect()).collect();
        Meeting {
            subjects: vec![None; size],
            handed: parts(),
            returned: parts(),
            awaited: vec![0; size],
            lent: (0..size).map(|_| None).collect(),
            words: vec![[0; 2]; size],
            served: 0,
            left: 0,
        }
    }

    fn is_complete(&self) -> bool {
        self.subjects.iter().all(Option::is_some)
    }

    /// Ranks of the group that have not come.
    fn absent(&self) -> Vec<usize> {
        (0..self.subjects.len()).filter(|&rank| self.subjects[rank].is_none()).collect()
    }

    /// The first two ranks that came for different things.
    fn difference(&self) -> Option<[(usize, Subject); 2]> {
        let mut ranks = self.subjects.iter().flatten().copied().enumerate();
        let first = ranks.next()?;
        Some([first, ranks.find(|(_, subject)| *subject != first.1)?])
    }
}

/// One rank's visit of one meeting.
#[derive(Clone, Copy)]
pub(super) struct Visit {
    pub(super) rank: usize,
    /// Number of the meeting in its group.
    pub(super) meeting: u64,
    /// Number of the call, for messages.
    pub(super) sequence: u64,
    pub(super) subject: Subject,
    pub(super) deadline: Instant,
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
        self.arrive(visit, |meeting| meeting.words[visit.rank] = words)?;
        self.meet(visit, |_| ())?;
        Ok(self.leave(visit, |meeting| meeting.words.clone()))
    }

    /// Lends a part to all and hands part i of `parts` to rank i; returns what each rank lends, and what each
    /// hands to this one.
    pub(super) fn trade(
        &self,
        visit: &Visit,
        lent: Option<Arc<Block<D>>>,
        parts: Parts<D>,
    ) -> Result<(Lent<D>, Parts<D>), CommError> {
        let me = visit.rank;
        self.arrive(visit, |meeting| {
            meeting.lent[me] = lent;
            for (receiver, part) in parts.into_iter().enumerate() {
                meeting.awaited[me] += usize::from(part.is_some());
                meeting.handed[receiver][me] = part;
            }
        })?;
        self.meet(visit, |meeting| (meeting.lent.clone(), std::mem::take(&mut meeting.handed[me])))
    }

    /// Gives back what [`Group::trade`] returned (of what is lent, every clone is gone), and waits for this rank's
    /// own: what it lent, and what it handed, by who had it.
    pub(super) fn settle(
        &self,
        visit: &Visit,
        parts: Parts<D>,
    ) -> Result<(Option<Block<D>>, Parts<D>), CommError> {
        let me = visit.rank;
        let mut state = self.state();
        let meeting = state.meeting(visit.meeting, self.size());
        meeting.served += 1;
        for (owner, part) in parts.into_iter().enumerate() {
            meeting.awaited[owner] -= usize::from(part.is_some());
            meeting.returned[owner][me] = part;
        }
        self.changed.notify_all();
        drop(state);
        // Only what is this rank's is waited for: the slowest reader of other ranks is no concern of it.
        self.until(visit, |meeting| {
            meeting.awaited[me] == 0 && (meeting.lent[me].is_none() || meeting.served == self.size())
        })?;
        let (lent, returned) =
            self.leave(visit, |meeting| (meeting.lent[me].take(), std::mem::take(&mut meeting.returned[me])));
        Ok((lent.map(|part| Arc::into_inner(part).expect("every reader has dropped its clone")), returned))
    }

    /// Comes to a meeting and leaves something there.
    fn arrive(&self, visit: &Visit, deposit: impl FnOnce(&mut Meeting<D>)) -> Result<(), CommError> {
        let mut state = self.state();
        if let Some(error) = &state.error {
            return Err(error.clone());
        }
        let meeting = state.meeting(visit.meeting, self.size());
        meeting.subjects[visit.rank] = Some(visit.subject);
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
