//! Threads that stand for NCCL in tests, on any device. As NCCL does, a line carries out what it gets one after the
//! other, on a stream of its own, and its ranks meet for each: so calls that would hang there hang here. All lines of a
//! rank together also carry out one job at a time, as on a GPU that has room for one of NCCL's kernels: ranks that give
//! the jobs of several lines in different orders wait for each other in a circle. Unlike NCCL it hands a job over late,
//! in a thread, for which `join` waits; nobody waits for the device.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;

use tisserand_kernels::{Block, Class, Context, Device, Storage};

use super::communicator::note_end;
use super::fabric::{Buffers, Ended, Fabric, Job, Line, Newest, Place, UnderWay, follow};
use super::plan::Transfer;
use crate::messages::{self, Message};
use crate::threads::{self, Seat};
use crate::{Call, CommError, Communicator, Failure, Overlap, Progress, Threads};

/// Bytes of messages under way on a line.
const MAIL_BYTES: usize = 16 << 20;

/// What stands for the network: seats of lines that not all ranks have taken, by id.
pub(super) struct Network<D: Device> {
    ids: AtomicU64,
    seats: Mutex<HashMap<Vec<u8>, Seats<D>>>,
}

/// With their ranks.
type Seats<D> = VecDeque<(usize, Seat<D>)>;

impl<D: Device> Default for Network<D> {
    fn default() -> Self {
        Network { ids: AtomicU64::new(0), seats: Mutex::default() }
    }
}

/// A rank's way in.
pub(super) struct InMemory<D: Device> {
    network: Arc<Network<D>>,
    /// The rank's handle.
    compute: D,
    gpu: Gpu<D>,
}

/// Carries out the jobs of all lines of a rank.
#[derive(Clone)]
struct Gpu<D: Device> {
    launches: Sender<Launch<D>>,
    newest: Arc<Newest<D>>,
    /// Who speaks to it: always one and the same thread.
    speaker: Arc<OnceLock<ThreadId>>,
}

/// Jobs that go together, and their line.
struct Launch<D: Device> {
    carrier: Arc<Mutex<Carrier<D>>>,
    jobs: Vec<Given<D>>,
}

struct InMemoryLine<D: Device> {
    carrier: Arc<Mutex<Carrier<D>>>,
    gpu: Gpu<D>,
    ended: Arc<Ended>,
    aborter: Box<dyn Fn(&Failure) + Send + Sync>,
}

/// A job, and where its end is told.
type Given<D> = (Job<D>, Arc<Outcome<D>>);

/// The memory of a job, with the point behind which it may be used.
type Carried<D> = Result<(Buffers<D>, <D as Storage>::Event), CommError>;

struct Outcome<D: Device> {
    buffers: Mutex<Option<Carried<D>>>,
    changed: Condvar,
}

impl<D: Device> InMemory<D> {
    /// For the rank of this handle.
    pub(super) fn new(network: Arc<Network<D>>, compute: &D) -> Self {
        let (launches, inbox) = channel::<Launch<D>>();
        let carry_out = move || {
            inbox.into_iter().for_each(|Launch { carrier, jobs }| {
                carrier.lock().unwrap_or_else(PoisonError::into_inner).run(jobs);
            });
        };
        std::thread::Builder::new().name("gpu".to_owned()).spawn(carry_out).expect("tests have threads");
        let gpu = Gpu { launches, newest: Arc::default(), speaker: Arc::default() };
        InMemory { network, compute: compute.clone(), gpu }
    }
}

impl<D: Device> Gpu<D> {
    fn spoken_to(&self) {
        let speaker = std::thread::current().id();
        assert_eq!(*self.speaker.get_or_init(|| speaker), speaker, "one thread of a rank speaks to NCCL");
    }
}

impl<D: Device> Fabric<D> for InMemory<D> {
    fn new_id(&self) -> Result<Vec<u8>, CommError> {
        Ok(self.network.ids.fetch_add(1, Ordering::Relaxed).to_le_bytes().to_vec())
    }

    fn connect(&self, place: Place, id: &[u8]) -> Result<Arc<dyn Line<D>>, CommError> {
        self.gpu.spoken_to();
        let mut lines = self.network.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let seats = lines
            .entry(id.to_vec())
            .or_insert_with(|| threads::seats(place.size, place.timeout).into_iter().enumerate().collect());
        let own = seats.iter().position(|(rank, _)| *rank == place.rank);
        let own = own.unwrap_or_else(|| panic!("rank {} connects to {} again", place.rank, place.axis));
        let (_, seat) = seats.remove(own).expect("just found");
        drop(lines);
        let aborter = Box::new(seat.aborter());
        let ctx = Context::new(self.compute.fork()?, MAIL_BYTES)?;
        let threads = seat.take(&ctx.device, Overlap::None, Progress::default())?;
        let (ended, gpu) = (Arc::clone(&place.ended), self.gpu.clone());
        let carrier = Carrier { threads, ctx, place, newest: Arc::clone(&gpu.newest) };
        let carrier = Arc::new(Mutex::new(carrier));
        Ok(Arc::new(InMemoryLine { carrier, gpu, ended, aborter }))
    }
}

impl<D: Device> Line<D> for InMemoryLine<D> {
    fn begin(&self, compute: &D, jobs: Vec<Job<D>>) -> Result<Vec<Box<dyn UnderWay<D>>>, CommError> {
        self.gpu.spoken_to();
        if let Some(error) = self.ended.error() {
            return Err(error);
        }
        let outcome = || Arc::new(Outcome { buffers: Mutex::default(), changed: Condvar::new() });
        let jobs: Vec<_> = jobs.into_iter().map(|job| (job, outcome())).collect();
        let ticket = |outcome: &Arc<_>| Ticket { compute: compute.clone(), outcome: Arc::clone(outcome) };
        let under_way = jobs.iter().map(|(_, outcome)| Box::new(ticket(outcome)) as Box<_>).collect();
        let launch = Launch { carrier: Arc::clone(&self.carrier), jobs };
        self.gpu.launches.send(launch).expect("the thread lives");
        Ok(under_way)
    }

    fn end(&self) {
        self.gpu.spoken_to();
    }

    fn look_after(&self) -> Option<String> {
        None
    }

    fn abort(&self) {
        let Some(CommError::Failed(failure)) = self.ended.error() else { return };
        (self.aborter)(&failure);
    }
}

struct Ticket<D: Device> {
    compute: D,
    outcome: Arc<Outcome<D>>,
}

impl<D: Device> UnderWay<D> for Ticket<D> {
    fn join(self: Box<Self>) -> Result<Buffers<D>, CommError> {
        let Outcome { buffers, changed } = &*self.outcome;
        let buffers = buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffers =
            changed.wait_while(buffers, |buffers| buffers.is_none()).unwrap_or_else(PoisonError::into_inner);
        let (buffers, done) = buffers.take().expect("just waited for")?;
        self.compute.wait(&done)?;
        Ok(buffers)
    }

    /// As on a stream, which is not waited for.
    fn is_done(&self) -> bool {
        true
    }
}

struct Carrier<D: Device> {
    threads: Threads<D>,
    ctx: Context<D>,
    place: Place,
    newest: Arc<Newest<D>>,
}

impl<D: Device> Carrier<D> {
    fn run(&mut self, mut jobs: Vec<Given<D>>) {
        let phases = jobs.iter().map(|(job, _)| job.phases.len()).max().unwrap_or(0);
        assert!(jobs.len() == 1 || phases <= 1, "only messages go together");
        let device = self.ctx.device.clone();
        let ready = self.newest.pass(&device);
        let ready = ready.and_then(|()| jobs.iter().try_for_each(|(job, _)| device.wait(&job.ready)));
        let begun = jobs.iter().map(|(job, _)| job.span.begin(&device).expect("the device works"));
        let begun: Vec<_> = begun.collect();
        let moved = (0..phases).try_for_each(|phase| self.phase(phase, &mut jobs));
        let result = ready.map_err(CommError::from).and(moved);
        for ((job, outcome), begun) in jobs.into_iter().zip(begun) {
            let done = job.span.end(&device, begun).and_then(|()| device.event()).map_err(CommError::from);
            note_end(&self.place.progress, &job.name);
            let result = result.clone().and(done).map(|done| {
                self.newest.set(done.clone());
                (job.buffers, done)
            });
            *outcome.buffers.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            outcome.changed.notify_all();
        }
    }

    fn phase(&mut self, phase: usize, jobs: &mut [Given<D>]) -> Result<(), CommError> {
        let mut sends = Vec::new();
        for (job, _) in jobs.iter_mut() {
            let Some(phase) = job.phases.get(phase).cloned() else { continue };
            match &phase.transfer {
                Transfer::Exchange { sends: messages, .. } => {
                    for message in messages {
                        let mail = self.mail(job, message, true)?;
                        sends.push(self.threads.start(Call::Send { to: message.peer }, mail)?);
                    }
                }
                Transfer::AllReduce(op) => self.whole(Call::AllReduce(*op), &mut job.buffers)?,
                Transfer::ReduceScatter(op) => self.whole(Call::ReduceScatter(*op), &mut job.buffers)?,
                Transfer::AllGather => self.whole(Call::AllGather, &mut job.buffers)?,
                Transfer::Broadcast { root } => {
                    self.whole(Call::Broadcast { root: *root }, &mut job.buffers)?;
                }
            }
        }
        for (job, _) in jobs.iter_mut() {
            let Some(phase) = job.phases.get(phase).cloned() else { continue };
            if let Transfer::Exchange { receives, .. } = phase.transfer {
                for message in receives {
                    let mail = self.mail(job, &message, false)?;
                    let mail = self.threads.run(Call::Recv { from: message.peer }, mail)?;
                    let len = message.elements.len();
                    let to = target(&mut job.buffers, &message);
                    self.ctx.device.copy(mail.view([len]), to.range_mut(message.elements.start, [len]))?;
                }
            }
        }
        sends.into_iter().try_for_each(|send| send.wait().map(drop))?;
        for (job, _) in jobs.iter_mut() {
            if let Some(phase) = job.phases.get(phase).cloned() {
                let place = (self.place.rank, self.place.size);
                follow(&self.ctx.device, &phase.after, place, &mut job.buffers)?;
            }
        }
        Ok(())
    }

    /// A copy of what is sent, or room for what is received.
    fn mail(&self, job: &mut Job<D>, message: &Message, filled: bool) -> Result<Block<D>, CommError> {
        let (dtype, len) = (job.buffers.block.dtype(), message.elements.len());
        let mut mail = self.ctx.arena.block(Class::Communication, dtype, len)?;
        if filled {
            let from = target(&mut job.buffers, message);
            self.ctx.device.copy(from.range(message.elements.start, [len]), mail.view_mut([len]))?;
        }
        Ok(mail)
    }

    fn whole(&mut self, call: Call, buffers: &mut Buffers<D>) -> Result<(), CommError> {
        let block = buffers.block.split_off(0);
        buffers.block.append(self.threads.run(call, block)?);
        Ok(())
    }
}

fn target<'a, D: Device>(buffers: &'a mut Buffers<D>, message: &Message) -> &'a mut Block<D> {
    match message.place {
        messages::Place::Block => &mut buffers.block,
        messages::Place::Workspace => buffers.workspace.as_mut().expect("it was planned"),
    }
}
