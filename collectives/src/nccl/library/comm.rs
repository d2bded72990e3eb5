//! One NCCL communicator. The thread of the rank's order starts it, makes its calls and ends it; another asks how it
//! is, and another may abort it. NCCL wants such uses one after the other, and none before the call that was begun last
//! has returned, in the background too ("Thread Safety" in its manual).

use std::ffi::c_int;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Library;
use super::config::Config;
use super::operation::{Operation, Typed};
use super::table::{IN_PROGRESS, RawComm, RawStream, SUCCESS, UniqueId};
use crate::nccl::fabric::Place;
use crate::{CommError, Failure};

/// NCCL is asked so often at once whether it is done; a launch takes some ten microseconds.
const QUESTIONS: u32 = 200;

/// … and then after naps, since what takes longer mostly waits for other ranks.
const NAP: Duration = Duration::from_micros(50);

/// How long the end of a communicator is waited for.
const FINALIZE_MAX: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Comm {
    library: Library,
    place: Place,
    /// None once it has ended. The lock is never held while NCCL works, only while it is told what to do: no call of
    /// a communicator that does not block takes long.
    raw: Mutex<Option<Raw>>,
}

struct Raw(RawComm);

// SAFETY: a communicator is no thread's own: NCCL asks that its calls do not overlap, which the lock around it grants.
unsafe impl Send for Raw {}

impl Comm {
    /// This rank's end of the communicator with this id, once all ranks are there. It is of the GPU whose context is
    /// the calling thread's.
    ///
    /// # Errors
    /// NCCL's own, or that not all have come in time.
    pub(super) fn init(library: &Library, place: Place, id: &[u8]) -> Result<Self, CommError> {
        let id: [u8; 128] = id.try_into().map_err(|_| {
            let len = id.len();
            CommError::Mismatch(format!("{}: an id of {len} bytes, NCCL's have 128", place.axis))
        })?;
        let int = |rank: usize| c_int::try_from(rank).expect("ranks fit NCCL's int");
        let (size, rank) = (int(place.size), int(place.rank));
        let mut raw = std::ptr::null_mut();
        let mut config = Config::non_blocking();
        // SAFETY: NCCL writes one handle; the configuration has the layout of its version, as its size says, and is
        // copied before the call returns.
        let code =
            unsafe { (library.table.comm_init_rank_config)(&mut raw, size, UniqueId(id), rank, &mut config) };
        let raw = Mutex::new(if raw.is_null() { None } else { Some(Raw(raw)) });
        // From here on dropping it aborts it.
        let comm = Comm { library: library.clone(), place, raw };
        comm.settle("ncclCommInitRankConfig", code)?;
        Ok(comm)
    }

    fn raw(&self) -> MutexGuard<'_, Option<Raw>> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues operations on a stream as one group, and returns when they stand there.
    ///
    /// # Errors
    /// NCCL's own; the communicator was aborted.
    ///
    /// # Safety
    /// The stream is of the communicator's GPU and alive. Every address of the operations leads to as many elements as
    /// they say, of their type, in memory of that GPU that nobody else writes, or reads where it is received, until the
    /// stream has passed the group.
    pub(super) unsafe fn carry_out(&self, operations: &[Typed], stream: RawStream) -> Result<(), CommError> {
        if operations.is_empty() {
            return Ok(());
        }
        let table = &self.library.table;
        let guard = self.raw();
        let Some(Raw(comm)) = *guard else { return Err(self.gone()) };
        // Whoever aborts notes the reason first, and may not have come to this communicator yet.
        if let Some(error) = self.place.ended.error() {
            return Err(error);
        }
        // SAFETY: takes no argument. The group is this thread's.
        self.check("ncclGroupStart", unsafe { (table.group_start)() })?;
        // SAFETY: the communicator is alive, as it stands under the lock; the rest is the caller's promise.
        let queued =
            operations.iter().try_for_each(|operation| unsafe { self.queue(operation, comm, stream) });
        // SAFETY: ends the group that this thread has begun, in any case.
        let code = unsafe { (table.group_end)() };
        drop(guard);
        queued?;
        self.settle("ncclGroupEnd", code)
    }

    /// Adds an operation to the group.
    ///
    /// # Safety
    /// As [`Comm::carry_out`]; `comm` is this communicator, alive.
    unsafe fn queue(&self, typed: &Typed, comm: RawComm, stream: RawStream) -> Result<(), CommError> {
        let Typed { operation, type_code: dtype } = *typed;
        let table = &self.library.table;
        let from = |address: u64| address as *const std::ffi::c_void;
        let to = |address: u64| address as *mut std::ffi::c_void;
        // SAFETY: addresses, lengths, communicator and stream are as the caller promises. NCCL allows that a send and a
        // receive buffer are one where `operation` makes them so ("In-place operations" in its manual).
        let (name, code) = unsafe {
            match operation {
                Operation::AllReduce { at, len, op } => {
                    ("ncclAllReduce", (table.all_reduce)(from(at), to(at), len, dtype, op, comm, stream))
                }
                Operation::ReduceScatter { from: a, to: b, len, op } => (
                    "ncclReduceScatter",
                    (table.reduce_scatter)(from(a), to(b), len, dtype, op, comm, stream),
                ),
                Operation::AllGather { from: a, to: b, len } => {
                    ("ncclAllGather", (table.all_gather)(from(a), to(b), len, dtype, comm, stream))
                }
                Operation::Broadcast { at, len, root } => {
                    ("ncclBroadcast", (table.broadcast)(from(at), to(at), len, dtype, root, comm, stream))
                }
                Operation::Send { at, len, peer } => {
                    ("ncclSend", (table.send)(from(at), len, dtype, peer, comm, stream))
                }
                Operation::Recv { at, len, peer } => {
                    ("ncclRecv", (table.recv)(to(at), len, dtype, peer, comm, stream))
                }
            }
        };
        self.check(name, code)
    }

    /// The error of a call that was refused.
    fn check(&self, call: &str, code: c_int) -> Result<(), CommError> {
        if matches!(code, SUCCESS | IN_PROGRESS) { Ok(()) } else { Err(self.error(call, code)) }
    }

    fn error(&self, call: &str, code: c_int) -> CommError {
        self.place.ended.await_error().unwrap_or_else(|| {
            let axis = &self.place.axis;
            CommError::Kernel(format!("{axis}: {call} failed: {}", self.library.table.explain(code, None)))
        })
    }

    fn gone(&self) -> CommError {
        let aborted = || Failure::fault(self.place.rank, format!("{} was aborted", self.place.axis));
        self.place.ended.error().unwrap_or_else(|| aborted().into())
    }

    /// Waits until NCCL has done what a call has begun, and its thread that did it has ended.
    ///
    /// From 2.19 to 2.25 the state alone does not say the latter. That thread is then joined by the next call that
    /// needs this communicator, and until it is, what NCCL knows of the group lies in the calling thread, where the
    /// group of another communicator would find it (ncclGroupJobComplete in its sources). So one is made that does
    /// nothing else.
    fn settle(&self, call: &str, code: c_int) -> Result<(), CommError> {
        self.settle_within(call, code, self.place.timeout)?;
        let guard = self.raw();
        let Some(Raw(comm)) = *guard else { return Err(self.gone()) };
        let mut rank = 0;
        // SAFETY: the communicator is alive, as it stands under the lock; NCCL writes one integer.
        let code = unsafe { (self.library.table.comm_user_rank)(comm, &mut rank) };
        self.check("ncclCommUserRank", code)
    }

    fn settle_within(&self, call: &str, mut code: c_int, timeout: Duration) -> Result<(), CommError> {
        self.check(call, code)?;
        let since = Instant::now();
        let mut questions = 0_u32;
        while code == IN_PROGRESS {
            if let Some(error) = self.place.ended.error() {
                return Err(error);
            }
            if since.elapsed() > timeout {
                let (axis, seconds) = (&self.place.axis, timeout.as_secs_f64());
                return Err(CommError::Kernel(format!(
                    "{axis}: {call} has not ended within {seconds:.0} s (run.collective_timeout_s)"
                )));
            }
            questions += 1;
            if questions < QUESTIONS {
                std::thread::yield_now()
            } else {
                std::thread::sleep(NAP)
            }
            code = self.state()?.ok_or_else(|| self.gone())?;
        }
        self.check(call, code)
    }

    /// Success, in progress, or what has gone wrong; `None` if it has ended.
    fn state(&self) -> Result<Option<c_int>, CommError> {
        let guard = self.raw();
        let Some(Raw(comm)) = *guard else { return Ok(None) };
        let mut state = SUCCESS;
        // SAFETY: the communicator is alive, as it stands under the lock; NCCL writes one integer.
        let code = unsafe { (self.library.table.comm_get_async_error)(comm, &mut state) };
        self.check("ncclCommGetAsyncError", code)?;
        Ok(Some(state))
    }

    /// What has gone wrong in the background, if anything.
    pub(super) fn fault(&self) -> Option<String> {
        let error = match self.state() {
            Ok(None | Some(SUCCESS | IN_PROGRESS)) => return None,
            Ok(Some(code)) => self.error("a call", code),
            Err(error) => error,
        };
        Some(error.to_string())
    }

    /// Ends it, with all that it has under way.
    pub(super) fn abort(&self) {
        // The lock is free again before NCCL begins, which takes its time.
        let taken = self.raw().take();
        if let Some(Raw(comm)) = taken {
            // SAFETY: the communicator was alive and is nobody's any more: no call follows. NCCL tells its kernels to
            // end and frees it when they have. There is nobody to tell of an error.
            let _ = unsafe { (self.library.table.comm_abort)(comm) };
        }
    }

    /// Ends it, in good order if every rank does so; what has failed is aborted.
    pub(super) fn end(&self) {
        if self.place.ended.error().is_some() || self.finalize().is_err() {
            return self.abort();
        }
        let taken = self.raw().take();
        if let Some(Raw(comm)) = taken {
            // SAFETY: finalised, and nobody's any more. There is nobody to tell of an error.
            let _ = unsafe { (self.library.table.comm_destroy)(comm) };
        }
    }

    fn finalize(&self) -> Result<(), CommError> {
        let guard = self.raw();
        let Some(Raw(comm)) = *guard else { return Ok(()) };
        // SAFETY: the communicator is alive, as it stands under the lock, and its last call has settled.
        let code = unsafe { (self.library.table.comm_finalize)(comm) };
        drop(guard);
        self.settle_within("ncclCommFinalize", code, self.place.timeout.min(FINALIZE_MAX))
    }
}

impl Drop for Comm {
    /// Nothing is left to do if it has ended.
    fn drop(&mut self) {
        self.abort();
    }
}
