//! Errors as the user meets them: one line that says what, which value, where, and what to do.

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
    /// An op, the arena or the device failed. Exit code 1.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Another rank ended the run, with its exit code.
    #[error(transparent)]
    Peer(#[from] Failure),
}

impl From<CommError> for Error {
    fn from(error: CommError) -> Self {
        match error {
            CommError::Failed(failure) => Error::Peer(failure),
            error => Error::Fault(error.to_string()),
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

    /// The exit code of the command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Input(_) => 2,
            Error::Fault(_) | Error::Kernel(_) => 1,
            Error::Peer(failure) => failure.exit_code,
        }
    }
}
