//! Errors as the user meets them: one line that says what, which value, where, and what to do.

use std::any::Any;

use tisserand_collectives::{CommError, Failure};
use tisserand_kernels::KernelError;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error that ends a command. Its kind decides the exit code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user's input is at fault: usage, run file, data file, checkpoint. Exit code 2.
    #[error("{0}")]
    Input(String),
    /// Something failed while running: disk, device, another process, a diverging loss. Exit code 1.
    #[error("{0}")]
    Fault(String),
    /// The run refuses to go on, though nothing has failed now: no rank is to blame. Exit code 1.
    #[error("{0}")]
    Refused(String),
    /// An op, the arena or the device failed. Exit code 1.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A collective failed at this rank, and maybe at others with it. Exit code 1.
    #[error(transparent)]
    Collective(CommError),
    /// Another rank ended the run, with its exit code.
    #[error(transparent)]
    Peer(#[from] Failure),
}

impl From<CommError> for Error {
    fn from(error: CommError) -> Self {
        match error {
            CommError::Failed(failure) => Error::Peer(failure),
            error => Error::Collective(error),
        }
    }
}

impl Error {
    /// Bad input; `message` names the file, the key and the value, and says what to do.
    pub fn input(message: impl Into<String>) -> Self {
        Error::Input(message.into())
    }

    /// A failure at run time.
    pub fn fault(message: impl Into<String>) -> Self {
        Error::Fault(message.into())
    }

    /// What a panic says, as a failure of whoever panicked.
    pub fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Error::Fault(format!("panicked: {}", text.unwrap_or("no message")))
    }

    /// What the other ranks are told of an error that `rank` returns.
    pub fn failure(&self, rank: usize) -> Failure {
        match self {
            Error::Peer(failure) => failure.clone(),
            error => {
                let (cause, exit_code) = (error.to_string(), error.exit_code());
                Failure { rank, cause, exit_code, is_refusal: matches!(error, Error::Refused(_)) }
            }
        }
    }

    /// Whether a rank met this itself, and not because another one had failed.
    pub fn is_own(&self) -> bool {
        !matches!(self, Error::Peer(_) | Error::Collective(_))
    }

    /// The exit code of the command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Input(_) => 2,
            Error::Fault(_) | Error::Refused(_) | Error::Kernel(_) | Error::Collective(_) => 1,
            Error::Peer(failure) => failure.exit_code,
        }
    }
}
