//! What run folders rely on: a file that is replaced is never seen half written, a lock keeps others out, and what one
//! machine writes the others see.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tisserand_collectives::{Channel, ControlPlane};
use tisserand_runtime::Result;
use tisserand_runtime::files::{self, io_error};

use super::super::finding::Finding;
use super::super::hosts::Hosts;
use super::{CHECK, file_of};

/// How long a rank looks for what rank 0 has written.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Rank 0 replaces a file twice; every rank must see the second text.
pub(super) fn shared(control: &dyn ControlPlane, folder: &Path) -> Result<Finding> {
    const NAME: &str = "seen by all ranks after";
    let path = folder.join("shared");
    let mut written = Ok(());
    for text in ["first", "second"] {
        if control.rank() == 0 {
            written = written.and_then(|()| files::write_atomic(&path, text.as_bytes()));
        }
        // The first text is read by all, so that it lies in their caches.
        control.barrier(Channel::Step)?;
        let _ = fs::read(&path);
        control.barrier(Channel::Step)?;
    }
    if let Err(error) = written {
        return Ok(Finding::failed(CHECK, NAME, &error));
    }
    let begun = Instant::now();
    while fs::read(&path).ok().as_deref() != Some(b"second") {
        if begun.elapsed() > SEEN_WITHIN {
            let advice = format!(
                "{} was written by rank 0 and is not seen here after {} s: this machine does not share the folder; hint: \
                 --dir on a work or scratch file system",
                path.display(),
                SEEN_WITHIN.as_secs()
            );
            return Ok(Finding::text(CHECK, NAME, "never").fail(advice));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(Finding::number(CHECK, NAME, begun.elapsed().as_secs_f64() * 1e3, "ms"))
}

/// Rank 0 holds a lock that nobody else may get: not here, and not on other machines.
pub(super) fn locks(control: &dyn ControlPlane, hosts: &Hosts, folder: &Path) -> Result<Finding> {
    const NAME: &str = "flock";
    let path = folder.join("lock");
    let rank = control.rank();
    let held = match rank {
        0 => Some(File::create(&path).and_then(|file| file.lock().map(|()| file))),
        _ => None,
    };
    control.barrier(Channel::Step)?;
    let tried = File::open(&path).map(|file| file.try_lock());
    control.barrier(Channel::Step)?;
    let is_here = hosts.of_rank(rank) == hosts.of_rank(0);
    Ok(match (held, tried) {
        (Some(Err(error)), _) | (_, Err(error)) => {
            let error = io_error("lock", &path, &error);
            Finding::text(CHECK, NAME, "does not work").warn(format!(
                "{error}; run folders then know by the age of a file alone that a job is dead, after a minute"
            ))
        }
        (_, Ok(Err(TryLockError::WouldBlock))) => Finding::text(CHECK, NAME, "works"),
        (_, Ok(Err(TryLockError::Error(error)))) => {
            Finding::text(CHECK, NAME, "does not work").warn(io_error("lock", &path, &error).to_string())
        }
        (_, Ok(Ok(()))) if is_here => Finding::text(CHECK, NAME, "keeps nobody out").fail(format!(
            "{}: two have the same lock at a time; hint: mount the file system with locks",
            path.display()
        )),
        (_, Ok(Ok(()))) => Finding::text(CHECK, NAME, "on one machine only").warn(
            "a lock of another machine is not seen: a second job in a run folder is kept out by the age of a file alone; \
             hint: ask for the mount option flock (Lustre), or local_lock=none (NFS)",
        ),
    })
}

/// A file is replaced again and again while a thread reads it: each text must be whole.
pub(super) fn renames(folder: &Path, rank: usize) -> Finding {
    const NAME: &str = "rename";
    const TIMES: usize = 40;
    let path = file_of(folder, "replaced", rank);
    let texts = [vec![b'a'; 40_000], vec![b'b'; 50_000]];
    let (done, broken) = (AtomicBool::new(false), AtomicBool::new(false));
    let replace = |i: usize| files::Access::umask().replace(&path, &texts[i % 2]);
    if let Err(error) = replace(0) {
        return Finding::failed(CHECK, NAME, &error);
    }
    let replaced = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let is_whole = fs::read(&path).is_ok_and(|read| texts.contains(&read));
                broken.fetch_or(!is_whole, Ordering::Relaxed);
            }
        });
        let replaced = (1..TIMES).try_for_each(replace);
        done.store(true, Ordering::Relaxed);
        replaced
    });
    let _ = fs::remove_file(&path);
    match replaced {
        Err(error) => Finding::failed(CHECK, NAME, &error),
        Ok(()) if broken.into_inner() => Finding::text(CHECK, NAME, "is not atomic").fail(format!(
            "{} was missing or half written while it was replaced: checkpoints are not safe here; hint: another file \
             system",
            path.display()
        )),
        Ok(()) => Finding::text(CHECK, NAME, "is atomic"),
    }
}
