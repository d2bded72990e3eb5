//! `checkpoint inspect`: what a checkpoint or a Hugging Face folder holds, without reading tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::header::StoredDType;
use super::load::Opened;
use super::manifest::{MeshAxes, Part};
use super::trainer_state::TrainerState;
use crate::Result;

/// A tensor in a [`Summary`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TensorSummary {
    /// Part.
    pub part: Part,
    /// Name.
    pub name: String,
    /// Global extents.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: StoredDType,
    /// Bytes.
    pub size_bytes: u64,
}

/// What a folder holds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// The folder.
    pub dir: PathBuf,
    /// Counters; absent for a Hugging Face folder.
    pub trainer: Option<TrainerState>,
    /// Mesh that wrote it; absent for a Hugging Face folder.
    pub mesh: Option<MeshAxes>,
    /// Elements of all weights as stored: a tied output projection is counted once.
    pub num_parameters: u64,
    /// Element types of the weights, with their numbers of tensors.
    pub weights_dtypes: BTreeMap<&'static str, usize>,
    /// Bytes of the tensors of each part.
    pub size_bytes: BTreeMap<Part, u64>,
    /// Files of tensors, relative to the folder, with their bytes.
    pub files: Vec<(String, u64)>,
    /// All tensors, in the order of files and of bytes.
    pub tensors: Vec<TensorSummary>,
}

/// Reads headers and documents of a run folder (its newest checkpoint), a step folder or a Hugging Face folder.
///
/// # Errors
/// If it cannot be opened.
pub fn inspect(path: &Path) -> Result<Summary> {
    let opened = Opened::open(path)?;
    let dir = match &opened {
        Opened::Checkpoint(reader) => reader.dir.clone(),
        Opened::HfFolder(folder) => folder.dir.clone(),
    };
    let checkpoint = opened.checkpoint();
    let mut summary = Summary {
        trainer: checkpoint.map(|reader| reader.trainer.clone()),
        mesh: checkpoint.map(|reader| reader.manifest.mesh),
        num_parameters: 0,
        weights_dtypes: BTreeMap::new(),
        size_bytes: BTreeMap::new(),
        files: Vec::new(),
        tensors: Vec::new(),
        dir,
    };
    for part in opened.parts() {
        let Some(set) = opened.part(part) else { continue };
        for (path, size_bytes) in set.files() {
            let path = path.strip_prefix(&summary.dir).unwrap_or(path);
            summary.files.push((path.display().to_string(), size_bytes));
        }
        for tensor in set.tensors() {
            if part == Part::Weights {
                summary.num_parameters += tensor.num_elements as u64;
                *summary.weights_dtypes.entry(tensor.dtype.name()).or_default() += 1;
            }
            *summary.size_bytes.entry(part).or_default() += tensor.size_bytes();
            summary.tensors.push(TensorSummary {
                part,
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                dtype: tensor.dtype,
                size_bytes: tensor.size_bytes(),
            });
        }
    }
    Ok(summary)
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.dir.display())?;
        if let Some(trainer) = &self.trainer {
            let TrainerState { step, consumed_tokens, consumed_samples, .. } = trainer;
            writeln!(f, "step {step}, {consumed_tokens} tokens, {consumed_samples} samples")?;
        }
        if let Some(MeshAxes { dp_replicate, dp_shard, tp, .. }) = self.mesh {
            writeln!(f, "written by dp_replicate {dp_replicate} x dp_shard {dp_shard} x tp {tp}")?;
        }
        let dtypes: Vec<_> = self.weights_dtypes.keys().copied().collect();
        writeln!(f, "{} parameters in {}", self.num_parameters, dtypes.join(", "))?;
        for (part, size_bytes) in &self.size_bytes {
            writeln!(f, "{part}: {size_bytes} bytes")?;
        }
        for (file, size_bytes) in &self.files {
            writeln!(f, "  {size_bytes:>15}  {file}")?;
        }
        for tensor in &self.tensors {
            writeln!(f, "  {:>4} {:?}  {} {}", tensor.dtype, tensor.shape, tensor.part, tensor.name)?;
        }
        Ok(())
    }
}
