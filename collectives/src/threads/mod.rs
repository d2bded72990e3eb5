//! Ranks that are threads of one process: several per machine for a laptop's experiments, and all of the
//! tests of meshes. Blocks are combined where they lie; nothing is staged.
//!
//! On a GPU, hosts wait for each other, never for the GPU: what ranks leave for each other comes with the event behind
//! which it may be touched, and goes back with the event behind which it is no longer.
//!
//! - here: a rank's end, which implements [`Communicator`];
//! - `group`: where ranks meet, call by call (`meeting`), and hand each other parts of their blocks; `late`: who is
//!   to blame when one does not come;
//! - `mailbox`: what is sent from one rank to another;
//! - `carry_out`: what each call does with them; `place`: where it does so, and behind which events;
//! - `queue`: the thread on which a rank's calls are carried out while it computes.

mod carry_out;
mod group;
mod late;
mod mailbox;
mod meeting;
mod place;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use tisserand_kernels::{Block, Device};

use self::group::{Group, World};
use self::meeting::{Subject, Visit};
use self::queue::{Job, Queue};
use crate::communicator::{Call, CommError, Communicator};
use crate::control::{Failure, Progress};
use crate::trace::Stream;
use crate::{Audit, Collective, Pending};

/// Where a rank's calls are carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overlap {
    /// On a thread of the communicator's own, while the rank computes.
    Background,
    /// On the thread that calls, before `start` returns: for calls that are waited for at once, which thus
    /// do not stand behind longer ones.
    None,
}

/// A rank's place before it has a device: made on one thread, moved to the rank's.
pub struct Seat<D: Device> {
    rank: usize,
    world: Arc<World<D>>,
    group: Arc<Group<D>>,
}

/// Places for `size` ranks. A call that some rank has not joined after `timeout` fails.
pub fn seats<D: Device>(size: usize, timeout: Duration) -> Vec<Seat<D>> {
    let world = World::new(timeout);
    let group = Group::new(&world, "world".into(), (0..size).collect());
    (0..size).map(|rank| Seat { rank, world: Arc::clone(&world), group: Arc::clone(&group) }).collect()
}

impl<D: Device> Seat<D> {
    /// Ends every call of every rank with `failure`, from any thread.
    pub fn aborter(&self) -> impl Fn(&Failure) + Send + Sync + 'static {
        let world = Arc::clone(&self.world);
        move |failure| world.abort(failure.clone().into())
    }

    /// The communicator of all ranks. `progress` is told of its calls and of those of its splits.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn take(self, device: &D, overlap: Overlap, progress: Progress) -> Result<Threads<D>, CommError> {
        let queue = match overlap {
            Overlap::Background => Queue::background(device.clone())?,
            Overlap::None => Queue::inline(device.clone()),
        };
        Ok(Threads::new(self.group, self.rank, queue, progress))
    }
}

/// One rank's end of a group of threads.
pub struct Threads<D: Device> {
    group: Arc<Group<D>>,
    rank: usize,
    queue: Queue<D>,
    /// Number of the next call.
    sequence: u64,
    /// Number of the group's next meeting.
    meeting: u64,
    audit: Audit,
    progress: Progress,
    stream: Stream<D>,
    kinds: [Arc<str>; Collective::ALL.len()],
}

impl<D: Device> Threads<D> {
    fn new(group: Arc<Group<D>>, rank: usize, queue: Queue<D>, progress: Progress) -> Self {
        let kinds = Collective::ALL.map(|kind| kind.name().into());
        let stream = Stream::new(progress.trace(), Arc::clone(group.axis()), queue.device());
        let audit = Audit::default();
        Threads { group, rank, queue, sequence: 0, meeting: 0, audit, progress, stream, kinds }
    }

    /// A new call, noted as this rank's newest, and the unit on whose behalf it is made.
    fn begin(
        &mut self,
        kind: Collective,
        subject: Subject,
        payload_bytes: usize,
    ) -> (Visit, Option<Arc<str>>) {
        let (sequence, meeting) = (self.sequence, self.meeting);
        self.sequence += 1;
        self.meeting += subject.meetings();
        let (axis, name) = (self.group.axis(), &self.kinds[kind as usize]);
        let unit = self.progress.begin_call(axis, name, sequence, payload_bytes);
        let visit = Visit { rank: self.rank, meeting, sequence, subject, deadline: self.group.deadline() };
        (visit, unit)
    }

    /// Words of all ranks, behind all calls so far.
    fn words(&mut self, words: [usize; 2]) -> Result<(Visit, Vec<[usize; 2]>), CommError> {
        let (mut visit, _) = self.begin(Collective::Barrier, Subject::Words, 0);
        self.queue.drain()?;
        visit.deadline = self.group.deadline();
        let words = self.group.words(&visit, words)?;
        self.progress.end_call(self.group.axis(), Collective::Barrier.name(), visit.sequence);
        Ok((visit, words))
    }
}

impl<D: Device> Communicator<D> for Threads<D> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn start(&mut self, call: Call, block: Block<D>) -> Result<Pending<D>, CommError> {
        call.check(self.rank, self.size(), block.len())?;
        let payload_bytes = call.payload_bytes(block.len(), block.dtype());
        self.audit.count(call.kind(), payload_bytes);
        let subject = Subject::Call { call, len: block.len(), dtype: block.dtype() };
        let (visit, unit) = self.begin(call.kind(), subject, payload_bytes);
        let carried_out = self.queue.carried_out();
        let span = self.stream.span(call.kind(), visit.sequence, payload_bytes, unit, carried_out);
        let (completion, pending) = Pending::under_way(span);
        let (group, progress) = (Arc::clone(&self.group), self.progress.clone());
        let ready = self.queue.device().event()?;
        self.queue.submit(Job { group, visit, call, block, ready, completion, progress })?;
        Ok(pending)
    }

    fn barrier(&mut self) -> Result<(), CommError> {
        self.audit.count(Collective::Barrier, 0);
        self.words([0; 2]).map(drop)
    }

    fn split(&mut self, axis: &str, color: usize, key: usize) -> Result<Box<dyn Communicator<D>>, CommError> {
        let (visit, words) = self.words([color, key])?;
        let mut members: Vec<usize> = (0..self.size()).filter(|&rank| words[rank][0] == color).collect();
        members.sort_by_key(|&rank| (words[rank][1], rank));
        let place = members.iter().position(|&rank| rank == self.rank).expect("a rank has its own color");
        let group = self.group.child(visit.meeting, color, axis, &members);
        Ok(Box::new(Threads::new(group, place, self.queue.another()?, self.progress.clone())))
    }

    fn audit(&self) -> Audit {
        self.audit
    }

    fn abort(&mut self, failure: Failure) {
        self.group.abort(failure.into());
    }
}
