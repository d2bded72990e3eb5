//! The calls of one communicator, from their start to their end.
//!
//! A call that is not checked goes to the line at once. One that is waits here until all ranks have started the same;
//! then a thread hands it over, which is there as long as calls wait. A send waits in any case, for its own `wait` or
//! for the next receive.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tisserand_kernels::{Block, Device};

use super::check::Check;
use super::fabric::{Job, Line, UnderWay};
use crate::pending::Queued;
use crate::{CommError, ControlPlane};

/// See the module.
pub(super) struct Calls<D: Device> {
    line: Box<dyn Line<D>>,
    compute: D,
    control: Arc<dyn ControlPlane>,
    timeout: Duration,
    queue: Mutex<Queue<D>>,
    /// The queue has become shorter.
    changed: Condvar,
    /// Whose turn it is to begin something on the line.
    turn: Mutex<()>,
}

/// Calls that are not handed over.
struct Queue<D: Device> {
    waiting: VecDeque<Arc<Slot<D>>>,
    /// Whether a thread hands them over.
    is_served: bool,
    sends: VecDeque<Arc<Slot<D>>>,
    /// Why no call of this communicator succeeds any more.
    error: Option<CommError>,
}

/// A call, wherever it is.
pub(super) struct Slot<D: Device> {
    role: Role,
    state: Mutex<State<D>>,
    /// It has been handed over, or has failed.
    changed: Condvar,
}

/// What kind of call it is to those before and behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Collective,
    Send { to: usize },
    Recv,
}

enum State<D: Device> {
    Waiting(Box<Waiting<D>>),
    UnderWay(Box<dyn UnderWay<D>>),
    Failed(CommError),
    Taken,
}

/// A call that is not handed over.
pub(super) struct Waiting<D: Device> {
    pub(super) job: Job<D>,
    /// What to compare first.
    pub(super) check: Option<Check>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Device> Slot<D> {
    pub(super) fn new(role: Role, waiting: Waiting<D>) -> Arc<Self> {
        let state = Mutex::new(State::Waiting(Box::new(waiting)));
        Arc::new(Slot { role, state, changed: Condvar::new() })
    }

    fn is_checked(&self) -> bool {
        matches!(&*lock(&self.state), State::Waiting(waiting) if waiting.check.is_some())
    }

    fn receiver(&self) -> Option<usize> {
        match self.role {
            Role::Send { to } => Some(to),
            Role::Collective | Role::Recv => None,
        }
    }

    fn take(&self) -> State<D> {
        std::mem::replace(&mut *lock(&self.state), State::Taken)
    }

    fn put(&self, state: State<D>) {
        *lock(&self.state) = state;
        self.changed.notify_all();
    }

    /// Parks until it has been handed over, or has failed.
    fn await_hand_over(&self) -> State<D> {
        let is_on_its_way = |state: &mut State<D>| matches!(state, State::Waiting(_) | State::Taken);
        let state = self.changed.wait_while(lock(&self.state), is_on_its_way);
        std::mem::replace(&mut *state.unwrap_or_else(PoisonError::into_inner), State::Taken)
    }
}

impl<D: Device> Calls<D> {
    /// On a line; `compute` is the rank's handle.
    pub(super) fn new(
        line: Box<dyn Line<D>>,
        compute: D,
        control: Arc<dyn ControlPlane>,
        timeout: Duration,
    ) -> Self {
        let queue = Queue { waiting: VecDeque::new(), is_served: false, sends: VecDeque::new(), error: None };
        let (queue, changed) = (Mutex::new(queue), Condvar::new());
        Calls { line, compute, control, timeout, queue, changed, turn: Mutex::default() }
    }

    /// Takes a call; hands it over if nothing is in the way.
    ///
    /// # Errors
    /// The communicator has ended; the system refuses a thread.
    pub(super) fn submit(self: &Arc<Self>, slot: &Arc<Slot<D>>) -> Result<(), CommError> {
        let mut queue = lock(&self.queue);
        if let Some(error) = &queue.error {
            return Err(error.clone());
        }
        if matches!(slot.role, Role::Send { .. }) {
            queue.sends.push_back(Arc::clone(slot));
        } else if queue.is_served {
            queue.waiting.push_back(Arc::clone(slot));
        } else if slot.is_checked() {
            queue.waiting.push_back(Arc::clone(slot));
            queue.is_served = true;
            drop(queue);
            self.serve()?;
        } else {
            drop(queue);
            self.hand_over(slot);
        }
        Ok(())
    }

    /// Starts the thread that hands over what waits.
    fn serve(self: &Arc<Self>) -> Result<(), CommError> {
        let calls = Arc::clone(self);
        let serve = move || {
            while let Some(slot) = calls.next() {
                calls.hand_over(&slot);
            }
        };
        let thread = std::thread::Builder::new().name("nccl-checks".to_owned()).spawn(serve);
        thread.map(drop).map_err(|error| {
            let error = CommError::Kernel(format!("cannot start the thread that checks calls: {error}"));
            let mut queue = lock(&self.queue);
            queue.is_served = false;
            queue.waiting.clear();
            queue.error.get_or_insert(error).clone()
        })
    }

    fn next(&self) -> Option<Arc<Slot<D>>> {
        let mut queue = lock(&self.queue);
        let next = queue.waiting.pop_front();
        queue.is_served = next.is_some();
        self.changed.notify_all();
        next
    }

    /// Returns when every call but sends has been handed over.
    pub(super) fn flush(&self) {
        let served = self.changed.wait_while(lock(&self.queue), |queue| queue.is_served);
        drop(served);
    }

    fn hand_over(&self, slot: &Arc<Slot<D>>) {
        let mut slots = vec![Arc::clone(slot)];
        if slot.role == Role::Recv {
            // The sender of what is received may itself wait for what this rank sends.
            let queue = &mut *lock(&self.queue);
            let mut receivers: Vec<usize> = queue.sends.iter().filter_map(|send| send.receiver()).collect();
            receivers.sort_unstable();
            receivers.dedup();
            slots.extend(receivers.into_iter().filter_map(|to| pop_send(&mut queue.sends, to)));
        }
        if let Err(error) = self.begin(&slots) {
            let error = lock(&self.queue).error.get_or_insert(error).clone();
            slots.iter().for_each(|slot| slot.put(State::Failed(error.clone())));
        }
    }

    fn begin(&self, slots: &[Arc<Slot<D>>]) -> Result<(), CommError> {
        let mut jobs = Vec::with_capacity(slots.len());
        for slot in slots {
            let State::Waiting(waiting) = slot.take() else { unreachable!("it stood in the queue") };
            let Waiting { job, check } = *waiting;
            jobs.push(job);
            if let Some(check) = check {
                check.run(&*self.control, self.timeout)?;
            }
        }
        let turn = lock(&self.turn);
        if let Some(error) = lock(&self.queue).error.clone() {
            return Err(error);
        }
        let begun = self.line.begin(&self.compute, jobs)?;
        drop(turn);
        begun.into_iter().zip(slots).for_each(|(job, slot)| slot.put(State::UnderWay(job)));
        Ok(())
    }

    /// Hands over sends, up to this one; not if others do.
    fn reach(&self, slot: &Arc<Slot<D>>) {
        let Some(to) = slot.receiver() else { return };
        loop {
            let mut queue = lock(&self.queue);
            if !queue.sends.iter().any(|send| Arc::ptr_eq(send, slot)) {
                return;
            }
            // Messages to one rank stay in order.
            let next = pop_send(&mut queue.sends, to).expect("the one that was just seen is behind it");
            drop(queue);
            self.hand_over(&next);
        }
    }

    pub(super) fn look_after(&self) -> Option<String> {
        self.line.look_after()
    }

    pub(super) fn abort(&self) {
        self.line.abort();
    }
}

fn pop_send<D: Device>(sends: &mut VecDeque<Arc<Slot<D>>>, to: usize) -> Option<Arc<Slot<D>>> {
    let oldest = sends.iter().position(|send| send.receiver() == Some(to))?;
    sends.remove(oldest)
}

/// Whoever waits for a call.
pub(super) struct Waiter<D: Device> {
    pub(super) calls: Arc<Calls<D>>,
    pub(super) slot: Arc<Slot<D>>,
}

impl<D: Device> Queued<D> for Waiter<D> {
    fn wait(self: Box<Self>) -> Result<Block<D>, CommError> {
        self.calls.reach(&self.slot);
        match self.slot.await_hand_over() {
            State::UnderWay(job) => {
                let buffers = job.join()?;
                // The workspace goes back to the arena now that the compute stream stands behind the call.
                drop(buffers.workspace);
                Ok(buffers.block)
            }
            State::Failed(error) => Err(error),
            State::Waiting(_) | State::Taken => unreachable!("it was handed over"),
        }
    }

    fn is_done(&self) -> bool {
        match &*lock(&self.slot.state) {
            State::UnderWay(job) => job.is_done(),
            State::Failed(_) => true,
            State::Waiting(_) | State::Taken => false,
        }
    }
}
