//! The thread on which a rank's calls are carried out, in the order in which they were started. All ranks
//! start theirs in one order, so no two ranks wait for each other's later calls.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use tisserand_kernels::{Block, Device};

use super::carry_out;
use super::group::{Group, Visit};
use crate::communicator::{Call, CommError};
use crate::control::Progress;
use crate::pending::Completion;

/// A call that was started.
pub(super) struct Job<D: Device> {
    pub(super) group: Arc<Group<D>>,
    pub(super) visit: Visit,
    pub(super) call: Call,
    pub(super) block: Block<D>,
    pub(super) completion: Completion<D>,
    pub(super) progress: Progress,
}

/// Work for the thread.
pub(super) enum Order<D: Device> {
    CarryOut(Box<Job<D>>),
    /// Says when all work before it is done.
    Drained(Sender<()>),
}

/// Where calls are carried out. Clones share the thread; it ends with the last of them.
pub(super) enum Queue<D: Device> {
    Background(Sender<Order<D>>),
    Inline(D),
}

impl<D: Device> Clone for Queue<D> {
    fn clone(&self) -> Self {
        match self {
            Queue::Background(orders) => Queue::Background(orders.clone()),
            Queue::Inline(device) => Queue::Inline(device.clone()),
        }
    }
}

impl<D: Device> Queue<D> {
    /// A thread of its own; `device` is for it alone.
    pub(super) fn background(device: D) -> Result<Self, CommError> {
        let (orders, inbox) = channel::<Order<D>>();
        let work = move || {
            device.clone().enter(move || {
                for order in inbox {
                    match order {
                        Order::CarryOut(job) => carry_out::carry_out(*job, &device),
                        // Whoever asked may have given up.
                        Order::Drained(done) => drop(done.send(())),
                    }
                }
            });
        };
        thread::Builder::new()
            .name("collectives".into())
            .spawn(work)
            .map_err(|error| CommError::Kernel(format!("cannot start the thread of collectives: {error}")))?;
        Ok(Queue::Background(orders))
    }

    /// The caller's own thread.
    pub(super) fn inline(device: D) -> Self {
        Queue::Inline(device)
    }

    pub(super) fn submit(&self, job: Job<D>) -> Result<(), CommError> {
        match self {
            Queue::Inline(device) => carry_out::carry_out(job, device),
            Queue::Background(orders) => {
                orders.send(Order::CarryOut(Box::new(job))).map_err(|_| ended())?;
            }
        }
        Ok(())
    }

    /// Returns when everything submitted so far is done.
    pub(super) fn drain(&self) -> Result<(), CommError> {
        let Queue::Background(orders) = self else { return Ok(()) };
        let (done, wait) = channel();
        orders.send(Order::Drained(done)).map_err(|_| ended())?;
        wait.recv().map_err(|_| ended())
    }
}

fn ended() -> CommError {
    CommError::Kernel("the thread of collectives has ended".to_owned())
}
