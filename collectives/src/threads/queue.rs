//! The thread on which a communicator's calls are carried out, in the order in which they were started. Every
//! communicator has one of its own, so a call that waits on one axis holds up no other.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use tisserand_kernels::{Block, Device};

use super::carry_out;
use super::group::Group;
use super::meeting::Visit;
use crate::communicator::{Call, CommError};
use crate::control::Progress;
use crate::pending::Completion;
use crate::trace::CarriedOut;

/// A call that was started.
pub(super) struct Job<D: Device> {
    pub(super) group: Arc<Group<D>>,
    pub(super) visit: Visit,
    pub(super) call: Call,
    pub(super) block: Block<D>,
    /// Behind what the rank had queued on its device when it started the call.
    pub(super) ready: D::Event,
    pub(super) completion: Completion<D>,
    pub(super) progress: Progress,
}

/// Work for the thread.
pub(super) enum Order<D: Device> {
    CarryOut(Box<Job<D>>),
    /// Says when all work before it is done.
    Drained(Sender<()>),
}

/// Where calls are carried out. The thread ends with it.
pub(super) enum Queue<D: Device> {
    Background(D, Sender<Order<D>>),
    Inline(D),
}

impl<D: Device> Queue<D> {
    /// A thread of its own, which works on a fork of the device.
    pub(super) fn background(parent: D) -> Result<Self, CommError> {
        let device = parent.fork()?;
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
        Ok(Queue::Background(parent, orders))
    }

    /// Another one of the same kind.
    pub(super) fn another(&self) -> Result<Self, CommError> {
        match self {
            Queue::Background(parent, _) => Queue::background(parent.clone()),
            Queue::Inline(device) => Ok(Queue::Inline(device.clone())),
        }
    }

    /// The caller's own thread.
    pub(super) fn inline(device: D) -> Self {
        Queue::Inline(device)
    }

    /// The device of the rank's own thread.
    pub(super) fn device(&self) -> &D {
        match self {
            Queue::Background(device, _) | Queue::Inline(device) => device,
        }
    }

    /// Whose time a call takes.
    pub(super) fn carried_out(&self) -> CarriedOut {
        match self {
            Queue::Background(..) => CarriedOut::InTheBackground,
            Queue::Inline(_) => CarriedOut::ByTheCaller,
        }
    }

    pub(super) fn submit(&self, job: Job<D>) -> Result<(), CommError> {
        match self {
            Queue::Inline(device) => carry_out::carry_out(job, device),
            Queue::Background(_, orders) => {
                orders.send(Order::CarryOut(Box::new(job))).map_err(|_| ended())?;
            }
        }
        Ok(())
    }

    /// Returns when everything submitted so far is done.
    pub(super) fn drain(&self) -> Result<(), CommError> {
        let Queue::Background(_, orders) = self else { return Ok(()) };
        let (done, wait) = channel();
        orders.send(Order::Drained(done)).map_err(|_| ended())?;
        wait.recv().map_err(|_| ended())
    }
}

fn ended() -> CommError {
    CommError::Kernel("the thread of collectives has ended".to_owned())
}
