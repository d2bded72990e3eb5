//! `LOCK`: one job at a time in a run folder.
//!
//! The file names its holder and appears at once with its contents (written aside, then linked: `link` fails
//! if the name exists, also on NFS). Its modification time is the heartbeat, renewed every 10 s. While
//! the holder lives it also keeps an advisory lock (`flock`) on the file, which ends with the process.
//!
//! Whether the holder of an existing file lives:
//! - on this machine: by `flock`; where the file system has none, by the process id. A holder killed a moment
//!   ago does not stand in the way.
//! - on another machine: by the heartbeat alone, since `flock` may or may not reach across machines (Lustre
//!   `localflock`, NFS `local_lock`). Whoever wants the folder watches until the holder beats, 10 s at most, or
//!   until 12 s after the last heartbeat has become 60 s old, so that neither differing clocks nor a stalled file
//!   system pass for a death. So the job after one that was killed waits a minute, and is not refused.
//!
//! A dead holder's file is renamed aside and compared with what was judged; if a quicker starter had replaced
//! it, it is put back. So of any number of starters one wins.
//!
//! A holder that was suspended for longer than that loses the lock: [`RunLock::check`] before each save.
//!
//! Here is the life of the lock; [`file`] makes, judges and removes the file.

mod file;

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use self::file::{Holder, Place};
use crate::files::Access;
use crate::{Error, Result};

const FILE_NAME: &str = "LOCK";

/// The periods of the protocol; all jobs that may share a folder must agree on them.
#[derive(Clone, Copy)]
struct Timing {
    /// Between heartbeats.
    beat: Duration,
    /// Age that a heartbeat from another machine must have ...
    stale: Duration,
    /// ... before its holder is watched for so long: longer than `beat`.
    watch: Duration,
}

const TIMING: Timing =
    Timing { beat: Duration::from_secs(10), stale: Duration::from_secs(60), watch: Duration::from_secs(12) };

/// The right to write a run folder; given back when dropped.
#[derive(Debug)]
pub struct RunLock {
    place: Place,
    job_id: String,
    /// Our lock file, open: it carries the advisory lock and the heartbeat.
    file: Arc<Mutex<File>>,
    /// Dropped to end the heartbeat.
    stop: Option<mpsc::Sender<()>>,
    heartbeat: Option<JoinHandle<()>>,
}

impl RunLock {
    /// Takes the lock of the run folder `dir` for job `job_id`. `notify` gets a line when a dead holder is
    /// taken over from, and one before a holder on another machine is watched.
    ///
    /// # Errors
    /// Input, naming the holder, if another job lives in the folder, or if the folder cannot be written.
    pub fn acquire(dir: &Path, access: &Access, job_id: &str, notify: impl FnMut(&str)) -> Result<Self> {
        Self::acquire_with(dir, access, job_id, notify, TIMING)
    }

    fn acquire_with(
        dir: &Path,
        access: &Access,
        job_id: &str,
        mut notify: impl FnMut(&str),
        timing: Timing,
    ) -> Result<Self> {
        let place = Place { path: dir.join(FILE_NAME), access: access.clone() };
        // More than one attempt only after a take-over or when others come and go at the same moment.
        for _ in 0..100 {
            let me = Holder::this_process(job_id);
            if let Some(file) = place.publish(me.clone())? {
                return Self::start(place, job_id, file, timing);
            }
            if !place.clear(&me, timing, &mut notify)? {
                thread::sleep(Duration::from_millis(5));
            }
        }
        Err(Error::fault(format!(
            "cannot take {}: it can neither be read nor made; hint: delete it if no job uses the folder",
            place.path.display()
        )))
    }

    fn start(place: Place, job_id: &str, file: File, timing: Timing) -> Result<Self> {
        let file = Arc::new(Mutex::new(file));
        let (stop, stopped) = mpsc::channel::<()>();
        let beating = Arc::clone(&file);
        let beat = move || {
            while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(timing.beat) {
                let times = FileTimes::new().set_modified(SystemTime::now());
                // A beat that fails (a stalled file system) is made up for by the next; `check` reports the rest.
                let _ = lock(&beating).set_times(times);
            }
        };
        let mut held = RunLock { place, job_id: job_id.to_owned(), file, stop: Some(stop), heartbeat: None };
        let thread = thread::Builder::new().name("run-lock".to_owned()).spawn(beat);
        held.heartbeat = Some(thread.map_err(|e| Error::fault(format!("cannot start a thread: {e}")))?);
        Ok(held)
    }

    /// Makes sure that the folder is still ours, before anything irreplaceable is written. A lock file
    /// that someone deleted is made again.
    ///
    /// # Errors
    /// Fault, if another job took the lock over while this process was suspended or cut off.
    pub fn check(&self) -> Result<()> {
        let mut file = lock(&self.file);
        if self.place.holds(&file)? {
            return Ok(());
        }
        if let Some(again) = self.place.publish(Holder::this_process(&self.job_id))? {
            *file = again;
            return Ok(());
        }
        let taker = self.place.look()?.map_or_else(|| "another job".to_owned(), |found| found.name());
        Err(Error::fault(format!(
            "{} was taken over by {taker} while this process did not respond; \
             hint: this process must not go on, the other one continues the run",
            self.place.path.display()
        )))
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(heartbeat) = self.heartbeat.take() {
            // The thread has no invariant to report on, and a drop must not panic.
            let _ = heartbeat.join();
        }
        if self.place.holds(&lock(&self.file)).unwrap_or(false) {
            // If it stays, the next job finds its holder dead.
            let _ = fs::remove_file(&self.place.path);
        }
    }
}

/// The file is whole whatever happened to a thread that held the mutex.
fn lock(file: &Mutex<File>) -> MutexGuard<'_, File> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
