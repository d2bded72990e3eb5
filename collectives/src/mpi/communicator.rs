//! What callers see: [`Mpi`] takes their blocks to the thread that owns MPI.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use tisserand_kernels::{Block, Class, Cpu, Storage};

use super::job::{Job, Member, Name, Split, Task};
use super::orders::Orders;
use super::thread::{self, Start};
use super::workspace_elements;
use crate::header::{Header, Kind};
use crate::trace::{CarriedOut, Stream};
use crate::{Audit, Call, Collective, CommError, Communicator, Failure, Pending, Progress};

/// How long the end of MPI is waited for: a rank that dies meanwhile, or a launcher that is about to end all of them,
/// lets it hang.
const FINALIZE_MAX: Duration = Duration::from_secs(30);

/// A communicator over MPI. MPI ends with the last one of the process, if nothing is under way and nothing has
/// failed.
pub struct Mpi {
    axis: Arc<str>,
    member: Member,
    process: Arc<Process>,
    audit: Audit,
    numbers: Numbers,
    stream: Stream<Cpu>,
}

/// What the communicators of a process share.
struct Process {
    handle: Handle,
    device: Cpu,
    progress: Progress,
    timeout: Duration,
    /// Names of [`Collective::ALL`], then of splits.
    kinds: Vec<Arc<str>>,
}

/// Numbers of the next calls. Messages are counted by peer and direction, so that both ends give the same
/// number to a call.
struct Numbers {
    collectives: u64,
    sends: Vec<u64>,
    recvs: Vec<u64>,
}

/// Reaches the communicators of a process from any of its threads. Does not keep them.
#[derive(Clone)]
pub struct Handle {
    orders: Arc<Orders>,
    checked: Arc<AtomicBool>,
}

impl Mpi {
    /// Starts MPI, in a thread of its own, and returns the communicator of all ranks, named "world".
    ///
    /// `device` computes reductions, with a share of its threads. The newest collective of any communicator is
    /// noted in `progress`. A collective in which nothing moves for `timeout` fails, and names the rank that it
    /// waits for.
    ///
    /// # Errors
    /// MPI cannot start: it can only once in a process.
    pub fn start(device: &Cpu, progress: Progress, timeout: Duration) -> Result<Mpi, CommError> {
        let handle = Handle { orders: Arc::default(), checked: Arc::new(AtomicBool::new(true)) };
        let orders = Arc::clone(&handle.orders);
        let start = Start { device: device.fork()?, progress: progress.clone(), timeout };
        let (started, answer) = sync_channel(1);
        let work = move || {
            let _goodbye = Goodbye(&orders);
            thread::run(&orders, &start, |member| drop(started.send(member)));
        };
        std::thread::Builder::new()
            .name("mpi".to_owned())
            .spawn(work)
            .map_err(|error| CommError::Kernel(format!("cannot start the thread that owns MPI: {error}")))?;
        let kinds = Collective::ALL.map(Kind::Collective).into_iter().chain([Kind::Split]);
        let kinds = kinds.map(|kind| kind.name().into()).collect();
        let member = handle.answer(&answer)?;
        let process = Arc::new(Process { handle, device: device.clone(), progress, timeout, kinds });
        Ok(Mpi::new("world", member, process))
    }

    fn new(axis: &str, member: Member, process: Arc<Process>) -> Self {
        let numbers = Numbers { collectives: 0, sends: vec![0; member.size], recvs: vec![0; member.size] };
        let axis: Arc<str> = axis.into();
        let stream = Stream::new(process.progress.trace(), Arc::clone(&axis), &process.device);
        Mpi { axis, member, process, audit: Audit::default(), numbers, stream }
    }

    /// Reaches every communicator of this process.
    pub fn handle(&self) -> Handle {
        self.process.handle.clone()
    }

    fn kind_name(&self, kind: Kind) -> &Arc<str> {
        let index = match kind {
            Kind::Collective(collective) => collective as usize,
            Kind::Split => Collective::ALL.len(),
        };
        &self.process.kinds[index]
    }

    /// Notes a call; returns the unit on whose behalf it is.
    fn begin(&self, kind: Kind, sequence: u64, payload_bytes: usize) -> Option<Arc<str>> {
        self.process.progress.begin_call(&self.axis, self.kind_name(kind), sequence, payload_bytes)
    }

    fn submit(&mut self, kind: Kind, sequence: u64, task: Task) -> Result<(), CommError> {
        let (axis, kind_name) = (Arc::clone(&self.axis), Arc::clone(self.kind_name(kind)));
        let header = match &task {
            Task::Move { call, block, .. } => Header::of_call(*call, block.len(), block.dtype()),
            Task::Barrier { .. } | Task::Split(_) => Header::without_data(kind),
        };
        let name = Name { axis, kind: kind_name, sequence };
        let handle = &self.process.handle;
        let checked = handle.checked.load(Ordering::Relaxed);
        handle.orders.submit(self.member.line, Job { name, header, checked, task })
    }
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

impl Communicator<Cpu> for Mpi {
    fn rank(&self) -> usize {
        self.member.rank
    }

    fn size(&self) -> usize {
        self.member.size
    }

    fn start(&mut self, call: Call, block: Block<Cpu>) -> Result<Pending<Cpu>, CommError> {
        let (len, dtype) = (block.len(), block.dtype());
        call.check(self.member.rank, self.member.size, len)?;
        let workspace = match workspace_elements(call, self.member.size, len) {
            0 => None,
            elements => Some(block.sibling(Class::Communication, dtype, elements)?),
        };
        let (kind, payload_bytes) = (call.kind(), call.payload_bytes(len, dtype));
        self.audit.count(kind, payload_bytes);
        let sequence = self.numbers.next(Some(call));
        let unit = self.begin(Kind::Collective(kind), sequence, payload_bytes);
        let span = self.stream.span(kind, sequence, payload_bytes, unit, CarriedOut::InTheBackground);
        let (mut completion, pending) = Pending::under_way(span);
        completion.begin(&self.process.device)?;
        let task = Task::Move { call, block, workspace, completion };
        self.submit(Kind::Collective(kind), sequence, task)?;
        Ok(pending)
    }

    fn barrier(&mut self) -> Result<(), CommError> {
        self.audit.count(Collective::Barrier, 0);
        let (reply, answer) = sync_channel(1);
        let kind = Kind::Collective(Collective::Barrier);
        let sequence = self.numbers.next(None);
        self.begin(kind, sequence, 0);
        self.submit(kind, sequence, Task::Barrier { reply })?;
        self.process.handle.answer(&answer)
    }

    /// Ranks that split several communicators do so in the same order.
    fn split(
        &mut self,
        axis: &str,
        color: usize,
        key: usize,
    ) -> Result<Box<dyn Communicator<Cpu>>, CommError> {
        let (reply, answer) = sync_channel(1);
        let split = Split { color, key, reply };
        let sequence = self.numbers.next(None);
        self.begin(Kind::Split, sequence, 0);
        self.submit(Kind::Split, sequence, Task::Split(split))?;
        let member = self.process.handle.answer(&answer)?;
        Ok(Box::new(Mpi::new(axis, member, Arc::clone(&self.process))))
    }

    fn audit(&self) -> Audit {
        self.audit
    }

    /// As [`Handle::abort`].
    fn abort(&mut self, failure: Failure) {
        self.process.handle.abort(failure);
    }
}

impl Handle {
    /// Ends every call of every communicator of this process, under way or to come, with this failure. Other
    /// ranks hear of it over the control plane, and do the same.
    pub fn abort(&self, failure: Failure) {
        self.orders.fail(failure);
    }

    /// Whether ranks tell each other what they call before they move anything: at first they do. Holds for calls
    /// that begin later. To be changed by all ranks at the same place of the schedule.
    pub fn set_checked(&self, checked: bool) {
        self.checked.store(checked, Ordering::Relaxed);
    }

    /// The answer of the thread that owns MPI.
    fn answer<T>(&self, answer: &Receiver<Result<T, CommError>>) -> Result<T, CommError> {
        answer.recv().unwrap_or_else(|_| {
            let gone = || CommError::Kernel("the thread that owns MPI has ended".to_owned());
            Err(self.orders.refusal().unwrap_or_else(gone))
        })
    }
}

impl Drop for Process {
    /// Ends the thread, and MPI with it if it can. Others may not come to their end: they are waited for, but
    /// not for ever.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.handle.orders.end();
        self.handle.orders.wait_until_ended(self.timeout.min(FINALIZE_MAX));
    }
}

/// Says that the thread has ended, however it does.
struct Goodbye<'a>(&'a Orders);

impl Drop for Goodbye<'_> {
    fn drop(&mut self) {
        self.0.ended();
    }
}
