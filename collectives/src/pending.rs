//! A collective under way, and how the thread that carries it out hands the block back.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tisserand_kernels::{Block, KernelError, Storage};

use crate::CommError;
use crate::trace::Span;

/// A collective under way: the owner of its block.
#[must_use = "the collective has not ended until `wait` returns, and its block is in it"]
pub struct Pending<D: Storage> {
    state: State<D>,
}

enum State<D: Storage> {
    Done(Block<D>),
    Imagined { block: Block<D>, workspace: Option<Block<D>>, on_wait: Option<Box<dyn FnOnce() + Send>> },
    UnderWay(Arc<Shared<D>>),
    Queued(Span<D>, Box<dyn Queued<D>>),
}

/// A collective that the waiting thread may have to do something for.
pub trait Queued<D: Storage>: Send {
    /// As [`Pending::wait`].
    ///
    /// # Errors
    /// What the collective met.
    fn wait(self: Box<Self>) -> Result<Block<D>, CommError>;

    /// As [`Pending::is_done`].
    fn is_done(&self) -> bool;
}

struct Shared<D: Storage> {
    result: Mutex<Option<Result<Ended<D>, CommError>>>,
    changed: Condvar,
    span: Span<D>,
}

/// What comes back: the block, and the workspace, which the waiting thread returns to the arena; both of use to the
/// rank's handle once it stands behind the event.
struct Ended<D: Storage> {
    block: Block<D>,
    workspace: Option<Block<D>>,
    event: D::Event,
}

impl<D: Storage> Shared<D> {
    fn result(&self) -> MutexGuard<'_, Option<Result<Ended<D>, CommError>>> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parks until the other end has said how it went.
    fn wait(&self) -> Result<Ended<D>, CommError> {
        let mut result = self.result();
        loop {
            match result.take() {
                Some(ended) => return ended,
                None => result = self.changed.wait(result).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl<D: Storage> Drop for Shared<D> {
    /// Blocks that nobody has waited for go back to the arena behind the collective, too; if that cannot be, they are
    /// given up.
    fn drop(&mut self) {
        if let Some(Ok(ended)) = self.result().take()
            && self.span.compute().wait(&ended.event).is_err()
        {
            std::mem::forget(ended);
        }
    }
}

/// The other end of a [`Pending`]: whoever carries the collective out.
pub struct Completion<D: Storage> {
    shared: Arc<Shared<D>>,
    /// When it began, if that is asked for.
    begun: Option<D::Moment>,
}

impl<D: Storage> Pending<D> {
    /// A collective that ended at once.
    pub fn done(block: Block<D>) -> Self {
        Pending { state: State::Done(block) }
    }

    /// A collective of a dry run: it has ended, but keeps its workspace until `wait`, which tells `on_wait`.
    pub(crate) fn imagined(
        block: Block<D>,
        workspace: Option<Block<D>>,
        on_wait: Option<Box<dyn FnOnce() + Send>>,
    ) -> Self {
        Pending { state: State::Imagined { block, workspace, on_wait } }
    }

    /// A collective of which `queued` knows more.
    pub fn queued(span: Span<D>, queued: Box<dyn Queued<D>>) -> Self {
        Pending { state: State::Queued(span, queued) }
    }

    /// A collective that another thread carries out.
    pub fn under_way(span: Span<D>) -> (Completion<D>, Self) {
        let shared = Arc::new(Shared { result: Mutex::new(None), changed: Condvar::new(), span });
        let completion = Completion { shared: Arc::clone(&shared), begun: None };
        (completion, Pending { state: State::UnderWay(shared) })
    }

    /// Whether `wait` would return at once.
    pub fn is_done(&self) -> bool {
        match &self.state {
            State::Done(_) | State::Imagined { .. } => true,
            State::UnderWay(shared) => shared.result().is_some(),
            State::Queued(_, queued) => queued.is_done(),
        }
    }

    /// The block, for work queued from now on by the handle that its collective was begun with: on a GPU the host
    /// goes on at once and the stream waits. Elsewhere parks until the block holds the result.
    ///
    /// # Errors
    /// What the collective met: ranks that called something else, a rank that is late or dead.
    pub fn wait(self) -> Result<Block<D>, CommError> {
        match self.state {
            State::Done(block) => Ok(block),
            State::Imagined { block, workspace, on_wait } => {
                if let Some(on_wait) = on_wait {
                    on_wait();
                }
                drop(workspace);
                Ok(block)
            }
            State::UnderWay(shared) => shared.span.waiting(|compute| {
                let Ended { block, workspace, event } = shared.wait()?;
                // Else neither may be used, nor go back to the arena.
                if let Err(error) = compute.wait(&event) {
                    std::mem::forget((block, workspace));
                    return Err(error.into());
                }
                drop(workspace);
                Ok(block)
            }),
            State::Queued(span, queued) => span.waiting(|_| queued.wait()),
        }
    }
}

impl<D: Storage> Completion<D> {
    /// The collective begins with what is queued on `device` from now on.
    ///
    /// # Errors
    /// The device has failed.
    pub fn begin(&mut self, device: &D) -> Result<(), KernelError> {
        self.begun = self.shared.span.begin(device)?;
        Ok(())
    }

    /// Ends the collective with what has been queued on `device`.
    pub fn complete(self, device: &D, block: Block<D>) {
        self.complete_with(device, block, None);
    }

    /// Ends the collective with what has been queued on `device`; `wait` gives the workspace back to the arena, so that
    /// this happens where the schedule says and not when the collective happens to end.
    pub fn complete_with(mut self, device: &D, block: Block<D>, workspace: Option<Block<D>>) {
        let begun = self.begun.take();
        let event = self.shared.span.end(device, begun).and_then(|()| device.event());
        match event {
            Ok(event) => self.end(Ok(Ended { block, workspace, event })),
            Err(error) => {
                std::mem::forget((block, workspace));
                self.end(Err(error.into()));
            }
        }
    }

    /// The collective does not end well.
    pub fn fail(self, error: CommError) {
        self.end(Err(error));
    }

    fn end(self, result: Result<Ended<D>, CommError>) {
        *self.shared.result() = Some(result);
        self.shared.changed.notify_all();
    }
}

impl<D: Storage> Drop for Completion<D> {
    /// A thread that dies with a collective in its hands must not leave the other end waiting.
    fn drop(&mut self) {
        let mut result = self.shared.result();
        if Arc::strong_count(&self.shared) > 1 && result.is_none() {
            *result = Some(Err(CommError::Mismatch(
                "the thread that carries out collectives ended before this one".to_owned(),
            )));
            self.shared.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Collective;
    use crate::trace::{CarriedOut, Stream, Trace};
    use tisserand_kernels::{Class, Context, Cpu, DType};

    #[test]
    fn workspace_goes_back_to_the_arena_in_wait_and_not_before() {
        let ctx = Context::new(Cpu::new(1).unwrap(), 1 << 12).unwrap();
        let block = ctx.arena.block(Class::Gradients, DType::F32, 64).unwrap();
        let workspace = block.sibling(Class::Communication, DType::F32, 64).unwrap();
        let stream = Stream::new(&Trace::default(), "dp_shard".into(), &ctx.device);
        let span = stream.span(Collective::AllGather, 0, 256, None, CarriedOut::InTheBackground);
        let (completion, pending) = Pending::under_way(span);
        let device = ctx.device.clone();
        let complete = move || completion.complete_with(&device, block, Some(workspace));
        std::thread::spawn(complete).join().unwrap();
        assert!(pending.is_done());
        assert_eq!(ctx.arena.usage().of(Class::Communication), 256);
        let _block = pending.wait().unwrap();
        assert_eq!(ctx.arena.usage().of(Class::Communication), 0);
    }
}
