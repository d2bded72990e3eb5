//! One connection: when the peer was last heard, and the threads that serve it.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::control::lock;

/// A rank shows a sign of life this often.
pub(super) const BEAT: Duration = Duration::from_millis(500);

/// Rank 0 has two threads for each rank, which do little: a thousand must not ask for gigabytes.
const STACK_BYTES: usize = 256 << 10;

/// Starts a thread with a small stack.
pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(body).map(drop)
}

/// See the module. One file descriptor, whichever threads use it.
pub(super) struct Link {
    stream: TcpStream,
    heard: Mutex<Instant>,
    ended: AtomicBool,
    unread: (Mutex<bool>, Condvar),
}

impl Link {
    /// A connection after its handshake. Reads and writes wait from now on: they have threads of their own.
    pub(super) fn new(stream: TcpStream) -> io::Result<Arc<Self>> {
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        let (heard, ended) = (Mutex::new(Instant::now()), AtomicBool::new(false));
        Ok(Arc::new(Link { stream, heard, ended, unread: Default::default() }))
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// How long nothing was heard of the peer.
    pub(super) fn silence(&self) -> Duration {
        lock(&self.heard).elapsed()
    }

    /// Whether it has neither ended nor been heard for so long.
    pub(super) fn is_silent(&self, limit: Duration) -> bool {
        !self.ended.load(Ordering::Acquire) && self.silence() > limit
    }

    /// Begins to count its silence anew.
    pub(super) fn heard(&self) {
        *lock(&self.heard) = Instant::now();
    }

    /// The peer said goodbye or is dead: its silence tells nothing from now on. Whether that is new.
    pub(super) fn end(&self) -> bool {
        !self.ended.swap(true, Ordering::AcqRel)
    }

    /// The thread that reads it has ended.
    pub(super) fn unread(&self) {
        *lock(&self.unread.0) = true;
        self.unread.1.notify_all();
    }

    /// Parks until the thread that reads it has ended, or until `deadline`. To close a socket with bytes
    /// unread would reset the connection, and could take the last words that were written with it.
    pub(super) fn wait_until_unread(&self, deadline: Instant) {
        let mut unread = lock(&self.unread.0);
        while !*unread {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            unread = self.unread.1.wait_timeout(unread, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Wakes the threads that read and write it.
    pub(super) fn cut(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Reads a link; every byte is a sign of life, so that a long message is none of silence.
pub(super) struct Heard<'a>(pub(super) &'a Link);

impl Read for Heard<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = (&self.0.stream).read(bytes)?;
        self.0.heard();
        Ok(count)
    }
}

/// A thread that does something again and again until it is dropped.
pub(super) struct Ticker {
    stop: Arc<(Mutex<bool>, Condvar)>,
}

impl Ticker {
    /// Calls `tick` every `period`, with the time since the call before: much more than the period if this
    /// process was stopped and has not heard anybody either.
    pub(super) fn start(
        period: Duration,
        mut tick: impl FnMut(Duration) + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let shared = Arc::clone(&stop);
        spawn("control-beat", move || {
            let (stopped, changed) = &*shared;
            let mut before = Instant::now();
            let mut due = before;
            let mut guard = lock(stopped);
            while !*guard {
                let now = Instant::now();
                if now < due {
                    guard = changed.wait_timeout(guard, due - now).unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
                drop(guard);
                tick(now - before);
                (before, due) = (now, now + period);
                guard = lock(stopped);
            }
        })?;
        Ok(Ticker { stop })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        *lock(&self.stop.0) = true;
        self.stop.1.notify_all();
    }
}
