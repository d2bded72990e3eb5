//! Tokenizer and dataset of a small run, built from text on its first start.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::documents::{documents, total_bytes};
use super::files::read_all;
use super::permutation::Permutation;
use super::progress::Progress;
use super::tokenize::{Report, tokenize};
use crate::files::write_atomic;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// The section `[data.prepare]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepare {
    /// Globs of text files. Hidden files, folders of runs, folders marked by a `CACHEDIR.TAG` and the output
    /// folder are left out.
    pub text: Vec<String>,
    /// Entries of the tokenizer.
    pub vocab_size: usize,
}

/// What to do when the texts are no longer those that the folder was built from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenChanged {
    /// Keep what is there (a run that goes on needs the data it began with) and say so.
    Keep,
    /// Build anew.
    Rebuild,
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Tokenizer and dataset were built.
    Built(Report),
    /// They were there and match the texts.
    Reused,
    /// They were there, do not match the texts any more, and were kept.
    Kept,
}

/// What a prepared folder holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepared {
    /// `DIR/tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Prefix of the token file, `DIR/train`.
    pub dataset: PathBuf,
    /// How it came about.
    pub outcome: Outcome,
}

/// What a folder was built from. Written last: without it the folder is incomplete and built again.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Stamp {
    /// Raised when the same inputs give other outputs.
    version: u32,
    vocab_size: usize,
    files: usize,
    /// BLAKE3 over names, sizes and contents.
    inputs: String,
}

const STAMP_VERSION: u32 = 1;

/// Trains a tokenizer on the texts and tokenizes them into `dir`, unless an earlier call did.
///
/// Documents are shuffled, so that the last ones, which `validation_fraction` holds out, are a sample of
/// all. Of all ranks, one calls this.
///
/// # Errors
/// A glob that is wrong or matches nothing; what [`tokenize`] refuses; with [`WhenChanged::Keep`], a folder
/// that was built for another `vocab_size`.
pub fn prepare(
    config: &Prepare,
    dir: &Path,
    when_changed: WhenChanged,
    progress: Progress,
) -> Result<Prepared> {
    let (tokenizer, dataset) = (dir.join("tokenizer.json"), dir.join("train"));
    let stamp_path = dir.join("prepare.json");
    let inputs = expand(&config.text, dir)?;
    let stamp = Stamp {
        version: STAMP_VERSION,
        vocab_size: config.vocab_size,
        files: inputs.len(),
        inputs: hash(&inputs)?,
    };
    let complete =
        [&tokenizer, &dir.join("train.bin"), &dir.join("train.idx")].iter().all(|path| path.is_file());
    let outcome = match read_stamp(&stamp_path).filter(|_| complete) {
        Some(found) if found == stamp => Outcome::Reused,
        Some(found) if when_changed == WhenChanged::Keep => {
            if found.vocab_size != config.vocab_size {
                return Err(Error::input(format!(
                    "{}: built for vocab_size = {}, but data.prepare.vocab_size = {}; hint: remove the folder \
                     or start with --fresh",
                    stamp_path.display(),
                    found.vocab_size,
                    config.vocab_size
                )));
            }
            Outcome::Kept
        }
        _ => {
            // Removed first: a build that is interrupted must not pass for the old one.
            super::files::remove_quietly(&stamp_path);
            let report = build(config, inputs, &tokenizer, &dataset, progress)?;
            let json = serde_json::to_string_pretty(&stamp).map_err(|e| Error::fault(e.to_string()))?;
            write_atomic(&stamp_path, json.as_bytes())?;
            Outcome::Built(report)
        }
    };
    Ok(Prepared { tokenizer, dataset, outcome })
}

fn build(
    config: &Prepare,
    inputs: Vec<PathBuf>,
    tokenizer_path: &Path,
    dataset: &Path,
    progress: Progress,
) -> Result<Report> {
    let shuffle = Permutation::new(inputs.len() as u64, [0, 0, 0]);
    let shuffled: Vec<PathBuf> =
        (0..inputs.len() as u64).map(|i| inputs[shuffle.apply(i) as usize].clone()).collect();
    let tokenizer = train_tokenizer(&shuffled, config.vocab_size, progress)?;
    tokenizer.save(tokenizer_path)?;
    tokenize(&shuffled, &tokenizer, dataset, progress)
}

/// Trains a tokenizer of `vocab_size` entries on the documents of `inputs`.
///
/// # Errors
/// What [`documents`] finds in a file; a vocabulary that is too small or too large for the texts.
pub fn train_tokenizer(inputs: &[PathBuf], vocab_size: usize, progress: Progress) -> Result<Tokenizer> {
    let stage = progress.stage("training the tokenizer", total_bytes(inputs)?);
    let texts = documents(inputs).map(|document| {
        let document = document?;
        stage.advance(document.file_bytes);
        Ok(document.text)
    });
    let tokenizer = Tokenizer::train(texts, vocab_size)?;
    stage.finish();
    Ok(tokenizer)
}

/// The stamp of an earlier call; `None` when there is none that can be read.
fn read_stamp(path: &Path) -> Option<Stamp> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The files that the globs match, each once, sorted.
fn expand(patterns: &[String], out: &Path) -> Result<Vec<PathBuf>> {
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let out = out.canonicalize().ok();
    let mut generated = HashMap::new();
    let mut files = Vec::new();
    if patterns.is_empty() {
        return Err(Error::input(
            "data.prepare.text is empty; hint: name text files, for example [\"**/*.md\"]",
        ));
    }
    for pattern in patterns {
        let bad = |what: String| Error::input(format!("data.prepare.text: `{pattern}`: {what}"));
        let mut matched = false;
        for path in glob::glob_with(pattern, options).map_err(|e| bad(format!("bad pattern: {}", e.msg)))? {
            let path = path.map_err(|e| bad(e.to_string()))?;
            let own =
                out.as_ref().is_some_and(|out| path.canonicalize().is_ok_and(|path| path.starts_with(out)));
            if path.is_file() && !own && !is_generated(&path, &mut generated) {
                matched = true;
                files.push(path);
            }
        }
        if !matched {
            return Err(bad("no file matches".into()));
        }
    }
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

/// Whether a folder above `path` is that of a run, whose files change with every start, or marked as a cache,
/// as Cargo's `target` is (<https://bford.info/cachedir/>).
fn is_generated(path: &Path, known: &mut HashMap<PathBuf, bool>) -> bool {
    let Some(folder) = path.parent() else { return false };
    if let Some(&answer) = known.get(folder) {
        return answer;
    }
    let signature = b"Signature: 8a477f597d28d172789f06886806bc55";
    let tag = std::fs::read(folder.join("CACHEDIR.TAG"));
    let is_cache = tag.is_ok_and(|tag| tag.starts_with(signature));
    let is_run = ["resolved.toml", "status.json"].iter().all(|file| folder.join(file).is_file());
    let answer = is_cache || is_run || is_generated(folder, known);
    known.insert(folder.to_owned(), answer);
    answer
}

fn hash(inputs: &[PathBuf]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in inputs {
        let (name, content) = (path.as_os_str().as_encoded_bytes(), read_all(path)?);
        for bytes in [name, &content] {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}
