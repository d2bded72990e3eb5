//! The file by which the ranks of one run recognise each other: `RUN/.control-<job id>`, 32 random bytes that only
//! its owner may read. Rank 0 writes it before it waits for the others, and removes it when all are there.
//!
//! A file, since the run folder is what all ranks share in any case (each writes its part of a checkpoint there),
//! and a folder that they do not share is better found out now than at the first checkpoint. The environment,
//! which launchers copy to all ranks, is readable by whoever may look at the process, and mpirun has no variable
//! that is random and not also in its command lines.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tisserand_runtime::files::{Access, io_error, temporary_of};
use tisserand_runtime::{Error, Result};

const BYTES: usize = 32;

/// How soon a rank looks for the file again, at first, and after a while: a shared file system answers all of them.
const LOOKS: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];

/// Where the secret is.
pub(super) struct SecretFile {
    path: PathBuf,
}

/// The secret at rank 0. Dropping it removes the file.
pub(super) struct Written<'a> {
    file: &'a SecretFile,
    pub(super) bytes: [u8; BYTES],
}

impl SecretFile {
    /// Of the job in this run folder.
    pub(super) fn new(run_dir: &Path, job_id: &str) -> Self {
        let clean = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let job: String = job_id.chars().take(100).map(clean).collect();
        SecretFile { path: run_dir.join(format!(".control-{job}")) }
    }

    /// Makes a secret, and the folder if need be.
    pub(super) fn write(&self, group: Option<&str>) -> Result<Written<'_>> {
        let access = match group {
            None | Some("") => Access::umask(),
            Some(name) => Access::group(name)?,
        };
        if let Some(dir) = self.path.parent() {
            access.create_dir_all(dir)?;
        }
        let mut bytes = [0; BYTES];
        let random = Path::new("/dev/urandom");
        let read = File::open(random).and_then(|mut file| file.read_exact(&mut bytes));
        read.map_err(|error| io_error("read", random, &error))?;
        let temporary = temporary_of(&self.path);
        // A file that is there already, may be open to others.
        let _ = fs::remove_file(&temporary);
        let written = File::options().write(true).create_new(true).mode(0o600).open(&temporary);
        written
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| fs::rename(&temporary, &self.path))
            .map_err(|error| io_error("write", &self.path, &error))?;
        Ok(Written { file: self, bytes })
    }

    /// The secret, once rank 0 has written it.
    pub(super) fn wait(&self, deadline: Instant, first_host: &str) -> Result<[u8; BYTES]> {
        let (began, mut pause) = (Instant::now(), LOOKS[0]);
        loop {
            match self.read() {
                Err(error) if error.kind() == ErrorKind::NotFound && Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause = LOOKS[1].min(2 * pause);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let waited = began.elapsed().as_secs();
                    return Err(Error::fault(format!(
                        "{} did not come within {waited} s from rank 0 on {first_host}; hint: does it run, and do all \
                         machines share run.dir?",
                        self.path.display()
                    )));
                }
                read => return read.map_err(|error| io_error("read", &self.path, &error)),
            }
        }
    }

    /// The secret that is there now.
    pub(super) fn read(&self) -> std::io::Result<[u8; BYTES]> {
        let mut file = File::open(&self.path)?;
        if file.metadata()?.mode() & 0o077 != 0 {
            return Err(std::io::Error::other("others may read it, so it is no secret; hint: remove it"));
        }
        let mut bytes = [0; BYTES];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        // If it is gone already, so much the better.
        let _ = fs::remove_file(&self.file.path);
    }
}
