//! Sockets between processes of one user on one machine: each in a folder that nobody else may enter.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use nix::unistd::geteuid;
use tisserand_runtime::files::io_error;
use tisserand_runtime::{Error, Result};

/// The socket in its folder.
const NAME: &str = "socket";

/// The folder of a socket that is listened on. Dropping it removes both.
pub(crate) struct Folder(PathBuf);

/// Listens, in a new folder of this name where temporary files are.
///
/// # Errors
/// The folder cannot be made, or its path is too long for a socket.
pub(crate) fn listen(name: &str) -> Result<(UnixListener, Folder)> {
    let folder = Folder(path(name));
    // A process that was killed has left it behind. What is somebody else's, stays, and is an error.
    let _ = fs::remove_dir_all(&folder.0);
    DirBuilder::new()
        .mode(0o700)
        .create(&folder.0)
        .map_err(|error| io_error("create folder", &folder.0, &error))?;
    let path = folder.socket();
    let listener = UnixListener::bind(&path).map_err(|error| {
        Error::input(format!("cannot open {}: {error}; hint: set TMPDIR to a short path", path.display()))
    })?;
    Ok((listener, folder))
}

/// Connects to the process that listens under this name.
///
/// # Errors
/// There is none, or the folder is not this user's alone.
pub(crate) fn connect(name: &str) -> io::Result<UnixStream> {
    let folder = path(name);
    let found = fs::symlink_metadata(&folder)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o077 != 0 {
        return Err(ErrorKind::PermissionDenied.into());
    }
    UnixStream::connect(folder.join(NAME))
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(name)
}

impl Folder {
    /// Where the socket is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join(NAME)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left if it fails is an empty folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}
