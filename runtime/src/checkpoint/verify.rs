//! `checkpoint verify`: every byte of a checkpoint against the manifest, every finding with file and tensor.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::folder::{LATEST, Source, resolve};
use super::hf::HfFolder;
use super::load::header_of;
use super::manifest::{FileRecord, Manifest, Slice, TensorRecord};
use super::workers::{default_threads, parallel};
use crate::{Error, Result};

/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Problem {
    /// File, relative to the checkpoint.
    pub file: String,
    /// Tensor in it, if the damage lies in one.
    pub tensor: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.tensor {
            Some(tensor) => write!(f, "{}: tensor `{tensor}`: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

/// What `verify` found.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The folder that was read.
    pub dir: PathBuf,
    /// Step; absent for a Hugging Face folder or a damaged manifest.
    pub step: Option<u64>,
    /// Files looked at.
    pub num_files: usize,
    /// Tensors looked at.
    pub num_tensors: usize,
    /// Bytes compared with a checksum. A Hugging Face folder has none: only headers and sizes are checked.
    pub checked_bytes: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Empty if all is well.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Report { dir, num_files, num_tensors, checked_bytes, seconds, problems, .. } = self;
        for problem in problems {
            writeln!(f, "{problem}")?;
        }
        let verdict =
            if problems.is_empty() { "whole".into() } else { format!("{} problems", problems.len()) };
        let gb_per_s = *checked_bytes as f64 / 1e9 / seconds.max(1e-9);
        write!(
            f,
            "{}: {verdict}; {num_files} files, {num_tensors} tensors, {checked_bytes} bytes checked, \
             {gb_per_s:.2} GB/s",
            dir.display()
        )
    }
}

/// Checks a step folder, a run folder (its newest checkpoint; a newer one that is
/// incomplete is a problem) or a Hugging Face folder.
///
/// # Errors
/// If the path holds none of these. Damage is not an error but a [`Problem`].
pub fn verify(path: &Path) -> Result<Report> {
    let start = Instant::now();
    let resolved = resolve(path)?;
    let mut report = match resolved.source {
        Source::Checkpoint(dir) => verify_checkpoint(dir)?,
        Source::HfFolder(dir) => verify_hf_folder(dir),
    };
    // A run whose newest checkpoint is damaged is not whole because an older one is.
    let passed_over = resolved.warning.filter(|_| resolved.damaged).map(|what| Problem {
        file: LATEST.into(),
        tensor: None,
        what,
    });
    report.problems.splice(0..0, passed_over);
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

fn empty_report(dir: PathBuf) -> Report {
    Report {
        dir,
        step: None,
        num_files: 0,
        num_tensors: 0,
        checked_bytes: 0,
        seconds: 0.0,
        problems: Vec::new(),
    }
}

fn verify_hf_folder(dir: PathBuf) -> Report {
    let mut report = empty_report(dir);
    match HfFolder::open(&report.dir) {
        Ok(folder) => {
            report.num_files = folder.tensors.files().count();
            report.num_tensors = folder.tensors.tensors().len();
        }
        Err(e) => report.problems.push(Problem { file: "weights".into(), tensor: None, what: e.to_string() }),
    }
    report
}

fn verify_checkpoint(dir: PathBuf) -> Result<Report> {
    let mut report = empty_report(dir);
    let manifest = match Manifest::read(&report.dir) {
        Ok(manifest) => manifest,
        Err(e) => {
            report.problems.push(Problem { file: "manifest.json".into(), tensor: None, what: e.to_string() });
            return Ok(report);
        }
    };
    report.step = Some(manifest.step);
    report.num_files = manifest.files.len() + 1;
    report.num_tensors = manifest.tensors.len();
    let dir = &report.dir;
    let files =
        parallel(default_threads(), manifest.files.len(), |i| Ok(check_file(dir, &manifest.files[i])))?;
    let slices: Vec<_> =
        manifest.tensors.iter().flat_map(|tensor| tensor.slices.iter().map(move |s| (tensor, s))).collect();
    let slices = parallel(default_threads(), slices.len(), |i| {
        let (tensor, slice) = slices[i];
        Ok(check_slice(dir, tensor, slice))
    })?;
    for (problem, bytes) in files.into_iter().chain(slices) {
        report.checked_bytes += bytes;
        // A tensor of many damaged slices is one finding.
        let is_known =
            |p: &Problem| report.problems.iter().any(|q| (&q.file, &q.tensor) == (&p.file, &p.tensor));
        let problem = problem.filter(|p| !is_known(p));
        report.problems.extend(problem);
    }
    Ok(report)
}

/// Size and checksum of a document or of a header; the bytes that were read.
fn check_file(dir: &Path, record: &FileRecord) -> (Option<Problem>, u64) {
    let path = dir.join(&record.path);
    let problem = |what: String| Some(Problem { file: record.path.clone(), tensor: None, what });
    let mut file = match File::open(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return (problem("the file is missing".into()), 0),
        Err(e) => return (problem(format!("cannot be read: {e}")), 0),
        Ok(file) => file,
    };
    let size_bytes = file.metadata().map_or(0, |m| m.len());
    if size_bytes != record.size_bytes {
        return (problem(format!("{size_bytes} bytes, expected {}", record.size_bytes)), 0);
    }
    let mut hasher = blake3::Hasher::new();
    if let Err(e) = std::io::copy(&mut Read::by_ref(&mut file).take(record.covered_bytes), &mut hasher) {
        return (problem(format!("cannot be read: {e}")), 0);
    }
    if hasher.finalize().to_hex().as_str() != record.blake3 {
        let what = if record.covered_bytes < size_bytes { "header" } else { "content" };
        return (problem(format!("the {what} does not have its checksum")), record.covered_bytes);
    }
    if record.path.ends_with(".safetensors")
        && let Err(why) = header_of(&path)
    {
        return (problem(why), record.covered_bytes);
    }
    (None, record.covered_bytes)
}

/// Checksum of a slice; the bytes that were read. What is wrong with the file as a whole is said there,
/// but the tensors that are lost with it are named too.
fn check_slice(dir: &Path, tensor: &TensorRecord, slice: &Slice) -> (Option<Problem>, u64) {
    let problem =
        |what: String| Some(Problem { file: tensor.file.clone(), tensor: Some(tensor.name.clone()), what });
    let size_bytes = tensor.dtype.size_bytes() as u64;
    let start = tensor.offset_bytes + slice.start_element as u64 * size_bytes;
    let range = start..start + slice.num_elements as u64 * size_bytes;
    match hash_range(&dir.join(&tensor.file), range.clone()) {
        Ok(hash) if hash.to_hex().as_str() == slice.blake3 => (None, range.end - range.start),
        Ok(_) => {
            let last = slice.start_element + slice.num_elements;
            let what = format!("elements {}..{last} do not have their checksum", slice.start_element);
            (problem(what), range.end - range.start)
        }
        Err(e) if e.kind() == ErrorKind::NotFound => (problem("lost with its file".into()), 0),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
            (problem("lies beyond the end of the file".into()), 0)
        }
        Err(e) => (problem(format!("cannot be read: {e}")), 0),
    }
}

fn hash_range(path: &Path, range: Range<u64>) -> std::io::Result<blake3::Hash> {
    let file = File::open(path)?;
    let mut buffer = vec![0; CHUNK_BYTES.min((range.end - range.start) as usize)];
    let mut hasher = blake3::Hasher::new();
    let mut at = range.start;
    while at < range.end {
        let chunk = buffer.len().min((range.end - at) as usize);
        file.read_exact_at(&mut buffer[..chunk], at)?;
        hasher.update(&buffer[..chunk]);
        at += chunk as u64;
    }
    Ok(hasher.finalize())
}

impl Report {
    /// Turns findings into the error that ends a command: the first one, and how many more there are.
    ///
    /// # Errors
    /// If anything is wrong.
    pub fn into_result(self) -> Result<Self> {
        let Some(first) = self.problems.first() else { return Ok(self) };
        let more = match self.problems.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let dir = self.dir.display();
        Err(Error::input(format!("{dir}/{first}{more}; hint: use another checkpoint, this one is damaged")))
    }
}
