//! A few threads over a list of independent pieces of work: hashing, reading and writing of slices.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::Result;

/// Threads of commands that have the machine to themselves: one per core, at most 16, beyond which one
/// file system client gains nothing.
pub(super) fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(16)
}

/// `work(0..count)` on up to `threads` threads, this one included; results in order of the index.
///
/// # Errors
/// The error of the lowest index that failed; later work is not begun.
pub(super) fn parallel<T: Send>(
    threads: usize,
    count: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let worker = || {
        let mut results = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            let result = work(i);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            results.push((i, result));
        }
        results
    };
    let mut results = std::thread::scope(|scope| {
        // A thread that cannot be started only costs time.
        let helpers: Vec<_> = (1..threads.min(count))
            .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, worker).ok())
            .collect();
        let mut results = worker();
        for helper in helpers {
            results.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn results_are_in_order_and_the_first_error_is_returned() {
        for threads in [0, 1, 3, 8] {
            assert_eq!(parallel(threads, 5, |i| Ok(i * i)).unwrap(), [0, 1, 4, 9, 16]);
            assert!(parallel(threads, 0, |_| Ok(())).unwrap().is_empty());
            let fail = |i| if i >= 3 { Err(Error::fault(format!("{i}"))) } else { Ok(()) };
            assert_eq!(parallel(threads, 100, fail).unwrap_err().to_string(), "3");
        }
    }
}
