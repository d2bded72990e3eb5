//! Files that must never be seen half written, who may read them, and what the user hears when one fails.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group};

use crate::{Error, Result};

/// Who may read the files of a run: whatever the umask says, or also the members of a Unix group.
#[derive(Clone, Debug, Default)]
pub struct Access {
    group: Option<(String, Gid)>,
}

impl Access {
    /// Modes and group as the process's umask and the parent folder give them.
    pub fn umask() -> Self {
        Access { group: None }
    }

    /// Everything also readable by the Unix group `name` (the key `run.group`), whatever the umask.
    ///
    /// # Errors
    /// Input, if there is no such group.
    pub fn group(name: &str) -> Result<Self> {
        let refuse = |why: String| {
            Error::input(format!(
                "run.group = \"{name}\": {why}; hint: `id -Gn` lists your groups, \"\" leaves it to the umask"
            ))
        };
        match Group::from_name(name) {
            Ok(Some(group)) => Ok(Access { group: Some((name.to_owned(), group.gid)) }),
            Ok(None) => Err(refuse("no such Unix group on this machine".to_owned())),
            Err(errno) => Err(refuse(format!("cannot look the group up: {}", errno.desc()))),
        }
    }

    /// Gives `path` (just created by us) to the group: `g+r` for a file; `g+rx` and setgid for a folder,
    /// so that later files inherit the group. Does nothing without a group.
    ///
    /// # Errors
    /// Input, if the process may not give files to that group.
    pub fn share(&self, path: &Path) -> Result<()> {
        let Some((name, gid)) = &self.group else { return Ok(()) };
        // In this order: chown clears the setgid bit.
        chown(path, None, Some(gid.as_raw())).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => Error::input(format!(
                "run.group = \"{name}\": cannot give {} to this group; \
                 hint: you must be a member of it (`id -Gn` lists your groups)",
                path.display()
            )),
            _ => io_error("change the group of", path, &error),
        })?;
        let metadata = fs::metadata(path).map_err(|e| io_error("examine", path, &e))?;
        let added = if metadata.is_dir() { 0o2050 } else { 0o040 };
        let mode = metadata.permissions().mode() | added;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(|e| io_error("change the mode of", path, &e))
    }

    /// Creates a folder and its missing parents, and shares each folder that it created.
    ///
    /// # Errors
    /// Input or fault by cause, as [`io_error`].
    pub fn create_dir_all(&self, path: &Path) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(path) {
            Ok(()) => self.share(path),
            // Another process was quicker.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(io_error("create folder", path, &io::Error::from(ErrorKind::NotADirectory)))
            }
            Err(error) => Err(io_error("create folder", path, &error)),
        }
    }

    /// Opens `path` for appending, creates it if need be, and shares it if it was created.
    ///
    /// # Errors
    /// As [`io_error`].
    pub fn append(&self, path: &Path) -> Result<File> {
        let fail = |e: io::Error| io_error("write", path, &e);
        match File::options().append(true).create_new(true).open(path) {
            Ok(file) => self.share(path).map(|()| file),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                File::options().append(true).open(path).map_err(fail)
            }
            Err(error) => Err(fail(error)),
        }
    }

    /// Replaces `path` so that readers see the old bytes or the new ones, and that after this returns
    /// the new ones survive a crash of the machine: `.tmp` beside it, fsync, rename, fsync of the folder.
    ///
    /// # Errors
    /// As [`io_error`]; the old file is then untouched.
    pub fn write_atomic(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.replace_through(path, bytes, |file| file.sync_all())?;
        sync_folder_of(path)
    }

    /// As [`Access::write_atomic`] without the two fsyncs, which cost tens of milliseconds on a busy file
    /// system: readers still never see half a file, but a crash of the machine may lose it.
    ///
    /// # Errors
    /// As [`io_error`]; the old file is then untouched.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.replace_through(path, bytes, |_| Ok(()))
    }

    fn replace_through(
        &self,
        path: &Path,
        bytes: &[u8],
        finish: impl Fn(&File) -> io::Result<()>,
    ) -> Result<()> {
        let temporary = temporary_of(path);
        let write = || -> Result<()> {
            let fail = |e: io::Error| io_error("write", path, &e);
            let mut file = File::create(&temporary).map_err(fail)?;
            self.share(&temporary)?;
            file.write_all(bytes).map_err(fail)?;
            finish(&file).map_err(fail)?;
            fs::rename(&temporary, path).map_err(fail)
        };
        write().inspect_err(|_| {
            // The first error is the one to report; what is left over is overwritten by the next attempt.
            let _ = fs::remove_file(&temporary);
        })
    }
}

/// [`Access::write_atomic`] with the permissions of the umask.
///
/// # Errors
/// As [`io_error`].
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    Access::umask().write_atomic(path, bytes)
}

/// Where a file is written before it is renamed to `path`: `path` with `.tmp` added.
pub fn temporary_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Makes renames and creations in the folder of `path` survive a crash of the machine.
///
/// # Errors
/// As [`io_error`].
pub fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match File::open(folder).and_then(|f| f.sync_all()) {
        Ok(()) => Ok(()),
        // Some network file systems have no fsync for folders: there the rename is as durable as it gets.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        Err(error) => Err(io_error("sync folder", folder, &error)),
    }
}

/// The one-line error for a failed operation on `path`: `cannot {doing} {path}: cause; hint: ...`.
///
/// What the user chose wrongly (a missing, read-only, forbidden or impossible path) is bad input; a full
/// disk or a failing one is a fault.
pub fn io_error(doing: &str, path: &Path, error: &io::Error) -> Error {
    let failed = format!("cannot {doing} {}", path.display());
    match error.kind() {
        ErrorKind::NotFound => {
            Error::input(format!("{failed}: no such file or folder; hint: check the path"))
        }
        ErrorKind::PermissionDenied => Error::input(format!(
            "{failed}: permission denied; hint: choose a path that you may use, or ask its owner for access"
        )),
        ErrorKind::ReadOnlyFilesystem => Error::input(format!(
            "{failed}: the file system is read-only here; hint: choose a path on a scratch or work file system"
        )),
        ErrorKind::NotADirectory => Error::input(format!(
            "{failed}: a file stands where a folder is needed; hint: choose another path or move the file away"
        )),
        ErrorKind::IsADirectory => Error::input(format!(
            "{failed}: a folder stands where a file is needed; hint: choose another path or move the folder away"
        )),
        ErrorKind::StorageFull => {
            Error::fault(format!("{failed}: no space left on the file system; hint: free some and run again"))
        }
        ErrorKind::FileTooLarge => Error::fault(format!(
            "{failed}: larger than this process may write; hint: raise `ulimit -f` or use another file system"
        )),
        ErrorKind::InvalidInput | ErrorKind::InvalidFilename => {
            Error::input(format!("{failed}: not a path that can exist; hint: check the path"))
        }
        ErrorKind::QuotaExceeded => Error::fault(format!(
            "{failed}: disk quota exceeded (bytes or number of files); hint: free some and run again"
        )),
        _ => Error::fault(format!("{failed}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_atomic_replaces_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        fs::write(temporary_of(&path), "left over by a crash, and longer than what follows").unwrap();
        for text in ["first", "2"] {
            write_atomic(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_path_cause_and_remedy_on_one_line() {
        let kinds = [
            (ErrorKind::NotFound, 2, "no such file"),
            (ErrorKind::PermissionDenied, 2, "permission denied"),
            (ErrorKind::ReadOnlyFilesystem, 2, "read-only"),
            (ErrorKind::NotADirectory, 2, "folder is needed"),
            (ErrorKind::IsADirectory, 2, "file is needed"),
            (ErrorKind::StorageFull, 1, "no space left"),
            (ErrorKind::InvalidInput, 2, "not a path"),
            (ErrorKind::FileTooLarge, 1, "ulimit"),
            (ErrorKind::QuotaExceeded, 1, "quota exceeded"),
        ];
        for (kind, exit_code, cause) in kinds {
            let error = io_error("write", Path::new("/some/where"), &io::Error::from(kind));
            let text = error.to_string();
            assert_eq!(error.exit_code(), exit_code, "{text}");
            assert!(text.starts_with("cannot write /some/where: "), "{text}");
            assert!(text.contains(cause) && text.contains("; hint: ") && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn an_unknown_group_is_refused_by_key_and_name() {
        let error = Access::group("no-such-group-here").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with("run.group = \"no-such-group-here\": no such"), "{error}");
    }

    #[test]
    fn writing_into_a_missing_folder_is_an_error_and_not_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_atomic(&folder.path().join("missing/file"), b"x").unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
