//! What the first rank of a machine reads for all ranks of it, before they can hear from rank 0: the run file, and the
//! secret by which ranks recognise each other; and what it opens for them afterwards (`files`). A shared file system then
//! sees one rank a machine, however many it has. What comes later, rank 0 reads for all and tells over the control plane.
//!
//! Ranks of a machine find each other by a socket whose name follows from what they have in common: user, job, port of
//! rank 0, command line and folder. Who finds nobody there (ranks in containers of their own, say), reads by itself.

mod files;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tisserand_runtime::config::Config;
use tisserand_runtime::opener::Opener;
use tisserand_runtime::{Error, Result};

use crate::ranks::Ranks;
use crate::{env, private_socket};

/// The secret of a run.
pub type Secret = [u8; 32];

/// How long the first rank is waited for. It may be the slowest to start, but then little is lost by reading twice.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(10);

/// This rank's way to what its machine reads once.
pub struct Node {
    name: String,
    role: Role,
    world_size: usize,
    /// Ranks of the machine beside the first.
    others: usize,
    /// The first rank of the machine has told it.
    knows_secret: bool,
}

enum Role {
    /// Nobody to read for, or to ask.
    Alone,
    /// The first rank, before it has read the run file.
    First,
    /// The first rank, when it has.
    Tells(Arc<Shelf>),
    /// Another, before it has asked.
    Other,
    /// Another that has been told the run file, and later the secret.
    Asks(UnixStream),
}

/// What the first rank has for the others. It is there as long as this rank or another one starts: what has been opened
/// would otherwise stay open, and take room on the disk when it is long deleted.
struct Shelf {
    /// Once it is known.
    secret: Mutex<Option<Secret>>,
    known: Condvar,
    opener: Opener,
}

impl Node {
    /// Of this process's rank, or of all of its ranks, if they are threads.
    pub fn of(ranks: &Ranks) -> Self {
        let role = match (ranks.local_rank, ranks.local_size) {
            (_, 1) => Role::Alone,
            (0, _) => Role::First,
            _ => Role::Other,
        };
        let mut same = DefaultHasher::new();
        (std::env::args_os().collect::<Vec<_>>(), std::env::current_dir().ok(), env::job_id())
            .hash(&mut same);
        (&ranks.first_host, ranks.port, ranks.world_size).hash(&mut same);
        let name = format!("tisserand-{}-{:016x}", nix::unistd::geteuid(), same.finish());
        Node { name, role, world_size: ranks.world_size, others: ranks.local_size - 1, knows_secret: false }
    }

    /// The run file as it is understood: by `load`, or as the first rank of the machine has it.
    ///
    /// # Errors
    /// Of `load`.
    pub fn config(&mut self, load: impl FnOnce() -> Result<Config>) -> Result<Config> {
        if matches!(self.role, Role::Other) {
            if let Ok((config, stream)) = self.ask() {
                self.role = Role::Asks(stream);
                return Ok(config);
            }
            self.role = Role::Alone;
        }
        let config = load()?;
        if matches!(self.role, Role::First) {
            // If it cannot tell, the others read by themselves.
            self.role = self.tell(&config).map_or(Role::Alone, Role::Tells);
        }
        Ok(config)
    }

    /// The secret: by `read`, or as the first rank of the machine has it, by then.
    ///
    /// # Errors
    /// Of `read`.
    pub fn secret(&mut self, deadline: Instant, read: impl FnOnce() -> Result<Secret>) -> Result<Secret> {
        if let Role::Asks(stream) = &mut self.role
            && !self.knows_secret
        {
            let mut secret = Secret::default();
            // A timeout of zero would be none.
            let left = deadline.saturating_duration_since(Instant::now()).max(LOOK);
            if stream.set_read_timeout(Some(left)).and_then(|()| stream.read_exact(&mut secret)).is_ok() {
                self.knows_secret = true;
                return Ok(secret);
            }
            self.role = Role::Alone;
        }
        let secret = read()?;
        if let Role::Tells(shelf) = &self.role {
            *shelf.secret.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret);
            shelf.known.notify_all();
        }
        Ok(secret)
    }

    /// How this process opens what all ranks of the machine read, from now on until the start is over. It is given once.
    pub fn opener(&mut self) -> Opener {
        match std::mem::replace(&mut self.role, Role::Alone) {
            Role::Tells(shelf) => shelf.opener.clone(),
            Role::Asks(stream) => files::opener(stream),
            Role::Alone | Role::First | Role::Other => Opener::once(),
        }
    }

    fn ask(&self) -> io::Result<(Config, UnixStream)> {
        let deadline = Instant::now() + PATIENCE;
        let mut stream = loop {
            match private_socket::connect(&self.name) {
                Err(_) if Instant::now() < deadline => std::thread::sleep(LOOK),
                connected => break connected?,
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut text = String::new();
        let length = u64::from(u32::from_le_bytes(length));
        (&stream).take(length).read_to_string(&mut text)?;
        if text.len() as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let config = Config::parse(&text, "run.toml", &[], Some(self.world_size), &|_| None);
        Ok((config.map_err(io::Error::other)?, stream))
    }

    fn tell(&self, config: &Config) -> Result<Arc<Shelf>> {
        let (listener, folder) = private_socket::listen(&self.name)?;
        let shelf = Shelf { secret: Mutex::default(), known: Condvar::new(), opener: Opener::once() };
        let (shelf, text) = (Arc::new(shelf), config.to_toml());
        let mut message = (text.len() as u32).to_le_bytes().to_vec();
        message.extend(text.into_bytes());
        let (others, told) = (self.others, Arc::downgrade(&shelf));
        let let_in = move || {
            let message = Arc::new(message);
            // If one does not come, it reads by itself; this thread then ends with the process.
            for stream in listener.incoming().take(others).flatten() {
                let (message, told) = (Arc::clone(&message), Weak::clone(&told));
                // Who cannot be served, for want of threads, finds the connection closed.
                let _ = spawn(move || serve(stream, &message, &told));
            }
            drop(folder);
        };
        let started = spawn(let_in);
        started
            .map_err(|error| Error::fault(format!("cannot start the thread that tells ranks: {error}")))?;
        Ok(shelf)
    }
}

fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name("node".to_owned()).spawn(body).map(drop)
}

/// Tells one of the others the run file, and the secret as soon as it is known; then opens files for it.
fn serve(mut stream: UnixStream, message: &[u8], shelf: &Weak<Shelf>) {
    let Some(shelf) = shelf.upgrade() else { return };
    if stream.write_all(message).is_err() {
        return;
    }
    let secret = shelf.secret.lock().unwrap_or_else(PoisonError::into_inner);
    let known = shelf.known.wait_while(secret, |secret| secret.is_none());
    let secret = *known.unwrap_or_else(PoisonError::into_inner);
    // Who has gone needs nothing.
    if let Some(secret) = secret
        && stream.write_all(&secret).is_ok()
    {
        let _ = files::serve(&stream, &shelf.opener);
    }
}
