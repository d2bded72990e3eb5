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
//!   `localflock`, NFS `local_lock`). One older than 60 s is watched for another 12 s, so that
//!   neither differing clocks nor a stalled file system pass for a death.
//!
//! A dead holder's file is renamed aside and compared with what was judged; if a quicker starter had replaced
//! it, it is put back. So of any number of starters one wins.
//!
//! A holder that was suspended for longer than that loses the lock: [`RunLock::check`] before each save.

use std::fmt;
use std::fs::{self, File, FileTimes, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::host::{host_name, process_space};
use crate::files::{Access, io_error};
use crate::log::{clock, units};
use crate::{Error, Result};

const FILE_NAME: &str = "LOCK";

/// The periods of the protocol; all jobs that may share a folder must agree on them.
#[derive(Clone, Copy)]
struct Timing {
    /// Between heartbeats.
    beat: Duration,
    /// Age at which a heartbeat from another machine is doubted.
    stale: Duration,
    /// How long a doubted holder is watched: longer than `beat`.
    watch: Duration,
}

const TIMING: Timing =
    Timing { beat: Duration::from_secs(10), stale: Duration::from_secs(60), watch: Duration::from_secs(12) };

/// The contents of `LOCK`. Its heartbeat is the file's modification time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Holder {
    host: String,
    pid: u32,
    job_id: String,
    /// RFC 3339, UTC.
    started: String,
    /// Tells machines of one name, boots and containers apart.
    process_space: Option<String>,
    /// Whether the holder also has an advisory lock on the file.
    flock: bool,
    /// Differs for every attempt to take a lock.
    nonce: String,
}

impl Holder {
    fn this_process(job_id: &str) -> Self {
        static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
        let (host, pid, now) = (host_name(), std::process::id(), SystemTime::now());
        let nanos = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let nonce = format!("{host}-{pid}-{nanos}-{}", ATTEMPTS.fetch_add(1, Ordering::Relaxed));
        let (job_id, started) = (job_id.to_owned(), clock::rfc3339(now));
        Holder { host, pid, job_id, started, process_space: process_space(), flock: false, nonce }
    }

    fn is_on_machine_of(&self, other: &Holder) -> bool {
        self.host == other.host && self.process_space == other.process_space
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {} (pid {} on {}, since {}", self.job_id, self.pid, self.host, self.started)
    }
}

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
    /// taken over from, and one before the 12 s for which a silent holder is watched.
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

/// Where the lock file lies.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    access: Access,
}

impl Place {
    /// Makes the lock file in the name of `holder`; `None` if there is one already.
    fn publish(&self, mut holder: Holder) -> Result<Option<File>> {
        let fail = |e: io::Error| io_error("write", &self.path, &e);
        let aside = self.beside(&holder, "new");
        let mut make = || -> Result<Option<File>> {
            let mut file = File::options().write(true).create_new(true).open(&aside).map_err(fail)?;
            holder.flock = file.try_lock().is_ok();
            let text = serde_json::to_string(&holder).map_err(|e| fail(e.into()))? + "\n";
            file.write_all(text.as_bytes()).map_err(fail)?;
            self.access.share(&aside)?;
            match fs::hard_link(&aside, &self.path) {
                Ok(()) => Ok(Some(file)),
                // A reply lost on NFS makes a link that succeeded look as if the name had existed.
                Err(_) if file.metadata().map_err(fail)?.nlink() == 2 => Ok(Some(file)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
                Err(_) => self.publish_without_links(&text),
            }
        };
        let made = make();
        let _ = fs::remove_file(&aside);
        made
    }

    /// For file systems without hard links. Readers may see the file before its contents and take it for one
    /// of an unknown living job.
    fn publish_without_links(&self, text: &str) -> Result<Option<File>> {
        let fail = |e: io::Error| io_error("write", &self.path, &e);
        let mut file = match File::options().write(true).create_new(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        // The contents promise a `flock`, if the same file system gave one to the file aside.
        let _ = file.try_lock();
        file.write_all(text.as_bytes()).map_err(fail)?;
        self.access.share(&self.path)?;
        Ok(Some(file))
    }

    /// Removes the lock file if its holder is dead; says whether it did. False also if it changed meanwhile.
    ///
    /// # Errors
    /// Input, naming the holder, if it lives.
    fn clear(&self, me: &Holder, timing: Timing, notify: &mut dyn FnMut(&str)) -> Result<bool> {
        let Some(found) = self.look()? else { return Ok(false) };
        let why = match found.judge(me, timing) {
            Verdict::Alive => return Err(self.refusal(&found)),
            Verdict::Dead => "which is no longer alive".to_owned(),
            Verdict::Silent => {
                let silence = units::duration(found.age().as_secs_f64());
                notify(&format!(
                    "{} is held by {}, silent for {silence}; watching it for {}",
                    self.path.display(),
                    found.name(),
                    units::duration(timing.watch.as_secs_f64()),
                ));
                thread::sleep(timing.watch);
                match self.look()? {
                    Some(later) if later.text == found.text && later.beat == found.beat => {}
                    Some(later) if later.text == found.text => return Err(self.refusal(&later)),
                    _ => return Ok(false),
                }
                format!("whose last heartbeat is {silence} old")
            }
        };
        let removed = self.remove(&found)?;
        if removed {
            notify(&format!("took {} over from {}, {why}", self.path.display(), found.name()));
        }
        Ok(removed)
    }

    /// The lock file as it is now; `None` if there is none.
    fn look(&self) -> Result<Option<Found>> {
        let read = || -> io::Result<Found> {
            let mut file = File::open(&self.path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            // Shared, so that two who look do not take each other for the holder; given back at once, so that
            // one who looks for long does not hinder another who may take over.
            let flock = match file.try_lock_shared() {
                Ok(()) => file.unlock().map(|()| Flock::Free)?,
                Err(TryLockError::WouldBlock) => Flock::Held,
                Err(TryLockError::Error(_)) => Flock::Unsupported,
            };
            let holder = serde_json::from_str(&text).ok();
            Ok(Found { holder, text, flock, beat: file.metadata()?.modified()?, file })
        };
        match read() {
            Ok(found) => Ok(Some(found)),
            // On NFS a file deleted while open is stale rather than gone.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle) => {
                Ok(None)
            }
            Err(error) => Err(io_error("read", &self.path, &error)),
        }
    }

    /// Removes the lock file if it still is `judged`; says whether it did.
    ///
    /// Where `flock` works between the starters, only one of them at a time gets past the first line, and
    /// a living holder's file never does. Elsewhere [`Place::rename_aside`] alone decides.
    fn remove(&self, judged: &Found) -> Result<bool> {
        if matches!(judged.flock, Flock::Free) && judged.file.try_lock().is_err() {
            return Ok(false);
        }
        Ok(self.holds(&judged.file)? && self.rename_aside(judged)?)
    }

    fn rename_aside(&self, judged: &Found) -> Result<bool> {
        let fail = |e: io::Error| io_error("remove", &self.path, &e);
        let aside = self.beside(&Holder::this_process(""), "old");
        match fs::rename(&self.path, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(fail(error)),
        }
        let is_judged = fs::read(&aside).map_err(fail)? == judged.text.as_bytes();
        if !is_judged {
            // A quicker starter's lock. Gone for an instant: `check` of its holder makes up for that.
            match fs::hard_link(&aside, &self.path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(_) => return fs::rename(&aside, &self.path).map(|()| false).map_err(fail),
            }
        }
        fs::remove_file(&aside).map_err(fail)?;
        Ok(is_judged)
    }

    /// Whether the lock file is the open `file`.
    fn holds(&self, file: &File) -> Result<bool> {
        let fail = |e: io::Error| io_error("examine", &self.path, &e);
        let ours = file.metadata().map_err(fail)?;
        match fs::metadata(&self.path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(fail(error)),
        }
    }

    fn refusal(&self, found: &Found) -> Error {
        let holder = match &found.holder {
            Some(holder) => format!("{holder}, "),
            None => "an unknown job (".to_owned(),
        };
        Error::input(format!(
            "{} is in use by {holder}last heartbeat {} ago); hint: wait for that job or cancel it; \
             if it is certainly gone, delete {}",
            self.path.parent().unwrap_or(&self.path).display(),
            units::duration(found.age().as_secs_f64().round()),
            self.path.display(),
        ))
    }

    /// A name beside the lock file that no one else uses.
    fn beside(&self, holder: &Holder, what: &str) -> PathBuf {
        self.path.with_file_name(format!("{FILE_NAME}.{}.{what}", holder.nonce))
    }
}

/// A lock file that is there.
struct Found {
    /// `None` if it is empty or damaged.
    holder: Option<Holder>,
    text: String,
    flock: Flock,
    beat: SystemTime,
    /// The file that was read, which may have lost its name since.
    file: File,
}

enum Flock {
    Held,
    Free,
    Unsupported,
}

enum Verdict {
    Alive,
    Dead,
    /// On another machine, and not heard of for too long.
    Silent,
}

impl Found {
    fn judge(&self, me: &Holder, timing: Timing) -> Verdict {
        match &self.holder {
            Some(holder) if holder.is_on_machine_of(me) => {
                let alive = match self.flock {
                    Flock::Held => true,
                    Flock::Free if holder.flock => false,
                    Flock::Free | Flock::Unsupported => process_is_alive(holder.pid),
                };
                if alive { Verdict::Alive } else { Verdict::Dead }
            }
            _ if self.age() <= timing.stale => Verdict::Alive,
            _ => Verdict::Silent,
        }
    }

    /// Since the last heartbeat; zero if it lies in the future.
    fn age(&self) -> Duration {
        SystemTime::now().duration_since(self.beat).unwrap_or_default()
    }

    fn name(&self) -> String {
        self.holder.as_ref().map_or_else(|| "an unknown job".to_owned(), |holder| format!("{holder})"))
    }
}

fn process_is_alive(pid: u32) -> bool {
    match i32::try_from(pid) {
        // Signal 0 only asks. EPERM: alive, of another user.
        Ok(pid) if pid > 0 => nix::sys::signal::kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH),
        _ => false,
    }
}

/// The file is whole whatever happened to a thread that held the mutex.
fn lock(file: &Mutex<File>) -> MutexGuard<'_, File> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
