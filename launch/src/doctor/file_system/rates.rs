//! How fast a file system takes bytes, and files.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tisserand_collectives::control::Combine;
use tisserand_collectives::{Channel, ControlPlane};
use tisserand_runtime::files::io_error;
use tisserand_runtime::{Error, Result};

use super::super::finding::{Better, Finding};
use super::{CHECK, file_of};

/// Of one write.
const PIECE_BYTES: usize = 8 << 20;

/// At most so much by a rank, and by all of them: quotas are real.
const MOST_BYTES: usize = 512 << 20;
const MOST_BYTES_OF_ALL: usize = 64 << 30;

/// At most so many files by a rank, and by all of them.
const MOST_FILES: usize = 2000;
const MOST_FILES_OF_ALL: usize = 50_000;

/// All ranks at the same time: half of `seconds` bytes, half files.
pub(super) fn check(control: &dyn ControlPlane, folder: &Path, seconds: f64) -> Result<Vec<Finding>> {
    let (rank, ranks) = (control.rank(), control.world_size());
    let mut findings = Vec::new();

    control.barrier(Channel::Step)?;
    let file = file_of(folder, "write", rank);
    let most = MOST_BYTES.min(MOST_BYTES_OF_ALL / ranks).max(PIECE_BYTES);
    let written = write(&file, most, seconds / 2.0);
    let _ = fs::remove_file(&file);
    findings.extend(rows(control, "write and fsync", "MB/s", 1e6, written)?);

    control.barrier(Channel::Step)?;
    let most = MOST_FILES.min(MOST_FILES_OF_ALL / ranks).max(10);
    let files: Vec<PathBuf> = (0..most).map(|i| file_of(folder, &format!("file-{i}"), rank)).collect();
    let made = series(&files, seconds / 4.0, "create", |file| File::create(file).map(drop));
    let made_count = made.as_ref().map_or(0, |made| made.0 as usize);
    findings.extend(rows(control, "create", "files/s", 1.0, made)?);
    let seen = series(&files[..made_count], seconds / 4.0, "examine", |file| fs::metadata(file).map(drop));
    findings.extend(rows(control, "stat", "files/s", 1.0, seen)?);
    let gone = series(&files[..made_count], f64::INFINITY, "remove", |file| fs::remove_file(file));
    findings.extend(rows(control, "unlink", "files/s", 1.0, gone)?);
    Ok(findings)
}

/// What this rank has done, and in how many seconds.
type Done = Result<(f64, f64)>;

/// Writes and flushes; bytes.
fn write(path: &Path, most: usize, seconds: f64) -> Done {
    let fail = |error: std::io::Error| io_error("write", path, &error);
    // Some file systems leave zeros out, and compress what repeats.
    let piece: Vec<u8> = (0..PIECE_BYTES as u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
    let begun = Instant::now();
    let mut file = File::create(path).map_err(fail)?;
    let mut bytes = 0;
    // What lies in memory only is fast, so the time until it is flushed counts, and half of it is left for that.
    while bytes == 0 || (bytes < most && begun.elapsed().as_secs_f64() < seconds / 2.0) {
        file.write_all(&piece).map_err(fail)?;
        bytes += PIECE_BYTES;
    }
    file.sync_all().map_err(fail)?;
    Ok((bytes as f64, begun.elapsed().as_secs_f64()))
}

/// The same with each file, while there is time; files.
fn series(
    files: &[PathBuf],
    seconds: f64,
    doing: &str,
    mut work: impl FnMut(&Path) -> std::io::Result<()>,
) -> Done {
    let begun = Instant::now();
    let mut count = 0;
    for file in files {
        if count > 0 && begun.elapsed().as_secs_f64() > seconds {
            break;
        }
        work(file).map_err(|error| io_error(doing, file, &error))?;
        count += 1;
    }
    Ok((f64::from(count), begun.elapsed().as_secs_f64().max(1e-9)))
}

/// This rank's rate, and at rank 0 that of all together: all that was done in the time of the slowest.
fn rows(control: &dyn ControlPlane, name: &str, unit: &str, scale: f64, done: Done) -> Result<Vec<Finding>> {
    let (amount, seconds) = *done.as_ref().unwrap_or(&(0.0, 0.0));
    let together = control.reduce(Channel::Step, Combine::Sum, &[amount as u64])?[0] as f64;
    let slowest = control.max(Channel::Step, (seconds * 1e9) as u64)? as f64 / 1e9;
    let mut rows = vec![match done {
        Ok(_) => Finding::figure(CHECK, name, amount / seconds.max(1e-9) / scale, unit, Better::Higher),
        Err(error) => failed(name, &error),
    }];
    if control.rank() == 0 && control.world_size() > 1 && slowest > 0.0 {
        let name = format!("{name}, all ranks");
        rows.push(Finding::number(CHECK, &name, together / slowest / scale, unit));
    }
    Ok(rows)
}

fn failed(name: &str, error: &Error) -> Finding {
    Finding::failed(CHECK, name, error)
}
