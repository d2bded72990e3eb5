//! The one thread of a rank that speaks to NCCL, and the queue before it.
//!
//! All that a rank asks of NCCL, on whichever communicator, is done by this thread, in the order in which the rank's
//! program asks for it: starts of communicators, calls, ends. Ranks run one program, so their orders are the same; and
//! in one order nothing waits in a circle: of what is not done, the first waits for what is done alone. Only what ends
//! a run that has failed goes past it.

use std::sync::mpsc::{Sender, channel};

use crate::CommError;

type Task = Box<dyn FnOnce() + Send>;

/// See the module. The thread ends behind the last task.
pub(super) struct Order(Sender<Task>);

impl Order {
    /// An empty queue.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start() -> Result<Self, CommError> {
        let (tasks, inbox) = channel::<Task>();
        let work = move || inbox.into_iter().for_each(|task| task());
        std::thread::Builder::new()
            .name("nccl".to_owned())
            .spawn(work)
            .map_err(|error| CommError::Kernel(format!("cannot start the thread of NCCL: {error}")))?;
        Ok(Order(tasks))
    }

    /// Does `task` behind all before it; does not wait. If the thread has died, drops it.
    pub(super) fn push(&self, task: impl FnOnce() + Send + 'static) {
        drop(self.0.send(Box::new(task)));
    }

    /// Does `work` behind all before it, and waits for what comes of it.
    ///
    /// # Errors
    /// The thread has died.
    pub(super) fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, CommError> {
        let (result, outcome) = channel();
        self.push(move || drop(result.send(work())));
        outcome.recv().map_err(|_| died())
    }
}

/// The error of what the thread had before it when it died.
pub(super) fn died() -> CommError {
    CommError::Kernel("the thread of NCCL has ended before this (please report this)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_done_by_one_thread_in_their_order() {
        let (done, seen) = channel();
        let order = Order::start().unwrap();
        for task in 0..100 {
            let done = done.clone();
            order.push(move || done.send((task, std::thread::current().id())).unwrap());
        }
        let thread = order.run(|| std::thread::current().id()).unwrap();
        drop(done);
        assert!(seen.into_iter().eq((0..100).map(|task| (task, thread))));
    }

    #[test]
    fn nobody_waits_for_a_thread_that_has_died() {
        let order = Order::start().unwrap();
        let error = order.run(|| panic!("test")).err().map(|error: CommError| error.to_string());
        assert!(error.unwrap().contains("the thread of NCCL has ended"));
        assert!(order.run(|| ()).is_err());
    }
}
