//! The calls of one communicator, from their start to their end.
//!
//! A call takes its place in the rank's [`Order`], whose thread hands it to the line, where it is checked once all
//! ranks have started the same. A send waits before that, for its own `wait` or for the next receive.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tisserand_kernels::{Block, Device};

use super::check::Check;
use super::fabric::{Job, Line, UnderWay};
use super::order::{Order, died};
use crate::pending::Queued;
use crate::{CommError, ControlPlane};

/// See the module.
pub(super) struct Calls<D: Device> {
    line: Arc<dyn Line<D>>,
    compute: D,
    control: Arc<dyn ControlPlane>,
    timeout: Duration,
    order: Arc<Order>,
    queue: Mutex<Queue<D>>,
}

/// Calls that have no place in the order yet.
struct Queue<D: Device> {
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

/// Calls that go together, and their place in the order.
struct Turn<D: Device> {
    calls: Arc<Calls<D>>,
    slots: Vec<Arc<Slot<D>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Device> Slot<D> {
    pub(super) fn new(role: Role, waiting: Waiting<D>) -> Arc<Self> {
        let state = Mutex::new(State::Waiting(Box::new(waiting)));
        Arc::new(Slot { role, state, changed: Condvar::new() })
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
        line: Arc<dyn Line<D>>,
        compute: D,
        control: Arc<dyn ControlPlane>,
        timeout: Duration,
        order: Arc<Order>,
    ) -> Self {
        let queue = Mutex::new(Queue { sends: VecDeque::new(), error: None });
        Calls { line, compute, control, timeout, order, queue }
    }

    /// Takes a call; gives it its place in the order, unless it is a send.
    ///
    /// # Errors
    /// The communicator has ended.
    pub(super) fn submit(self: &Arc<Self>, slot: &Arc<Slot<D>>) -> Result<(), CommError> {
        let mut queue = lock(&self.queue);
        if let Some(error) = &queue.error {
            return Err(error.clone());
        }
        let mut slots = vec![Arc::clone(slot)];
        match slot.role {
            Role::Send { .. } => {
                queue.sends.push_back(Arc::clone(slot));
                return Ok(());
            }
            // The sender of what is received may itself wait for what this rank sends.
            Role::Recv => slots.extend(oldest_sends(&mut queue.sends)),
            Role::Collective => {}
        }
        drop(queue);
        self.queue_up(slots);
        Ok(())
    }

    fn queue_up(self: &Arc<Self>, slots: Vec<Arc<Slot<D>>>) {
        let turn = Turn { calls: Arc::clone(self), slots };
        self.order.push(move || turn.hand_over());
    }

    fn begin(&self, slots: &[Arc<Slot<D>>]) -> Result<(), CommError> {
        if let Some(error) = lock(&self.queue).error.clone() {
            return Err(error);
        }
        let mut jobs = Vec::with_capacity(slots.len());
        for slot in slots {
            let State::Waiting(waiting) = slot.take() else { unreachable!("it stood in the queue") };
            let Waiting { job, check } = *waiting;
            jobs.push(job);
            if let Some(check) = check {
                check.run(&*self.control, self.timeout)?;
            }
        }
        let begun = self.line.begin(&self.compute, jobs)?;
        begun.into_iter().zip(slots).for_each(|(job, slot)| slot.put(State::UnderWay(job)));
        Ok(())
    }

    /// Gives sends up to this one their places; not if others have.
    fn reach(self: &Arc<Self>, slot: &Arc<Slot<D>>) {
        let Some(to) = slot.receiver() else { return };
        loop {
            let mut queue = lock(&self.queue);
            if !queue.sends.iter().any(|send| Arc::ptr_eq(send, slot)) {
                return;
            }
            // Messages to one rank stay in order.
            let next = pop_send(&mut queue.sends, to).expect("the one that was just seen is behind it");
            drop(queue);
            self.queue_up(vec![next]);
        }
    }

    /// Ends the line, behind all that has a place in the order. Every rank does so, or this one waits in vain.
    pub(super) fn end(&self) {
        let line = Arc::clone(&self.line);
        // A thread that has died leaves nothing to end but by an abort.
        if self.order.run(move || line.end()).is_err() {
            self.line.abort();
        }
    }

    pub(super) fn look_after(&self) -> Option<String> {
        self.line.look_after()
    }

    pub(super) fn abort(&self) {
        self.line.abort();
    }
}

impl<D: Device> Turn<D> {
    fn hand_over(mut self) {
        if let Err(error) = self.calls.begin(&self.slots) {
            let error = lock(&self.calls.queue).error.get_or_insert(error).clone();
            self.slots.iter().for_each(|slot| slot.put(State::Failed(error.clone())));
        }
        self.slots.clear();
    }
}

impl<D: Device> Drop for Turn<D> {
    /// A thread that dies with calls before it must not leave anybody waiting for them.
    fn drop(&mut self) {
        self.slots.iter().for_each(|slot| slot.put(State::Failed(died())));
    }
}

/// Of the sends to each rank the first.
fn oldest_sends<D: Device>(sends: &mut VecDeque<Arc<Slot<D>>>) -> Vec<Arc<Slot<D>>> {
    let mut receivers: Vec<usize> = sends.iter().filter_map(|send| send.receiver()).collect();
    receivers.sort_unstable();
    receivers.dedup();
    receivers.into_iter().filter_map(|to| pop_send(sends, to)).collect()
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
