//! What callers see: [`Nccl`].

use std::sync::Arc;
use std::time::Duration;

use tisserand_kernels::{Block, Class, Device};

use super::calls::{Calls, Role, Slot, Waiter, Waiting};
use super::check::{Check, Subject};
use super::fabric::{Buffers, Fabric, Job, Name};
use super::plan::phases;
use super::process::{Handle, Process};
use super::split::{Topic, digest};
use super::sums::{Sums, workspace_elements};
use crate::header::{Header, Kind};
use crate::trace::{CarriedOut, Stream};
use crate::{Audit, Call, Collective, CommError, Communicator, ControlPlane, Failure, Pending};

/// A communicator over NCCL.
pub struct Nccl<D: Device> {
    pub(super) axis: Arc<str>,
    /// What tells its meetings from those of others; the same at all its ranks.
    pub(super) number: u64,
    pub(super) rank: usize,
    /// Its ranks, as ranks of the job.
    pub(super) members: Arc<[usize]>,
    pub(super) process: Arc<Process<D>>,
    /// None where nothing moves: one rank, or the communicator of all ranks.
    pub(super) calls: Option<Arc<Calls<D>>>,
    audit: Audit,
    numbers: Numbers,
    stream: Stream<D>,
}

/// Numbers of the next calls. Messages are counted by peer and direction, so that both ends give the same number to
/// one.
struct Numbers {
    collectives: u64,
    sends: Vec<u64>,
    recvs: Vec<u64>,
}

#[cfg(feature = "nccl")]
impl<Dr: tisserand_kernels::cuda::driver::RawDriver> Nccl<tisserand_kernels::Cuda<Dr>> {
    /// The communicator of all ranks of the control plane, named "world". It moves nothing and is there to be split:
    /// each communicator that moves something takes memory of the GPU.
    ///
    /// Others are handed to NCCL by `library`, and start behind what `device` computes. One that has not ended after
    /// `timeout` is a failure.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(
        library: super::Library,
        device: &tisserand_kernels::Cuda<Dr>,
        control: Arc<dyn ControlPlane>,
        sums: Sums,
        timeout: Duration,
    ) -> Result<Self, CommError> {
        let fabric = Arc::new(super::library::fabric::NcclFabric::new(library, device));
        Self::over(fabric, device, control, sums, timeout)
    }
}

impl<D: Device> Nccl<D> {
    pub(super) fn over(
        fabric: Arc<dyn Fabric<D>>,
        device: &D,
        control: Arc<dyn ControlPlane>,
        sums: Sums,
        timeout: Duration,
    ) -> Result<Self, CommError> {
        let (rank, members) = (control.rank(), (0..control.world_size()).collect());
        let process = Process::start(device, control, fabric, sums, timeout)?;
        Ok(Self::new("world", 0, rank, members, process, None))
    }

    /// Another communicator of all ranks, of which each makes as many: to split two at a time.
    pub fn beside(&mut self) -> Self {
        let number = digest(&[self.number, self.numbers.next(None)]);
        let (members, process) = (Arc::clone(&self.members), Arc::clone(&self.process));
        Self::new("world", number, self.rank, members, process, None)
    }

    pub(super) fn new(
        axis: &str,
        number: u64,
        rank: usize,
        members: Arc<[usize]>,
        process: Arc<Process<D>>,
        calls: Option<Arc<Calls<D>>>,
    ) -> Self {
        let numbers =
            Numbers { collectives: 0, sends: vec![0; members.len()], recvs: vec![0; members.len()] };
        let axis: Arc<str> = axis.into();
        let stream = Stream::new(process.progress.trace(), Arc::clone(&axis), &process.device);
        Nccl { axis, number, rank, members, process, calls, audit: Audit::default(), numbers, stream }
    }

    /// Reaches every communicator of this rank.
    pub fn handle(&self) -> Handle {
        self.process.handle()
    }

    fn name(&self, kind: Collective, sequence: u64) -> Name {
        let kind = Arc::clone(&self.process.kinds[kind as usize]);
        Name { axis: Arc::clone(&self.axis), kind, sequence }
    }

    /// Notes a call; returns the unit on whose behalf it is.
    fn note(&self, name: &Name, payload_bytes: usize) -> Option<Arc<str>> {
        self.process.progress.begin_call(&name.axis, &name.kind, name.sequence, payload_bytes)
    }

    /// Tells the other ranks of a call, and says what they must agree on.
    fn check(&self, call: Call, name: &Name, header: Header) -> Check {
        let (topic, ranks, subject) = match call {
            Call::Send { to } => self.message(self.rank, to, name),
            Call::Recv { from } => self.message(from, self.rank, name),
            _ => (Topic::Call(name.sequence), self.everyone(), Subject::Same(name.clone())),
        };
        let meeting = self.meeting(topic, &ranks);
        self.process.control.bring(&meeting, header.encode().to_vec());
        Check { meeting, ranks: Arc::clone(&self.members), subject }
    }

    fn message(&self, from: usize, to: usize, name: &Name) -> (Topic, Vec<usize>, Subject) {
        let (sender, receiver) = (self.members[from], self.members[to]);
        let topic = Topic::Message { from, to, number: name.sequence };
        (topic, vec![from, to], Subject::Message { name: name.clone(), sender, receiver })
    }

    /// What all ranks bring to a barrier or a split, behind all calls so far; compares what they call.
    pub(super) fn agree(&mut self, kind: Kind) -> Result<u64, CommError> {
        let sequence = self.numbers.next(None);
        let name = Name { axis: Arc::clone(&self.axis), kind: kind.name().into(), sequence };
        self.note(&name, 0);
        if let Some(error) = self.process.ended.error() {
            return Err(error);
        }
        if self.calls.is_some() {
            self.process.order.run(|| ())?;
        }
        if self.members.len() > 1 {
            let meeting = self.meeting(Topic::Call(sequence), &self.everyone());
            let control = &self.process.control;
            control.bring(&meeting, Header::without_data(kind).encode().to_vec());
            let subject = Subject::Same(name.clone());
            let check = Check { meeting, ranks: Arc::clone(&self.members), subject };
            check.run(&**control, self.process.timeout)?;
        }
        note_end(&self.process.progress, &name);
        Ok(sequence)
    }

    /// One rank alone: what it sends to itself, it receives.
    fn alone(&self, call: Call, mut block: Block<D>) -> Result<Pending<D>, CommError> {
        if call == Call::AllToAll {
            let half = block.len() / 2;
            let mut received = block.split_off(half);
            self.process.device.copy(block.view([half]), received.view_mut([half]))?;
            block.append(received);
        }
        Ok(Pending::done(block))
    }
}

/// Notes that a call has ended.
pub(super) fn note_end(progress: &crate::Progress, name: &Name) {
    progress.end_call(&name.axis, &name.kind, name.sequence);
}

impl Numbers {
    /// The number of the next call; `None` for those that move nothing.
    fn next(&mut self, call: Option<Call>) -> u64 {
        let next = match call {
            Some(Call::Send { to }) => &mut self.sends[to],
            Some(Call::Recv { from }) => &mut self.recvs[from],
            _ => &mut self.collectives,
        };
        *next += 1;
        *next - 1
    }
}

impl<D: Device> Communicator<D> for Nccl<D> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.members.len()
    }

    fn start(&mut self, call: Call, block: Block<D>) -> Result<Pending<D>, CommError> {
        let (len, dtype, size) = (block.len(), block.dtype(), self.size());
        call.check(self.rank, size, len)?;
        if let Some(error) = self.process.ended.error() {
            return Err(error);
        }
        let (kind, payload_bytes) = (call.kind(), call.payload_bytes(len, dtype));
        self.audit.count(kind, payload_bytes);
        if size == 1 {
            return self.alone(call, block);
        }
        let Some(calls) = self.calls.clone() else {
            let axis = &self.axis;
            return Err(CommError::Kernel(format!("{axis} is there to be split, not for {}", kind.name())));
        };
        let sums = self.process.sums;
        let workspace = match workspace_elements(sums, call, size, len, dtype) {
            0 => None,
            elements => Some(block.sibling(Class::Communication, dtype, elements)?),
        };
        let number = self.numbers.next(Some(call));
        let name = self.name(kind, number);
        let unit = self.note(&name, payload_bytes);
        let span = self.stream.span(kind, name.sequence, payload_bytes, unit, CarriedOut::InTheBackground);
        let check = self.process.checked().then(|| {
            let header = Header::of_call(call, len, dtype);
            self.check(call, &name, header)
        });
        let job = Job {
            name,
            phases: phases(sums, call, (self.rank, size), len, dtype),
            buffers: Buffers { block, workspace },
            ready: self.process.device.event()?,
            span: span.clone(),
        };
        let role = match call {
            Call::Send { to } => Role::Send { to },
            Call::Recv { .. } => Role::Recv,
            _ => Role::Collective,
        };
        let slot = Slot::new(role, Waiting { job, check });
        calls.submit(&slot)?;
        Ok(Pending::queued(span, Box::new(Waiter { calls, slot })))
    }

    fn barrier(&mut self) -> Result<(), CommError> {
        self.audit.count(Collective::Barrier, 0);
        self.agree(Kind::Collective(Collective::Barrier)).map(drop)
    }

    /// Ranks that split several communicators do so in the same order.
    fn split(&mut self, axis: &str, color: usize, key: usize) -> Result<Box<dyn Communicator<D>>, CommError> {
        Ok(Box::new(self.split_off(axis, color, key)?))
    }

    fn audit(&self) -> Audit {
        self.audit
    }

    /// Tells the other ranks, by the control plane.
    fn abort(&mut self, failure: Failure) {
        self.process.fail(failure);
    }
}

impl<D: Device> Drop for Nccl<D> {
    /// In good order if every rank does so; whoever panics does not wait for the others.
    fn drop(&mut self) {
        if let Some(calls) = self.calls.take().filter(|_| !std::thread::panicking()) {
            calls.end();
        }
    }
}
