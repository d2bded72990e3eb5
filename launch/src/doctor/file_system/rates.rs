//! How fast a file system takes bytes, and files.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tisserand_collectives::control::Combine;
use tisserand_collectives::{Channel, ControlPlane};
use tisserand_runtime::Result;
use tisserand_runtime::files::io_error;

use super::super::finding::{Better, Finding};
use super::super::measure::{ROUNDS, rounds};
use super::{CHECK, file_of};

/// Of one write.
const PIECE_BYTES: usize = 8 << 20;

/// In all rounds at most so much by a rank, and by all of them: quotas are real.
const MOST_BYTES: usize = 512 << 20;
const MOST_BYTES_OF_ALL: usize = 64 << 30;

/// At most so many files by a rank, and by all of them.
const MOST_FILES: usize = 2000;
const MOST_FILES_OF_ALL: usize = 50_000;

/// Round by round, and all ranks at the same time: half of `seconds` bytes, half files.
pub(super) fn check(control: &dyn ControlPlane, folder: &Path, seconds: f64) -> Result<Vec<Finding>> {
    let (rank, ranks) = (control.rank(), control.world_size());
    let file = file_of(folder, "write", rank);
    let most_bytes = (MOST_BYTES.min(MOST_BYTES_OF_ALL / ranks) / ROUNDS).max(PIECE_BYTES);
    let most_files = (MOST_FILES.min(MOST_FILES_OF_ALL / ranks) / ROUNDS).max(10);
    let files: Vec<PathBuf> = (0..most_files).map(|i| file_of(folder, &format!("file-{i}"), rank)).collect();

    let [mut bytes, mut made, mut seen, mut gone] = [const { Series::new() }; 4];
    rounds(control, seconds, |share| {
        control.barrier(Channel::Step)?;
        bytes.add(|| write(&file, most_bytes, share / 2.0));
        let _ = fs::remove_file(&file);
        control.barrier(Channel::Step)?;
        made.add(|| each(&files, share / 4.0, "create", |file| File::create(file).map(drop)));
        let there = &files[..made.newest_amount()];
        seen.add(|| each(there, share / 4.0, "examine", |file| fs::metadata(file).map(drop)));
        gone.add(|| each(there, f64::INFINITY, "remove", |file| fs::remove_file(file)));
        Ok(())
    })?;

    let mut findings = bytes.rows(control, "write and fsync", "MB/s", 1e6)?;
    for (files, name) in [(made, "create"), (seen, "stat"), (gone, "unlink")] {
        findings.extend(files.rows(control, name, "files/s", 1.0)?);
    }
    Ok(findings)
}

/// What was done, and in how many seconds.
#[derive(Clone, Copy)]
struct Done {
    amount: f64,
    seconds: f64,
}

/// What this rank has done of one thing in each round, up to the first error.
struct Series(Result<Vec<Done>>);

impl Series {
    const fn new() -> Self {
        Series(Ok(Vec::new()))
    }

    /// One round more.
    fn add(&mut self, work: impl FnOnce() -> Result<Done>) {
        let Ok(all) = &mut self.0 else { return };
        match work() {
            Ok(done) => all.push(done),
            Err(error) => self.0 = Err(error),
        }
    }

    /// Of the newest round.
    fn newest_amount(&self) -> usize {
        let newest = self.0.as_ref().ok().and_then(|all| all.last());
        newest.map_or(0, |done| done.amount as usize)
    }

    /// This rank's rate, and at rank 0 that of all together: all that was done in the time of the slowest.
    fn rows(self, control: &dyn ControlPlane, name: &str, unit: &str, scale: f64) -> Result<Vec<Finding>> {
        let total = |part: fn(&Done) -> f64| self.0.iter().flatten().map(part).sum::<f64>();
        let amount = total(|done| done.amount) as u64;
        let together = control.reduce(Channel::Step, Combine::Sum, &[amount])?[0] as f64;
        let seconds = total(|done| done.seconds);
        let slowest = control.max(Channel::Step, (seconds * 1e9) as u64)? as f64 / 1e9;
        let mut rows = vec![match self.0 {
            Ok(all) => {
                let rates = all.iter().map(|done| done.amount / done.seconds / scale).collect();
                Finding::figure(CHECK, name, rates, unit, Better::Higher)
            }
            Err(error) => Finding::failed(CHECK, name, &error),
        }];
        if control.rank() == 0 && control.world_size() > 1 && slowest > 0.0 {
            let name = format!("{name}, all ranks");
            rows.push(Finding::number(CHECK, &name, together / slowest / scale, unit));
        }
        Ok(rows)
    }
}

/// Writes and flushes; bytes.
fn write(path: &Path, most: usize, seconds: f64) -> Result<Done> {
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
    Ok(Done { amount: bytes as f64, seconds: begun.elapsed().as_secs_f64().max(1e-9) })
}

/// The same with each file, while there is time; files.
fn each(
    files: &[PathBuf],
    seconds: f64,
    doing: &str,
    mut work: impl FnMut(&Path) -> std::io::Result<()>,
) -> Result<Done> {
    let begun = Instant::now();
    let mut count = 0;
    for file in files {
        if count > 0 && begun.elapsed().as_secs_f64() > seconds {
            break;
        }
        work(file).map_err(|error| io_error(doing, file, &error))?;
        count += 1;
    }
    Ok(Done { amount: f64::from(count), seconds: begun.elapsed().as_secs_f64().max(1e-9) })
}
