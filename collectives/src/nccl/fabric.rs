//! What a communicator needs of whatever moves its bytes: NCCL, or, in tests, threads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tisserand_kernels::ops::elementwise;
use tisserand_kernels::{Block, Device, KernelError, Storage, TensorRef};

use super::plan::Phase;
use crate::messages::{After, slice, slot};
use crate::trace::Span;
use crate::{CommError, Failure, Progress};

/// How long the news of a dead rank may take.
const ECHO: Duration = Duration::from_secs(3);

/// Makes lines between ranks. All but ids is asked for by one thread, that of the rank's
/// [`Order`](super::order::Order).
pub(super) trait Fabric<D: Storage>: Send + Sync {
    /// What the ranks of a line find each other by. One of them asks for it and tells the others.
    fn new_id(&self) -> Result<Vec<u8>, CommError>;

    /// This rank's end of a line of at least two ranks, once all of them are there.
    fn connect(&self, place: Place, id: &[u8]) -> Result<Arc<dyn Line<D>>, CommError>;
}

/// Where an end of a line belongs.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) axis: Arc<str>,
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) ended: Arc<Ended>,
    pub(super) timeout: Duration,
    /// Where the ends of jobs are noted.
    pub(super) progress: Progress,
}

/// One rank's end of a line. Jobs run in the order in which they are begun, behind what the rank computes.
pub(super) trait Line<D: Storage>: Send + Sync {
    /// By the thread of the order. Begins jobs behind what `compute`, the rank's handle, had queued when each was made.
    /// Several move their messages at once; they have one phase each. Returns as soon as they stand in the line's
    /// stream. An error ends the line.
    fn begin(&self, compute: &D, jobs: Vec<Job<D>>) -> Result<Vec<Box<dyn UnderWay<D>>>, CommError>;

    /// By the thread of the order. Ends the line when what is under way is done; all ranks do so, or none.
    fn end(&self);

    /// By any thread. What has gone wrong with jobs under way, if anything; notes those that have ended.
    fn look_after(&self) -> Option<String>;

    /// By any thread. Ends what is under way, soon.
    fn abort(&self);
}

/// A job that has begun. Dropping it keeps the memory safe as `join` does.
pub(super) trait UnderWay<D: Storage>: Send {
    /// Lets the rank's compute stream go on behind the job, and gives its memory back to it.
    fn join(self: Box<Self>) -> Result<Buffers<D>, CommError>;

    /// Whether `join` returns at once.
    fn is_done(&self) -> bool;
}

/// A call as a line carries it out.
pub(super) struct Job<D: Storage> {
    pub(super) name: Name,
    pub(super) phases: Vec<Phase>,
    pub(super) buffers: Buffers<D>,
    /// The place of the call in what the rank computes.
    pub(super) ready: D::Event,
    pub(super) span: Span<D>,
}

/// The memory of a job.
pub(super) struct Buffers<D: Storage> {
    pub(super) block: Block<D>,
    pub(super) workspace: Option<Block<D>>,
}

/// A call's place in the calls of its communicator.
#[derive(Clone)]
pub(super) struct Name {
    pub(super) axis: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) sequence: u64,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} #{}", self.axis, self.kind, self.sequence)
    }
}

/// The end of the newest job of all lines of a rank, behind which the next one begins.
///
/// That jobs are handed over in one order is not enough on a GPU: a later one whose stream is free first may take the
/// room that an earlier one needs, and wait for a rank where it is the other way round ("Using multiple NCCL
/// communicators concurrently" in NCCL's manual).
pub(super) struct Newest<D: Storage>(Mutex<Option<D::Event>>);

impl<D: Storage> Default for Newest<D> {
    fn default() -> Self {
        Newest(Mutex::default())
    }
}

impl<D: Storage> Newest<D> {
    /// What is queued on `device` from now on begins behind it. By the thread of the order, as all that follows.
    pub(super) fn pass(&self, device: &D) -> Result<(), KernelError> {
        self.event().as_ref().map_or(Ok(()), |event| device.wait(event))
    }

    /// A job has been queued that ends there.
    pub(super) fn set(&self, done: D::Event) {
        *self.event() = Some(done);
    }

    fn event(&self) -> MutexGuard<'_, Option<D::Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why no call of this rank succeeds any more, once there is a reason.
#[derive(Default)]
pub(super) struct Ended(Mutex<Option<CommError>>);

impl Ended {
    /// The reason.
    pub(super) fn error(&self) -> Option<CommError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The reason, if there is one or comes soon: an error of one rank is mostly the echo of another that has died,
    /// whom the control plane knows by name.
    pub(super) fn await_error(&self) -> Option<CommError> {
        let since = Instant::now();
        while self.error().is_none() && since.elapsed() < ECHO {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.error()
    }

    /// The first reason counts.
    pub(super) fn set(&self, failure: Failure) {
        let mut error = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        error.get_or_insert(CommError::Failed(failure));
    }
}

/// What follows a transfer, queued on `device`.
pub(super) fn follow<D: Device>(
    device: &D,
    after: &After,
    (rank, size): (usize, usize),
    buffers: &mut Buffers<D>,
) -> Result<(), CommError> {
    let Buffers { block, workspace } = buffers;
    match after {
        After::Nothing => {}
        After::Copy { from, .. } if from.is_empty() => {}
        After::Copy { from, to } => {
            let mut behind = block.split_off(to.start);
            let copied =
                device.copy(block.range(from.start, [from.len()]), behind.range_mut(0, [from.len()]));
            block.append(behind);
            copied?;
        }
        After::Combine(op) => {
            let own = slice(block.len(), size, rank);
            let len = block.len();
            let workspace = workspace.as_ref().expect("what is combined was received into workspace");
            let others: Vec<TensorRef<'_, D>> = (0..size)
                .filter(|peer| *peer != rank)
                .map(|peer| workspace.range(slot(len, size, rank, peer).start, [own.len()]))
                .collect();
            let (before, after) = others.split_at(rank);
            elementwise::combine(device, *op, before, block.range_mut(own.start, [own.len()]), after)?;
        }
    }
    Ok(())
}
