//! What every reader and writer of files here needs: errors that name the file, and replacement in one step.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The error of a failed `action` ("open", "read") on `path`: input when the path is at fault, else a fault.
pub(crate) fn io_error(action: &str, path: &Path, error: &io::Error) -> Error {
    use io::ErrorKind::ReadOnlyFilesystem;
    use io::ErrorKind::{InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied};
    let message = format!("{}: cannot {action}: {error}", path.display());
    match error.kind() {
        NotFound | PermissionDenied | IsADirectory | NotADirectory | InvalidInput | ReadOnlyFilesystem => {
            Error::input(message)
        }
        _ => Error::fault(message),
    }
}

/// `path` with `suffix` appended to its last component (`tok/fr` and `.idx` give `tok/fr.idx`).
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes the entries of the folder that holds `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(|e| io_error("sync", parent, &e))
}

/// Replaces `path` by a file with these bytes: written aside, synced, renamed.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = with_suffix(path, ".tmp");
    let write = || {
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&aside, path)
    };
    write().map_err(|e| {
        // The first error is the one to report; a leftover is overwritten by the next attempt.
        let _ = std::fs::remove_file(&aside);
        io_error("write", path, &e)
    })?;
    sync_parent(path)
}

/// The content of `path`.
pub(crate) fn read_all(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| io_error("read", path, &e))
}

/// Removes a file that may not exist; a failure leaves a stray `.tmp` file, which harms nobody.
pub(crate) fn remove_quietly(path: &Path) {
    let _ = std::fs::remove_file(path);
}
