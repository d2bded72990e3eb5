//! A collective under way, and how the thread that carries it out hands the block back.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tisserand_kernels::{Block, Storage};

use crate::CommError;
use crate::trace::Span;

/// A collective under way: the owner of its block.
#[must_use = "the collective has not ended until `wait` returns, and its block is in it"]
pub struct Pending<D: Storage> {
    state: State<D>,
}

enum State<D: Storage> {
    Done(Block<D>),
    Imagined { ended: Ended<D>, on_wait: Option<Box<dyn FnOnce() + Send>> },
    UnderWay(Arc<Shared<D>>),
    Queued(Box<dyn Queued<D>>),
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
    /// Its place in the trace, where it has one.
    span: Option<Span>,
}

/// What comes back: the block, and the workspace, which the waiting thread returns to the arena.
struct Ended<D: Storage> {
    block: Block<D>,
    workspace: Option<Block<D>>,
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

/// The other end of a [`Pending`]: whoever carries the collective out.
pub struct Completion<D: Storage> {
    shared: Arc<Shared<D>>,
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
        Pending { state: State::Imagined { ended: Ended { block, workspace }, on_wait } }
    }

    /// A collective of which `queued` knows more.
    pub fn queued(queued: Box<dyn Queued<D>>) -> Self {
        Pending { state: State::Queued(queued) }
    }

    /// A collective that another thread carries out, and that no trace shows.
    pub fn under_way() -> (Completion<D>, Self) {
        Self::with(None)
    }

    /// A collective that another thread carries out.
    pub fn traced(span: Span) -> (Completion<D>, Self) {
        Self::with(Some(span))
    }

    fn with(span: Option<Span>) -> (Completion<D>, Self) {
        let shared = Arc::new(Shared { result: Mutex::new(None), changed: Condvar::new(), span });
        (Completion { shared: Arc::clone(&shared) }, Pending { state: State::UnderWay(shared) })
    }

    /// Whether `wait` would return at once.
    pub fn is_done(&self) -> bool {
        match &self.state {
            State::Done(_) | State::Imagined { .. } => true,
            State::UnderWay(shared) => shared.result().is_some(),
            State::Queued(queued) => queued.is_done(),
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
            State::Imagined { ended, on_wait } => {
                if let Some(on_wait) = on_wait {
                    on_wait();
                }
                Ok(ended.block)
            }
            State::UnderWay(shared) => {
                let begin = shared.span.as_ref().and_then(Span::begin_wait);
                let ended = shared.wait();
                if let Some(span) = &shared.span {
                    span.end_wait(begin);
                }
                let Ended { block, workspace } = ended?;
                drop(workspace);
                Ok(block)
            }
            State::Queued(queued) => queued.wait(),
        }
    }
}

impl<D: Storage> Completion<D> {
    /// Ends the collective.
    pub fn complete(self, result: Result<Block<D>, CommError>) {
        self.end(result.map(|block| Ended { block, workspace: None }));
    }

    /// Ends the collective; `wait` gives the workspace back to the arena, so that this happens where the
    /// schedule says and not when the collective happens to end.
    pub fn complete_with(self, block: Block<D>, workspace: Option<Block<D>>) {
        self.end(Ok(Ended { block, workspace }));
    }

    fn end(self, result: Result<Ended<D>, CommError>) {
        if let Some(span) = &self.shared.span {
            span.ended();
        }
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
    use tisserand_kernels::{Class, Context, Cpu, DType};

    #[test]
    fn workspace_goes_back_to_the_arena_in_wait_and_not_before() {
        let ctx = Context::new(Cpu::new(1).unwrap(), 1 << 12).unwrap();
        let block = ctx.arena.block(Class::Gradients, DType::F32, 64).unwrap();
        let workspace = block.sibling(Class::Communication, DType::F32, 64).unwrap();
        let (completion, pending) = Pending::under_way();
        std::thread::spawn(move || completion.complete_with(block, Some(workspace))).join().unwrap();
        assert!(pending.is_done());
        assert_eq!(ctx.arena.usage().of(Class::Communication), 256);
        let _block = pending.wait().unwrap();
        assert_eq!(ctx.arena.usage().of(Class::Communication), 0);
    }
}
