//! The lock file: who made it, whether that process lives, and how it comes and goes.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{FILE_NAME, Timing};
use crate::files::{Access, io_error};
use crate::log::{clock, units};
use crate::run::host::{host_name, process_space};
use crate::{Error, Result};

/// The contents of `LOCK`. Its heartbeat is the file's modification time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) host: String,
    pub(super) pid: u32,
    pub(super) job_id: String,
    /// RFC 3339, UTC.
    pub(super) started: String,
    /// Tells machines of one name, boots and containers apart.
    pub(super) process_space: Option<String>,
    /// Whether the holder also has an advisory lock on the file.
    pub(super) flock: bool,
    /// Differs for every attempt to take a lock.
    pub(super) nonce: String,
}

impl Holder {
    pub(super) fn this_process(job_id: &str) -> Self {
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

/// With the parenthesis left open, for the heartbeat to follow.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {} (pid {} on {}, since {}", self.job_id, self.pid, self.host, self.started)
    }
}

/// Where the lock file lies.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) access: Access,
}

impl Place {
    /// Makes the lock file in the name of `holder`; `None` if there is one already.
    pub(super) fn publish(&self, mut holder: Holder) -> Result<Option<File>> {
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
    pub(super) fn clear(&self, me: &Holder, timing: Timing, notify: &mut dyn FnMut(&str)) -> Result<bool> {
        let Some(found) = self.look()? else { return Ok(false) };
        let why = match found.judge(me) {
            Verdict::Alive => return Err(self.refusal(&found)),
            Verdict::Dead => "which is no longer alive".to_owned(),
            Verdict::Elsewhere => {
                // A young heartbeat may be the last of a job that has just died: first it must become old.
                let most = timing.stale.saturating_sub(found.age()) + timing.watch;
                let silence = units::duration(found.age().as_secs_f64());
                notify(&format!(
                    "{} is held by {}, silent for {silence}; watching it for {}, or until it beats",
                    self.path.display(),
                    found.name(),
                    units::duration(most.as_secs_f64()),
                ));
                if !self.stays_silent(&found, most, timing)? {
                    return Ok(false);
                }
                format!("whose last heartbeat is {} old", units::duration(found.age().as_secs_f64()))
            }
        };
        let removed = self.remove(&found)?;
        if removed {
            notify(&format!("took {} over from {}, {why}", self.path.display(), found.name()));
        }
        Ok(removed)
    }

    /// Whether a holder elsewhere stays as it was `found` for so long. False if the file changes.
    ///
    /// # Errors
    /// Input, naming the holder, as soon as it beats.
    fn stays_silent(&self, found: &Found, most: Duration, timing: Timing) -> Result<bool> {
        let until = Instant::now() + most;
        while Instant::now() < until {
            thread::sleep(timing.beat / 5);
            match self.look()? {
                Some(later) if later.text == found.text && later.beat == found.beat => {}
                Some(later) if later.text == found.text => return Err(self.refusal(&later)),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The lock file as it is now; `None` if there is none.
    pub(super) fn look(&self) -> Result<Option<Found>> {
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
    pub(super) fn remove(&self, judged: &Found) -> Result<bool> {
        if matches!(judged.flock, Flock::Free) && judged.file.try_lock().is_err() {
            return Ok(false);
        }
        Ok(self.holds(&judged.file)? && self.rename_aside(judged)?)
    }

    pub(super) fn rename_aside(&self, judged: &Found) -> Result<bool> {
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
    pub(super) fn holds(&self, file: &File) -> Result<bool> {
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
pub(super) struct Found {
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
    /// On another machine, or unknown: its heartbeat tells.
    Elsewhere,
}

impl Found {
    fn judge(&self, me: &Holder) -> Verdict {
        match &self.holder {
            Some(holder) if holder.is_on_machine_of(me) => {
                let alive = match self.flock {
                    Flock::Held => true,
                    Flock::Free if holder.flock => false,
                    Flock::Free | Flock::Unsupported => process_is_alive(holder.pid),
                };
                if alive { Verdict::Alive } else { Verdict::Dead }
            }
            _ => Verdict::Elsewhere,
        }
    }

    /// Since the last heartbeat; zero if it lies in the future.
    fn age(&self) -> Duration {
        SystemTime::now().duration_since(self.beat).unwrap_or_default()
    }

    pub(super) fn name(&self) -> String {
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
