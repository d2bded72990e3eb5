//! What must be true before a job may wait in a queue: the run fits the GPUs, and its checkpoints the disk.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use tisserand_runtime::log::units;
use tisserand_runtime::{Error, Result};

use super::request::Request;
use crate::commands::plan::Report;
use crate::env;

/// What checkpoints take, and what there is for them.
pub(super) struct Storage {
    /// At most, at any time of the run.
    pub(super) needed_bytes: u64,
    /// None where nothing is known.
    pub(super) available: Option<Available>,
}

/// Space for checkpoints.
pub(super) struct Available {
    pub(super) bytes: u64,
    /// In words.
    what: String,
    /// What is there already counts against free space, since it is to be replaced, and not against a quota.
    there_bytes: u64,
}

/// Refuses what does not fit.
///
/// # Errors
/// Input, with both numbers and what to change.
pub(super) fn run(request: &Request, report: &Report) -> Result<Storage> {
    memory(request, report)?;
    storage(request, report)
}

fn memory(request: &Request, report: &Report) -> Result<()> {
    let Some(prediction) = &report.prediction else {
        if request.on_gpus {
            let arena = units::bytes(report.plan.arena_bytes as u64);
            eprintln!(
                "warning: profile {} names no GPUs: whether their memory holds the {arena} that each rank \
                 needs is not checked; hint: a profile with a planner (docs/slurm.md)",
                request.profile.name
            );
        }
        return Ok(());
    };
    let (needed, there) = (prediction.needed_bytes(&report.plan), prediction.machine.gpu.memory_bytes);
    if needed <= there {
        return Ok(());
    }
    Err(Error::input(format!(
        "{}: each rank needs {} of GPU memory, a {} has {}: {} too much on {} ranks; hint: tisserand plan \
         {} --nodes {} --profile {} --search says what fits",
        request.arguments.run_file.path.display(),
        units::bytes(needed),
        prediction.machine.gpu.name,
        units::bytes(there),
        units::bytes(needed - there),
        request.arguments.nodes * request.ranks_per_node,
        request.arguments.run_file.path.display(),
        request.arguments.nodes,
        prediction.machine.name,
    )))
}

fn storage(request: &Request, report: &Report) -> Result<Storage> {
    let storage = &report.storage;
    // One complete checkpoint more while it is written.
    let needed_bytes = storage.at_end.bytes + storage.checkpoint.bytes;
    let dir = &report.config.run.dir;
    let available = available(request, dir)?;
    let fits = |available: &Available| needed_bytes <= available.bytes.saturating_add(available.there_bytes);
    match &available {
        Some(available) if !fits(available) => Err(Error::input(format!(
            "{}: its checkpoints take up to {} ({} of {} each, {} of weights alone, and one while it is \
             written), but {}{}; hint: checkpoint.keep_last, checkpoint.keep_every_steps, or another run.dir",
            request.arguments.run_file.path.display(),
            units::bytes(needed_bytes),
            storage.kept,
            units::bytes(storage.checkpoint.bytes),
            storage.kept_weights,
            available.what,
            match available.there_bytes {
                0 => String::new(),
                there => format!(" and the run's own {}", units::bytes(there)),
            },
        ))),
        _ => Ok(Storage { needed_bytes, available }),
    }
}

/// `--quota-bytes`, else the profile's quota of the folder that holds the run, else what is free there. A
/// job that is not submitted from here says nothing about what is free here.
fn available(request: &Request, dir: &Path) -> Result<Option<Available>> {
    if let Some(bytes) = request.arguments.quota_bytes {
        let what = format!("--quota-bytes allows {}", units::bytes(bytes));
        return Ok(Some(Available { bytes, what, there_bytes: 0 }));
    }
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    for quota in &request.profile.quota {
        let root = env::variable(&quota.variable).filter(|root| !root.is_empty());
        if root.is_some_and(|root| dir.starts_with(root)) {
            let (bytes, variable) = (quota.bytes, &quota.variable);
            let what = format!(
                "a project has {} below ${variable} (--quota-bytes if it has more)",
                units::bytes(bytes)
            );
            return Ok(Some(Available { bytes, what, there_bytes: 0 }));
        }
    }
    if request.arguments.dry_run {
        return Ok(None);
    }
    let there = existing(&dir);
    // Some network file systems do not say.
    let Ok(found) = statvfs(&there) else { return Ok(None) };
    let bytes = found.blocks_available().saturating_mul(found.fragment_size());
    let what = format!("{} has {} free", there.display(), units::bytes(bytes));
    Ok(Some(Available { bytes, what, there_bytes: bytes_below(&dir.join("checkpoints")) }))
}

/// The nearest folder that exists.
fn existing(dir: &Path) -> PathBuf {
    dir.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// Bytes of all files; what cannot be read counts nothing.
fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
