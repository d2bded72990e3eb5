//! Every change that a save makes to the file system, one method each, with errors that name the path.
//!
//! All of them pass one gate, where the crash tests stop a save at each operation in turn.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::files::{Access, io_error};
use crate::{Error, Result};

/// The file system, as the writers see it.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// Who may read what is created.
    pub(super) access: Access,
    #[cfg(test)]
    pub(super) trap: super::crash_tests::Trap,
}

impl Disk {
    /// Files and folders get this access as they are created.
    #[cfg_attr(not(test), expect(clippy::needless_update, reason = "tests have a second field"))]
    pub(super) fn new(access: Access) -> Self {
        Disk { access, ..Self::default() }
    }

    #[cfg(not(test))]
    fn gate(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn gate(&self) -> io::Result<()> {
        self.trap.pass()
    }

    /// Runs one operation and names it in its error.
    fn run<T>(&self, verb: &str, path: &Path, operation: impl FnOnce() -> io::Result<T>) -> Result<T> {
        self.gate().and_then(|()| operation()).map_err(|e| write_fault(verb, path, &e))
    }

    /// Creates a folder and the folders above it, unless it is there.
    pub(super) fn create_dir_all(&self, path: &Path) -> Result<()> {
        let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
        let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
        self.run("create folder", path, || fs::create_dir_all(path))?;
        missing.into_iter().try_for_each(|dir| self.access.share(dir))
    }

    /// Creates or replaces a small file and syncs it.
    pub(super) fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let file = self.run("create", path, || File::create(path))?;
        self.access.share(path)?;
        self.run("write", path, || (&file).write_all(bytes))?;
        self.sync_file(&file, path)
    }

    /// Creates a file of this size, to be filled by positioned writes.
    pub(super) fn create_sized(&self, path: &Path, size_bytes: u64) -> Result<File> {
        let file = self.run("create", path, || {
            let file = File::create(path)?;
            file.set_len(size_bytes)?;
            Ok(file)
        })?;
        self.access.share(path)?;
        Ok(file)
    }

    /// Opens a file that another rank created.
    pub(super) fn open_writable(&self, path: &Path) -> Result<File> {
        self.run("open", path, || OpenOptions::new().write(true).open(path))
    }

    /// Writes all of `bytes` at `offset_bytes`.
    pub(super) fn write_at(&self, file: &File, path: &Path, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        #[cfg(test)]
        if self.trap.springs_next() {
            // A process dies in the middle of a write.
            file.write_all_at(&bytes[..bytes.len() / 2], offset_bytes).expect("half of a write");
        }
        self.run("write", path, || file.write_all_at(bytes, offset_bytes))
    }

    /// Waits until the file is on the medium; network file systems report a full disk only here.
    pub(super) fn sync_file(&self, file: &File, path: &Path) -> Result<()> {
        self.run("sync", path, || file.sync_all())
    }

    /// Waits until the entries of a folder are on the medium.
    pub(super) fn sync_dir(&self, path: &Path) -> Result<()> {
        self.run("sync folder", path, || match File::open(path)?.sync_all() {
            // Some network file systems cannot sync folders; their renames are durable at the server.
            Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
            other => other,
        })
    }

    /// Renames, replacing a file but never a folder that has entries.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.run("rename", from, || fs::rename(from, to))
    }

    /// Removes a file.
    pub(super) fn remove_file(&self, path: &Path) -> Result<()> {
        self.run("remove", path, || fs::remove_file(path))
    }

    /// Removes a folder with all that is in it. Not atomic: rename it to a `.tmp` name before.
    pub(super) fn remove_dir_all(&self, path: &Path) -> Result<()> {
        #[cfg(test)]
        if self.trap.springs_next() {
            let _ = fs::remove_dir_all(path.join("weights"));
        }
        self.run("remove", path, || fs::remove_dir_all(path))
    }
}

fn write_fault(verb: &str, path: &Path, error: &io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; hint: free space or raise the quota; earlier checkpoints are untouched"
        }
        ErrorKind::FileTooLarge => "; hint: raise `ulimit -f`; earlier checkpoints are untouched",
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            "; hint: choose a folder that this user may write"
        }
        _ => "",
    };
    Error::fault(format!("cannot {verb} {}: {error}{hint}", path.display()))
}

/// An error of reading: the user's input if the file is absent, closed to them or no text, else a fault.
pub(super) fn read_error(path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::InvalidData => Error::input(format!("cannot read {}: not UTF-8 text", path.display())),
        _ => io_error("read", path, error),
    }
}

/// A whole text file.
pub(super) fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| read_error(path, &e))
}
