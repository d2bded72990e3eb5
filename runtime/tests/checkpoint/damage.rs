//! `verify` finds every kind of damage and names file and tensor.

use std::fs;
use std::path::{Path, PathBuf};

use tisserand_runtime::checkpoint::*;

use crate::job;

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let below = |entry: fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => files_below(&entry.path()),
        false => vec![entry.path()],
    };
    fs::read_dir(dir).unwrap().flat_map(|e| below(e.unwrap())).collect()
}

/// The tensor that owns a byte of a file.
fn owner(manifest: &Manifest, file: &str, byte: u64) -> Option<String> {
    let owns = |t: &&TensorRecord| {
        let size = t.shape.iter().product::<usize>() * t.dtype.size_bytes();
        t.file == file && (t.offset_bytes..t.offset_bytes + size as u64).contains(&byte)
    };
    manifest.tensors.iter().find(owns).map(|t| t.name.clone())
}

#[test]
fn one_flipped_bit_in_any_byte_is_found_and_named() {
    let run = tempfile::tempdir().unwrap();
    let dir = save(&job(run.path(), 1, 1)).unwrap().dir;
    let manifest = Manifest::read(&dir).unwrap();
    for path in files_below(&dir) {
        let whole = fs::read(&path).unwrap();
        let name = path.strip_prefix(&dir).unwrap().display().to_string();
        // The manifest's own bits are tested beside it.
        let step = if name == "manifest.json" { 97 } else { 3 };
        for byte in (0..whole.len()).step_by(step) {
            let mut damaged = whole.clone();
            damaged[byte] ^= 1 << (byte % 8);
            fs::write(&path, &damaged).unwrap();
            let report = verify(&dir).unwrap();
            assert_eq!(report.problems.len(), 1, "byte {byte} of {name}: {report}");
            assert_eq!(report.problems[0].file, name, "byte {byte}");
            assert_eq!(
                report.problems[0].tensor,
                owner(&manifest, &name, byte as u64),
                "byte {byte} of {name}"
            );
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(verify(&dir).unwrap().is_ok());
}

#[test]
fn a_missing_or_truncated_file_is_named_with_its_tensors() {
    let run = tempfile::tempdir().unwrap();
    let dir = save(&job(run.path(), 1, 1)).unwrap().dir;
    for path in files_below(&dir) {
        let whole = fs::read(&path).unwrap();
        let name = path.strip_prefix(&dir).unwrap().display().to_string();
        fs::remove_file(&path).unwrap();
        if name == "manifest.json" {
            let error = verify(&dir).unwrap_err();
            assert!(error.to_string().contains("manifest.json is missing"), "{error}");
        } else {
            let report = verify(&dir).unwrap();
            assert_eq!(report.problems[0].to_string(), format!("{name}: the file is missing"));
            let error = CheckpointReader::open(&dir).unwrap_err();
            assert!(error.to_string().contains(&name) && error.exit_code() == 2, "{error}");
            let error = report.into_result().unwrap_err().to_string();
            assert!(error.contains(&format!("{name}: the file is missing")), "{error}");
        }
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let report = verify(&dir).unwrap();
        assert!(!report.is_ok() && report.problems.iter().all(|p| p.file == name), "{report}");
        if name.ends_with(".safetensors") {
            assert!(report.problems[0].what.contains("bytes, expected"), "{report}");
            let last = owner(&Manifest::read(&dir).unwrap(), &name, whole.len() as u64 - 1);
            assert_eq!(report.problems[1].tensor, last);
            assert_eq!(report.problems.len(), 2);
        }
        assert!(CheckpointReader::open(&dir).is_err(), "{name}");
        fs::write(&path, &whole).unwrap();
    }
    let report = verify(&dir).unwrap();
    assert!(report.is_ok() && report.to_string().contains(": whole; "), "{report}");
    assert_eq!(report.step, Some(1));
}

#[test]
fn files_of_another_checkpoint_are_refused() {
    let run = tempfile::tempdir().unwrap();
    let a = save(&job(run.path(), 2, 1)).unwrap().dir;
    let b = save(&job(run.path(), 3, 1)).unwrap().dir;
    let trainer = fs::read(b.join("trainer.json")).unwrap();
    fs::write(a.join("trainer.json"), trainer).unwrap();
    let error = CheckpointReader::open(&a).unwrap_err().to_string();
    assert!(error.contains("step 3, but the manifest says 2"), "{error}");
}
