//! What the first rank of a machine reads for all ranks of it, before they can hear from rank 0: the run file, and the
//! secret by which ranks recognise each other. A shared file system then sees one reader a machine, however many ranks
//! it has. What comes later, rank 0 reads for all and tells over the control plane.
//!
//! Ranks of a machine find each other by a socket whose name follows from what they have in common: user, job, port of
//! rank 0, command line and folder. Who finds nobody there (ranks in containers of their own, say), reads by itself.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tisserand_runtime::config::Config;
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
    /// Another that has been told the run file.
    Asks(UnixStream),
}

/// Where the secret lies once it is known.
#[derive(Default)]
struct Shelf {
    secret: Mutex<Option<Secret>>,
    known: Condvar,
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
        Node { name, role, world_size: ranks.world_size, others: ranks.local_size - 1 }
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
        if let Role::Asks(stream) = &mut self.role {
            let mut secret = Secret::default();
            // A timeout of zero would be none.
            let left = deadline.saturating_duration_since(Instant::now()).max(LOOK);
            let told = stream.set_read_timeout(Some(left)).and_then(|()| stream.read_exact(&mut secret));
            self.role = Role::Alone;
            if told.is_ok() {
                return Ok(secret);
            }
        }
        let secret = read()?;
        if let Role::Tells(shelf) = &self.role {
            *shelf.secret.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret);
            shelf.known.notify_all();
        }
        Ok(secret)
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
        let (shelf, text) = (Arc::<Shelf>::default(), config.to_toml());
        let mut message = (text.len() as u32).to_le_bytes().to_vec();
        message.extend(text.into_bytes());
        let (others, told) = (self.others, Arc::clone(&shelf));
        let let_in = move || {
            let message = Arc::new(message);
            // If one does not come, it reads by itself; this thread then ends with the process.
            for stream in listener.incoming().take(others).flatten() {
                let (message, told) = (Arc::clone(&message), Arc::clone(&told));
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

/// Tells one of the others the run file, and the secret as soon as it is known.
fn serve(mut stream: UnixStream, message: &[u8], shelf: &Shelf) {
    if stream.write_all(message).is_err() {
        return;
    }
    let secret = shelf.secret.lock().unwrap_or_else(PoisonError::into_inner);
    let known = shelf.known.wait_while(secret, |secret| secret.is_none());
    if let Some(secret) = *known.unwrap_or_else(PoisonError::into_inner) {
        // Who has gone needs none.
        let _ = stream.write_all(&secret);
    }
}
