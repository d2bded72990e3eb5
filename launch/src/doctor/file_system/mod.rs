//! The file system of `--dir`: what it is, how fast it takes bytes and files, and whether it keeps the promises that
//! run folders rest on.
//!
//! - here: the folder of the check, what file system it is on, how much is free;
//! - `rates`: sequential writes with fsync; files made, looked at and removed;
//! - `promises`: locks, renames, and whether other machines see what is written.

mod promises;
mod rates;

use std::fs;
use std::path::{Path, PathBuf};

use tisserand_collectives::{Channel, ControlPlane};
use tisserand_runtime::Result;
use tisserand_runtime::files::io_error;

use super::finding::Finding;
use super::hosts::Hosts;
use super::memory::GIB;

pub(super) const CHECK: &str = "file_system";

/// A folder for the check alone, below the one that is examined. Dropping it removes it.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes `DIR/.tisserand-doctor-<job>-<user>`. `dir` must be there.
    ///
    /// # Errors
    /// Input: no such folder, or one that may not be written.
    pub fn make(dir: &Path, job_id: &str) -> Result<Self> {
        if !dir.is_dir() {
            let missing = std::io::Error::from(match dir.exists() {
                true => std::io::ErrorKind::NotADirectory,
                false => std::io::ErrorKind::NotFound,
            });
            return Err(io_error("examine", dir, &missing));
        }
        let path = Self::place(dir, job_id);
        // What a doctor that was killed has left.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).map_err(|error| io_error("create folder", &path, &error))?;
        Ok(Scratch(path))
    }

    /// Where all ranks look for it.
    pub fn place(dir: &Path, job_id: &str) -> PathBuf {
        let clean = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let (job, user) = (job_id.chars().map(clean).collect::<String>(), nix::unistd::getuid());
        dir.join(format!(".tisserand-doctor-{job}-{user}"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // If it is gone already, so much the better.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `folder` is the [`Scratch`] that rank 0 has made.
pub(super) fn check(
    control: &dyn ControlPlane,
    hosts: &Hosts,
    folder: &Path,
    seconds: f64,
) -> Result<Vec<Finding>> {
    let mut findings = vec![kind(folder, hosts.len())];
    findings.push(free(folder));
    findings.push(promises::shared(control, folder)?);
    findings.extend(rates::check(control, folder, seconds)?);
    findings.push(promises::locks(control, hosts, folder)?);
    // One of a machine looks at what the kernel does for all of its ranks.
    if hosts.local_rank(control.rank()) == 0 {
        findings.push(promises::renames(folder, control.rank()));
    }
    control.barrier(Channel::Step)?;
    Ok(findings)
}

/// A file of one rank.
fn file_of(folder: &Path, what: &str, rank: usize) -> PathBuf {
    folder.join(format!("{what}-{rank:05}"))
}

fn kind(folder: &Path, hosts: usize) -> Finding {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let Some((kind, mount)) = mounted(&mounts, &absolute) else {
        return Finding::text(CHECK, "type", "not told by /proc/self/mountinfo");
    };
    let finding = Finding::text(CHECK, "type", format!("{kind} at {mount}"));
    match kind {
        "tmpfs" | "ramfs" => finding.warn(format!(
            "{mount} is memory: gone with the job, and not seen by others; hint: a work or scratch file system"
        )),
        "overlay" if hosts > 1 => {
            finding.warn("an overlay is a container's own; hint: bind a shared file system into the container")
        }
        _ => finding,
    }
}

/// Type and mount point of the file system that a path is on. Fields of a line: proc(5), /proc/pid/mountinfo.
fn mounted<'a>(mounts: &'a str, path: &Path) -> Option<(&'a str, &'a str)> {
    let parsed = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        Some((after.split(' ').next()?, before.split(' ').nth(4)?))
    });
    // Of two at one place the later one hides the other.
    parsed
        .filter(|(_, mount)| path.starts_with(mount))
        .max_by_key(|(_, mount)| Path::new(mount).components().count())
}

fn free(folder: &Path) -> Finding {
    let told = match nix::sys::statvfs::statvfs(folder) {
        Ok(told) => told,
        Err(errno) => return Finding::failed(CHECK, "free", &errno),
    };
    #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
    let bytes = told.blocks_available() as f64 * told.fragment_size() as f64;
    let finding = Finding::number(CHECK, "free", bytes / GIB, "GiB");
    match bytes < 10.0 * GIB {
        true => finding.warn("less than 10 GiB are free; hint: `tisserand plan` says what checkpoints take"),
        false => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /work rw shared:2 - lustre 10.0.0.1@o2ib:/work rw
24 23 0:6 / /work/tmp rw - tmpfs tmpfs rw
";
        let of = |path: &str| mounted(mounts, Path::new(path)).unwrap();
        assert_eq!(of("/home/me"), ("ext4", "/"));
        assert_eq!(of("/work/me"), ("lustre", "/work"));
        assert_eq!(of("/work/tmp/x"), ("tmpfs", "/work/tmp"));
        assert_eq!(of("/works"), ("ext4", "/"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_bad_input() {
        let error = Scratch::make(Path::new("/no/such/folder"), "1").err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().starts_with("cannot examine /no/such/folder: no such file or folder"),
            "{error}"
        );
    }
}
