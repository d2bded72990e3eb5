//! Where ranks report: a socket in a folder that only its owner may enter. Each rank connects twice, says
//! `out RANK PID` or `err RANK PID`, and what follows is what it prints.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tisserand_runtime::{Error, Result};

use super::lines::{Printer, Speaker, Stream};
use super::start::Started;
use crate::private_socket::{self, Folder};

/// Processes that ranks have left behind may hold their output open for ever.
const DRAIN: Duration = Duration::from_secs(5);

const GREETING_BYTES_MAX: u64 = 100;

/// By which the desk greets itself when it closes.
const END: &str = "end 0 0\n";

/// See the module.
pub(super) struct Desk {
    path: PathBuf,
    _folder: Folder,
    shared: Arc<Shared>,
}

struct Shared {
    printer: Printer,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Process ids of the ranks that are connected.
    pids: BTreeMap<usize, i32>,
    /// What is read.
    open: usize,
    /// The desk's own greeting has come: all that came before it are let in.
    ended: bool,
}

impl Desk {
    /// Opens a desk; what comes is printed from now on.
    pub(super) fn open(printer: Printer) -> Result<Self> {
        let (listener, folder) = private_socket::listen(&format!("tisserand-launch-{}", std::process::id()))?;
        let shared = Arc::new(Shared { printer, state: Mutex::default(), changed: Condvar::new() });
        let host = Arc::clone(&shared);
        let let_in = move || {
            for socket in listener.incoming().flatten() {
                // A rank that cannot be read, for want of threads, fails when it prints.
                let _ = host.read(move |shared| shared.serve(socket));
            }
        };
        std::thread::Builder::new().name("desk".to_owned()).spawn(let_in).map_err(no_thread)?;
        Ok(Desk { path: folder.socket(), _folder: folder, shared })
    }

    /// Where ranks connect.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Process ids of the ranks that are connected.
    pub(super) fn pids(&self) -> Vec<i32> {
        self.shared.state().pids.values().copied().collect()
    }

    /// Prints what a process writes by itself: mpirun, or a rank before it has reported.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(super) fn take_output(&self, process: &mut Started) -> Result<()> {
        let who = process.who;
        if let Some(source) = process.child.stdout.take() {
            self.shared.read(move |shared| shared.printer.relay(who, Stream::Out, source))?;
        }
        if let Some(source) = process.child.stderr.take() {
            self.shared.read(move |shared| shared.printer.relay(who, Stream::Err, source))?;
        }
        Ok(())
    }

    /// Waits until all that ranks have written is printed. For after their end.
    pub(super) fn close(self) {
        // Connections are let in in their order.
        let called = UnixStream::connect(&self.path).and_then(|mut desk| desk.write_all(END.as_bytes()));
        let unread = |state: &mut State| state.open > 0 || (called.is_ok() && !state.ended);
        drop(self.shared.changed.wait_timeout_while(self.shared.state(), DRAIN, unread));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Runs `body` on a thread of its own, which counts as open until it ends.
    fn read(self: &Arc<Self>, body: impl FnOnce(&Shared) + Send + 'static) -> Result<()> {
        self.change(|state| state.open += 1);
        let shared = Arc::clone(self);
        let run = move || {
            body(&shared);
            shared.change(|state| state.open -= 1);
        };
        let thread = std::thread::Builder::new().name("output".to_owned()).spawn(run);
        thread.map(drop).map_err(|error| {
            self.change(|state| state.open -= 1);
            no_thread(error)
        })
    }

    /// One connection, to its end.
    fn serve(&self, socket: UnixStream) {
        let mut source = BufReader::new(socket);
        let mut greeting = String::new();
        if source.by_ref().take(GREETING_BYTES_MAX).read_line(&mut greeting).is_err() {
            return;
        }
        if greeting == END {
            return self.change(|state| state.ended = true);
        }
        let Some((stream, rank, pid)) = parse(&greeting) else { return };
        self.change(|state| {
            state.pids.insert(rank, pid);
        });
        self.printer.relay(Speaker::Rank(rank), stream, source);
        self.change(|state| {
            state.pids.remove(&rank);
        });
    }
}

fn parse(greeting: &str) -> Option<(Stream, usize, i32)> {
    let mut words = greeting.strip_suffix('\n')?.split(' ');
    let stream = match words.next()? {
        "out" => Stream::Out,
        "err" => Stream::Err,
        _ => return None,
    };
    let (rank, pid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (pid > 0 && words.next().is_none()).then_some((stream, rank, pid))
}

fn no_thread(error: std::io::Error) -> Error {
    Error::fault(format!("cannot start a thread that reads the output of ranks: {error}"))
}
