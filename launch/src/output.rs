//! Standard output that may be a closed pipe.

use std::io::Write;

use tisserand_runtime::{Error, Result};

/// Prints a line. A reader that has gone away (`| head`) is no error; a full disk is.
pub fn line(text: &str) -> Result<()> {
    piece(&format!("{text}\n"))
}

/// Prints without an end of line, at once.
pub fn piece(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::fault(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
