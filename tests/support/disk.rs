//! Disks that are full, and files that are torn.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

fn ballast(dir: &Path) -> PathBuf {
    dir.join("ballast")
}

/// Leaves no room on the file system of `dir`: a small one, for this test alone.
pub(crate) fn fill(dir: &Path) {
    let mut ballast = File::create(ballast(dir)).unwrap();
    while ballast.write_all(&[1; 4096]).is_ok() {}
}

/// Makes the room again.
pub(crate) fn clear(dir: &Path) {
    fs::remove_file(ballast(dir)).unwrap();
}

/// Halves every file of a folder, as a power cut may; how many there were.
fn tear(dir: &Path) -> usize {
    let mut torn = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            torn += tear(&path);
        } else if let Ok(file) = File::options().write(true).open(&path) {
            let half = file.metadata().unwrap().len() / 2;
            file.set_len(half).unwrap();
            torn += 1;
        }
    }
    torn
}

/// Tears the checkpoints of a run folder that are not finished, and leaves one that has just begun; files torn.
pub(crate) fn tear_unfinished(run_dir: &Path) -> usize {
    let checkpoints = run_dir.join("checkpoints");
    let entries: Vec<_> = fs::read_dir(&checkpoints).into_iter().flatten().flatten().collect();
    let unfinished = entries
        .iter()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "tmp"));
    let torn = unfinished.map(|dir| tear(&dir)).sum();
    let begun = checkpoints.join("step-00000199.tmp");
    fs::create_dir_all(&begun).unwrap();
    fs::write(begun.join("manifest.json"), "{\"format\": ").unwrap();
    torn
}
