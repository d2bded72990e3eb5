//! Opening a checkpoint: the manifest, the headers of all files, and that they agree.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::disk::read_text;
use super::folder::{Source, resolve};
use super::header::Header;
use super::hf::HfFolder;
use super::manifest::{Manifest, Part};
use super::tensor_set::TensorSet;
use super::trainer_state::TrainerState;
use crate::{Error, Result};

/// An opened step folder. Contents of tensors are not checked against their checksums here: `verify` does.
#[derive(Debug)]
pub struct CheckpointReader {
    /// The step folder.
    pub dir: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its `trainer.json`.
    pub trainer: TrainerState,
    /// `weights/`, with `config.json`.
    pub weights: HfFolder,
    /// `optimizer/`: `master.<name>`, `exp_avg.<name>`, `exp_avg_sq.<name>`.
    pub optimizer: TensorSet,
}

impl CheckpointReader {
    /// Opens a step folder; find it with [`resolve`] or [`latest`](super::latest).
    ///
    /// # Errors
    /// If a file is missing, damaged or of another size, or does not hold what the manifest says.
    pub fn open(step_dir: &Path) -> Result<Self> {
        let manifest = Manifest::read_complete(step_dir)?;
        let path = step_dir.join("trainer.json");
        let trainer = TrainerState::from_json(&read_text(&path)?, &path.display().to_string())?;
        if trainer.step != manifest.step {
            return Err(Error::input(format!(
                "{}: step {}, but the manifest says {}; hint: the files are of two checkpoints",
                path.display(),
                trainer.step,
                manifest.step
            )));
        }
        let weights = HfFolder::open(&step_dir.join(Part::Weights.folder()))?;
        let optimizer = TensorSet::open(&files_of(&manifest, Part::Optimizer, step_dir))?;
        let reader = CheckpointReader { dir: step_dir.into(), manifest, trainer, weights, optimizer };
        reader.check_headers()?;
        Ok(reader)
    }

    /// The tensors of a part.
    pub fn part(&self, part: Part) -> &TensorSet {
        match part {
            Part::Weights => &self.weights.tensors,
            Part::Optimizer => &self.optimizer,
        }
    }

    fn check_headers(&self) -> Result<()> {
        for record in &self.manifest.tensors {
            let tensors = self.part(record.part);
            let same = tensors.get(&record.name).is_some_and(|tensor| {
                (&tensor.shape, tensor.dtype, tensor.offset_bytes)
                    == (&record.shape, record.dtype, record.offset_bytes)
            }) && tensors.path_of(&record.name) == Some(&self.dir.join(&record.file));
            if !same {
                return Err(self.disagreement(&record.name, &record.file));
            }
        }
        let num_tensors = self.weights.tensors.tensors().len() + self.optimizer.tensors().len();
        if num_tensors != self.manifest.tensors.len() {
            return Err(self.disagreement("tensors of no record", Part::Weights.folder()));
        }
        Ok(())
    }

    fn disagreement(&self, tensor: &str, file: &str) -> Error {
        Error::input(format!(
            "{}/{file}: `{tensor}` is not what the manifest says; hint: run `tisserand checkpoint verify {0}`",
            self.dir.display()
        ))
    }
}

/// Files of tensors of a part, in the order of the manifest.
fn files_of(manifest: &Manifest, part: Part, step_dir: &Path) -> Vec<PathBuf> {
    let folder = format!("{part}/");
    let is_ours = |path: &&str| path.starts_with(&folder) && path.ends_with(".safetensors");
    manifest.files.iter().map(|f| f.path.as_str()).filter(is_ours).map(|path| step_dir.join(path)).collect()
}

/// A checkpoint or a Hugging Face folder, for the commands that take both.
#[derive(Debug)]
pub(super) enum Opened {
    Checkpoint(Box<CheckpointReader>),
    HfFolder(HfFolder),
}

impl Opened {
    /// Opens whatever [`resolve`] finds.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(match resolve(path)?.source {
            Source::Checkpoint(dir) => Opened::Checkpoint(Box::new(CheckpointReader::open(&dir)?)),
            Source::HfFolder(dir) => Opened::HfFolder(HfFolder::open(&dir)?),
        })
    }

    pub(super) fn checkpoint(&self) -> Option<&CheckpointReader> {
        match self {
            Opened::Checkpoint(reader) => Some(reader),
            Opened::HfFolder(_) => None,
        }
    }

    pub(super) fn part(&self, part: Part) -> Option<&TensorSet> {
        match (self, part) {
            (Opened::Checkpoint(reader), part) => Some(reader.part(part)),
            (Opened::HfFolder(folder), Part::Weights) => Some(&folder.tensors),
            (Opened::HfFolder(_), Part::Optimizer) => None,
        }
    }

    /// Parts that it has.
    pub(super) fn parts(&self) -> BTreeSet<Part> {
        [Part::Weights, Part::Optimizer].into_iter().filter(|&part| self.part(part).is_some()).collect()
    }
}

/// Whether the header of a file of tensors can be read at all; for `verify`.
pub(super) fn header_of(path: &Path) -> Result<Header, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    Header::read(&file)
}
