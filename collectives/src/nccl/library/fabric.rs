//! Lines over NCCL: a communicator and a stream each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tisserand_kernels::cuda::driver::RawDriver;
use tisserand_kernels::{Cuda, Storage};

use super::Library;
use super::comm::Comm;
use super::operation::{Addresses, Typed, operations, type_code};
use crate::nccl::communicator::note_end;
use crate::nccl::fabric::{Buffers, Ended, Fabric, Job, Line, Name, Newest, Place, UnderWay, follow};
use crate::{CommError, Progress};

/// See [`Fabric`].
pub(crate) struct NcclFabric<Dr: RawDriver> {
    library: Library,
    device: Cuda<Dr>,
    /// Where NCCL does not see to the order on the GPU itself.
    newest: Option<Arc<Newest<Cuda<Dr>>>>,
}

impl<Dr: RawDriver> NcclFabric<Dr> {
    pub(crate) fn new(library: Library, device: &Cuda<Dr>) -> Self {
        let newest = (!library.keeps_order()).then(Arc::default);
        NcclFabric { library, device: device.clone(), newest }
    }
}

impl<Dr: RawDriver> Fabric<Cuda<Dr>> for NcclFabric<Dr> {
    fn new_id(&self) -> Result<Vec<u8>, CommError> {
        Ok(self.library.new_id()?.to_vec())
    }

    fn connect(&self, place: Place, id: &[u8]) -> Result<Arc<dyn Line<Cuda<Dr>>>, CommError> {
        let device = self.device.fork()?;
        // Makes the GPU the calling thread's.
        device.raw_stream()?;
        Ok(Arc::new(NcclLine {
            place: (place.rank, place.size),
            timeout: place.timeout,
            progress: place.progress.clone(),
            ended: Arc::clone(&place.ended),
            comm: Comm::init(&self.library, place, id)?,
            device,
            newest: self.newest.clone(),
            flights: Mutex::default(),
        }))
    }
}

struct NcclLine<Dr: RawDriver> {
    /// Goes before its stream.
    comm: Comm,
    device: Cuda<Dr>,
    newest: Option<Arc<Newest<Cuda<Dr>>>>,
    place: (usize, usize),
    timeout: Duration,
    progress: Progress,
    ended: Arc<Ended>,
    /// Jobs whose end is not seen yet, in their order.
    flights: Mutex<VecDeque<Flight<Dr>>>,
}

/// A job in the stream.
struct Flight<Dr: RawDriver> {
    name: Name,
    ready: Dr::Event,
    done: Dr::Event,
    /// When it was first seen that nothing but other ranks is in its way.
    since: Option<Instant>,
}

impl<Dr: RawDriver> NcclLine<Dr> {
    fn flights(&self) -> MutexGuard<'_, VecDeque<Flight<Dr>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues jobs; returns the point behind them.
    fn queue(&self, jobs: &mut [Job<Cuda<Dr>>]) -> Result<Dr::Event, CommError> {
        if let Some(newest) = &self.newest {
            newest.pass(&self.device)?;
        }
        jobs.iter().try_for_each(|job| self.device.wait(&job.ready))?;
        let begun: Vec<_> = jobs.iter().map(|job| job.span.begin(&self.device)).collect::<Result<_, _>>()?;
        let phases = jobs.iter().map(|job| job.phases.len()).max().unwrap_or(0);
        assert!(jobs.len() == 1 || phases <= 1, "only messages go together");
        for phase in 0..phases {
            self.transfer(phase, jobs)?;
            for Job { phases, buffers, .. } in jobs.iter_mut() {
                if let Some(phase) = phases.get(phase) {
                    follow(&self.device, &phase.after, self.place, buffers)?;
                }
            }
        }
        jobs.iter().zip(begun).try_for_each(|(job, begun)| job.span.end(&self.device, begun))?;
        let done = self.device.event()?;
        if let Some(newest) = &self.newest {
            newest.set(done.clone());
        }
        Ok(done)
    }

    fn transfer(&self, phase: usize, jobs: &mut [Job<Cuda<Dr>>]) -> Result<(), CommError> {
        let mut group = Vec::new();
        for Job { phases, buffers, .. } in jobs.iter_mut() {
            let Some(phase) = phases.get(phase) else { continue };
            let addresses = self.addresses(buffers)?;
            let type_code = type_code(addresses.dtype);
            let operations = operations(&phase.transfer, self.place, addresses);
            group.extend(operations.into_iter().map(|operation| Typed { operation, type_code }));
        }
        // All in one group, whatever their types: of two groups the first would wait for messages that the other end
        // sends in its second.
        let stream = self.device.raw_stream()?;
        // SAFETY: the stream is that of `self.device`, which outlives the communicator, and of its GPU. Every address
        // is inside of the blocks of a job: `addresses` has asked for all of each block, and the plan of a call stays
        // within the length that it was made with, that of the same block, whose type stands beside it. The blocks
        // belong to `jobs`: from the point `ready`, for which the stream waits, until the compute stream waits for the
        // point behind the job (`Ticket`), nobody else reaches them, since blocks have one owner.
        unsafe { self.comm.carry_out(&group, stream) }
    }

    fn addresses(&self, buffers: &mut Buffers<Cuda<Dr>>) -> Result<Addresses, CommError> {
        let (len, dtype) = (buffers.block.len(), buffers.block.dtype());
        let block = self.device.raw_address(buffers.block.view_mut([len]))?;
        let workspace = match &mut buffers.workspace {
            Some(workspace) => {
                let len = workspace.len();
                self.device.raw_address(workspace.view_mut([len]))?
            }
            None => 0,
        };
        Ok(Addresses { block, workspace, len, dtype })
    }
}

impl<Dr: RawDriver> Line<Cuda<Dr>> for NcclLine<Dr> {
    fn begin(
        &self,
        compute: &Cuda<Dr>,
        mut jobs: Vec<Job<Cuda<Dr>>>,
    ) -> Result<Vec<Box<dyn UnderWay<Cuda<Dr>>>>, CommError> {
        let done = match self.queue(&mut jobs) {
            Ok(done) => done,
            Err(error) => {
                // Part of them may stand in the stream, which nobody can wait for any more: their memory is given up.
                // The run is about to end.
                jobs.into_iter().for_each(|job| std::mem::forget(job.buffers));
                return Err(error);
            }
        };
        let mut tickets: Vec<Box<dyn UnderWay<Cuda<Dr>>>> = Vec::with_capacity(jobs.len());
        for Job { name, buffers, ready, .. } in jobs {
            let (compute, ended) = (compute.clone(), Arc::clone(&self.ended));
            tickets.push(Box::new(Ticket { buffers: Some(buffers), compute, done: done.clone(), ended }));
            self.flights().push_back(Flight { name, ready, done: done.clone(), since: None });
        }
        Ok(tickets)
    }

    fn end(&self) {
        self.comm.end();
    }

    fn look_after(&self) -> Option<String> {
        if let Some(fault) = self.comm.fault() {
            return Some(fault);
        }
        let mut flights = self.flights();
        while let Some(flight) = flights.front_mut() {
            match self.device.is_reached(&flight.done) {
                Ok(true) => {}
                Ok(false) => return flight.overdue(&self.device, self.timeout),
                Err(error) => return Some(format!("{}: {error}", flight.name)),
            }
            let Flight { name, .. } = flights.pop_front()?;
            note_end(&self.progress, &name);
        }
        None
    }

    fn abort(&self) {
        // Whoever aborts may be a thread without a GPU. When NCCL is done it gives the thread the one that it had
        // before, which would be, and so start, the first of the machine.
        let _ours = self.device.raw_stream();
        self.comm.abort();
    }
}

impl<Dr: RawDriver> Flight<Dr> {
    /// Whether it has been the turn of this job for too long.
    fn overdue(&mut self, device: &Cuda<Dr>, timeout: Duration) -> Option<String> {
        // Asked until the first yes alone: the event is used again later, for points that may lie behind this job, and
        // would then say for ever that the job's turn has not come.
        if self.since.is_none() && !device.is_reached(&self.ready).unwrap_or(true) {
            return None;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let (name, seconds) = (&self.name, timeout.as_secs_f64());
        let cause = || {
            format!(
                "{name} has not ended within {seconds:.0} s (run.collective_timeout_s): another rank is late, or the \
                 network hangs"
            )
        };
        (since.elapsed() > timeout).then(cause)
    }
}

/// See [`UnderWay`].
struct Ticket<Dr: RawDriver> {
    buffers: Option<Buffers<Cuda<Dr>>>,
    compute: Cuda<Dr>,
    done: Dr::Event,
    ended: Arc<Ended>,
}

impl<Dr: RawDriver> UnderWay<Cuda<Dr>> for Ticket<Dr> {
    fn join(mut self: Box<Self>) -> Result<Buffers<Cuda<Dr>>, CommError> {
        if let Some(error) = self.ended.error() {
            return Err(error);
        }
        self.compute.wait(&self.done)?;
        Ok(self.buffers.take().expect("a job is joined once"))
    }

    /// The stream waits, not the host.
    fn is_done(&self) -> bool {
        true
    }
}

impl<Dr: RawDriver> Drop for Ticket<Dr> {
    /// Blocks that were not joined go back behind the job, too; if that cannot be, they are given up.
    fn drop(&mut self) {
        if let Some(buffers) = self.buffers.take()
            && self.compute.wait(&self.done).is_err()
        {
            std::mem::forget(buffers);
        }
    }
}
