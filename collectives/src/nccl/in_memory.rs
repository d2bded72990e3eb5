//! Threads that stand for NCCL in tests, on the host. As NCCL does, a line carries out what it gets one after the
//! other, and its ranks meet for each: so calls that would hang there hang here.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tisserand_kernels::{Block, Class, Context, Cpu, Storage};

use super::communicator::note_end;
use super::fabric::{Buffers, Ended, Fabric, Job, Line, Place, UnderWay, follow};
use super::plan::Transfer;
use crate::messages::{self, Message};
use crate::threads::{self, Seat};
use crate::{Call, CommError, Communicator, Failure, Overlap, Progress, Threads};

/// Bytes of messages under way on a line.
const MAIL_BYTES: usize = 64 << 20;

/// What stands for the network: seats of lines that not all ranks have taken, by id.
#[derive(Default)]
pub(super) struct Network {
    ids: AtomicU64,
    seats: Mutex<HashMap<Vec<u8>, Seats>>,
}

/// With their ranks.
type Seats = VecDeque<(usize, Seat<Cpu>)>;

/// A rank's way in.
pub(super) struct InMemory {
    pub(super) network: Arc<Network>,
}

struct InMemoryLine {
    jobs: Mutex<Sender<Vec<Given>>>,
    ended: Arc<Ended>,
    aborter: Box<dyn Fn(&Failure) + Send + Sync>,
}

/// A job, and where its end is told.
type Given = (Job<Cpu>, Arc<Outcome>);

#[derive(Default)]
struct Outcome {
    buffers: Mutex<Option<Result<Buffers<Cpu>, CommError>>>,
    changed: Condvar,
}

impl Fabric<Cpu> for InMemory {
    fn new_id(&self) -> Result<Vec<u8>, CommError> {
        Ok(self.network.ids.fetch_add(1, Ordering::Relaxed).to_le_bytes().to_vec())
    }

    fn connect(&self, place: Place, id: &[u8]) -> Result<Box<dyn Line<Cpu>>, CommError> {
        let mut lines = self.network.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let seats = lines
            .entry(id.to_vec())
            .or_insert_with(|| threads::seats(place.size, place.timeout).into_iter().enumerate().collect());
        let own = seats.iter().position(|(rank, _)| *rank == place.rank).expect("a rank connects once");
        let (_, seat) = seats.remove(own).expect("just found");
        drop(lines);
        let aborter = Box::new(seat.aborter());
        let ctx = Context::new(Cpu::new(1)?, MAIL_BYTES)?;
        let threads = seat.take(&ctx.device, Overlap::None, Progress::default())?;
        let (jobs, inbox) = channel();
        let ended = Arc::clone(&place.ended);
        let name = place.axis.to_string();
        let carry = move || {
            let mut carrier = Carrier { threads, ctx, place };
            inbox.into_iter().for_each(|jobs| carrier.run(jobs));
        };
        std::thread::Builder::new().name(name).spawn(carry).expect("tests have threads");
        Ok(Box::new(InMemoryLine { jobs: Mutex::new(jobs), ended, aborter }))
    }
}

impl Line<Cpu> for InMemoryLine {
    fn begin(&self, _compute: &Cpu, jobs: Vec<Job<Cpu>>) -> Result<Vec<Box<dyn UnderWay<Cpu>>>, CommError> {
        if let Some(error) = self.ended.error() {
            return Err(error);
        }
        let jobs: Vec<_> = jobs.into_iter().map(|job| (job, Arc::<Outcome>::default())).collect();
        let under_way = jobs.iter().map(|(_, outcome)| Box::new(Arc::clone(outcome)) as Box<_>).collect();
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).send(jobs).expect("the thread lives");
        Ok(under_way)
    }

    fn look_after(&self) -> Option<String> {
        None
    }

    fn abort(&self) {
        let Some(CommError::Failed(failure)) = self.ended.error() else { return };
        (self.aborter)(&failure);
    }
}

impl UnderWay<Cpu> for Arc<Outcome> {
    fn join(self: Box<Self>) -> Result<Buffers<Cpu>, CommError> {
        let buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffers = self
            .changed
            .wait_while(buffers, |buffers| buffers.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        buffers.take().expect("just waited for")
    }

    /// As on a stream, which is not waited for.
    fn is_done(&self) -> bool {
        true
    }
}

struct Carrier {
    threads: Threads<Cpu>,
    ctx: Context<Cpu>,
    place: Place,
}

impl Carrier {
    fn run(&mut self, mut jobs: Vec<Given>) {
        let phases = jobs.iter().map(|(job, _)| job.phases.len()).max().unwrap_or(0);
        assert!(jobs.len() == 1 || phases <= 1, "only messages go together");
        let ready = jobs.iter().try_for_each(|(job, _)| self.ctx.device.wait(&job.ready));
        ready.expect("the host's events are reached");
        let result = (0..phases).try_for_each(|phase| self.phase(phase, &mut jobs));
        for (job, outcome) in jobs {
            job.span.ended();
            note_end(&self.place.progress, &job.name);
            let result = result.clone().map(|()| job.buffers);
            *outcome.buffers.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            outcome.changed.notify_all();
        }
    }

    fn phase(&mut self, phase: usize, jobs: &mut [Given]) -> Result<(), CommError> {
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
    fn mail(&self, job: &mut Job<Cpu>, message: &Message, filled: bool) -> Result<Block<Cpu>, CommError> {
        let (dtype, len) = (job.buffers.block.dtype(), message.elements.len());
        let mut mail = self.ctx.arena.block(Class::Communication, dtype, len)?;
        if filled {
            let from = target(&mut job.buffers, message);
            self.ctx.device.copy(from.range(message.elements.start, [len]), mail.view_mut([len]))?;
        }
        Ok(mail)
    }

    fn whole(&mut self, call: Call, buffers: &mut Buffers<Cpu>) -> Result<(), CommError> {
        let block = buffers.block.split_off(0);
        buffers.block.append(self.threads.run(call, block)?);
        Ok(())
    }
}

fn target<'a>(buffers: &'a mut Buffers<Cpu>, message: &Message) -> &'a mut Block<Cpu> {
    match message.place {
        messages::Place::Block => &mut buffers.block,
        messages::Place::Workspace => buffers.workspace.as_mut().expect("it was planned"),
    }
}
