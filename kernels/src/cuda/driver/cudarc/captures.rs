//! The threads of this process that record graphs.
//!
//! While a stream records, the driver refuses to wait for its whole context, and may give the recording up. So nobody
//! waits for a context meanwhile: a thread that wants to waits until others have recorded. The list is the
//! process's, as a GPU's primary context is.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

static RECORDING: Mutex<Vec<ThreadId>> = Mutex::new(Vec::new());
static ENDED: Condvar = Condvar::new();

/// The calling thread records, until this is dropped.
pub(super) struct Recording(());

impl Recording {
    /// Begins, when nobody waits for a context.
    pub(super) fn begin() -> Self {
        recording().push(thread::current().id());
        Recording(())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let (me, mut recording) = (thread::current().id(), recording());
        if let Some(mine) = recording.iter().position(|thread| *thread == me) {
            recording.swap_remove(mine);
        }
        ENDED.notify_all();
    }
}

/// Does `work` while no thread records. If the calling thread itself does, does nothing and returns false.
pub(super) fn while_nobody_records(work: impl FnOnce()) -> bool {
    let (me, mut recording) = (thread::current().id(), recording());
    while !recording.is_empty() {
        if recording.contains(&me) {
            return false;
        }
        recording = ENDED.wait(recording).unwrap_or_else(PoisonError::into_inner);
    }
    work();
    true
}

fn recording() -> MutexGuard<'static, Vec<ThreadId>> {
    RECORDING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn who_waits_for_a_context_waits_for_recordings_but_not_for_its_own() {
        let recording = Recording::begin();
        assert!(!while_nobody_records(|| panic!("this thread records")));
        let has_ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let waits = scope.spawn(|| while_nobody_records(|| assert!(has_ended.load(Ordering::SeqCst))));
            has_ended.store(true, Ordering::SeqCst);
            drop(recording);
            assert!(waits.join().unwrap());
        });
    }
}
