//! What every reader and writer of token files needs beside [`crate::files`].

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::files::io_error;

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

/// The content of `path`.
pub(crate) fn read_all(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| io_error("read", path, &e))
}

/// Removes a file that may not exist; a failure leaves a stray `.tmp` file, which harms nobody.
pub(crate) fn remove_quietly(path: &Path) {
    let _ = std::fs::remove_file(path);
}
