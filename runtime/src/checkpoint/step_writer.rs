//! One save in its phases, so that several ranks can take part.
//!
//! Lead: [`StepWriter::create`]; barrier; others: [`StepWriter::join`]; every rank: [`StepWriter::write`];
//! the lead gathers the records (that is the vote) and calls [`StepWriter::commit`], or, if any rank
//! failed, [`StepWriter::abandon`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::disk::{Disk, read_error};
use super::folder::{LATEST, step_name};
use super::layout::{FilePlan, TensorSpec};
use super::manifest::{
    self, FORMAT_VERSION, FileRecord, Manifest, MeshAxes, Part, Slice, TensorRecord, check_coverage,
};
use super::part_files::{PartFiles, SliceRecord};
use super::retention::{OLD, TMP, remove_aside, tidy, with_suffix};
use super::snapshot::Snapshot;
use super::trainer_state::TrainerState;
use crate::files::Access;
use crate::{Error, Result};

/// How files are cut and written. The same on every rank.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// Bytes of tensors after which a new weights file begins.
    pub max_file_bytes: u64,
    /// Number of optimizer files: at most one per node.
    pub optimizer_files: usize,
    /// Threads that hash and write, per rank. One hashes 1 to 4 GB/s.
    pub threads: usize,
    /// Who may read the files.
    pub access: Access,
}

impl Default for SaveOptions {
    fn default() -> Self {
        SaveOptions { max_file_bytes: 5_000_000_000, optimizer_files: 1, threads: 2, access: Access::umask() }
    }
}

/// What is saved beside the tensors.
#[derive(Clone, Debug)]
pub struct Documents {
    /// Counters; `trainer.step` is the step of the checkpoint.
    pub trainer: TrainerState,
    /// Text of `weights/config.json`.
    pub config_json: String,
    /// A `tokenizer.json` to copy into `weights/`.
    pub tokenizer: Option<PathBuf>,
    /// Mesh of the run.
    pub mesh: MeshAxes,
}

/// A step that is being written to `step-N.tmp`.
#[derive(Debug)]
pub struct StepWriter {
    pub(super) disk: Disk,
    checkpoints_dir: PathBuf,
    step: u64,
    threads: usize,
    weights: PartFiles,
    optimizer: PartFiles,
}

impl StepWriter {
    /// Clears what an earlier crash left, and creates `step-N.tmp` with all files of tensors at full size.
    ///
    /// # Errors
    /// If the folder cannot be written; what was created is removed again.
    pub fn create(
        checkpoints_dir: &Path,
        step: u64,
        weights: Vec<TensorSpec>,
        optimizer: Vec<TensorSpec>,
        options: &SaveOptions,
    ) -> Result<Self> {
        Self::create_on(Disk::new(options.access.clone()), checkpoints_dir, step, weights, optimizer, options)
    }

    pub(super) fn create_on(
        disk: Disk,
        checkpoints_dir: &Path,
        step: u64,
        weights: Vec<TensorSpec>,
        optimizer: Vec<TensorSpec>,
        options: &SaveOptions,
    ) -> Result<Self> {
        disk.create_dir_all(checkpoints_dir)?;
        tidy(&disk, checkpoints_dir)?;
        let made = Self::open(&disk, PartFiles::create, checkpoints_dir, step, weights, optimizer, options);
        match made {
            Ok((weights, optimizer)) => {
                let (checkpoints_dir, threads) = (checkpoints_dir.into(), options.threads);
                Ok(StepWriter { disk, checkpoints_dir, step, threads, weights, optimizer })
            }
            Err(e) => {
                // The first error is the one to report.
                let _ = tidy(&disk, checkpoints_dir);
                Err(e)
            }
        }
    }

    /// Takes part in a save that the lead has created with the same arguments.
    ///
    /// # Errors
    /// If the files cannot be opened.
    pub fn join(
        checkpoints_dir: &Path,
        step: u64,
        weights: Vec<TensorSpec>,
        optimizer: Vec<TensorSpec>,
        options: &SaveOptions,
    ) -> Result<Self> {
        let disk = Disk::new(options.access.clone());
        let (weights, optimizer) =
            Self::open(&disk, PartFiles::join, checkpoints_dir, step, weights, optimizer, options)?;
        let (checkpoints_dir, threads) = (checkpoints_dir.into(), options.threads);
        Ok(StepWriter { disk, checkpoints_dir, step, threads, weights, optimizer })
    }

    fn open(
        disk: &Disk,
        open: fn(&Disk, Part, PathBuf, Vec<TensorSpec>, FilePlan) -> Result<PartFiles>,
        checkpoints_dir: &Path,
        step: u64,
        weights: Vec<TensorSpec>,
        optimizer: Vec<TensorSpec>,
        options: &SaveOptions,
    ) -> Result<(PartFiles, PartFiles)> {
        let tmp = checkpoints_dir.join(step_name(step) + TMP);
        let weights_plan = FilePlan::weights(&weights, options.max_file_bytes)?;
        let optimizer_plan = FilePlan::optimizer(&optimizer, options.optimizer_files)?;
        let dir = |part: Part| tmp.join(part.folder());
        Ok((
            open(disk, Part::Weights, dir(Part::Weights), weights, weights_plan)?,
            open(disk, Part::Optimizer, dir(Part::Optimizer), optimizer, optimizer_plan)?,
        ))
    }

    /// Writes this rank's pieces and waits until they are on the medium. `snapshot` names the tensors
    /// given to `create`, in their order.
    ///
    /// # Errors
    /// If a write fails or a piece lies outside of its tensor.
    pub fn write(&self, snapshot: &Snapshot) -> Result<Vec<SliceRecord>> {
        let mut records = self.weights.write(&self.disk, self.threads, &snapshot.weights)?;
        records.extend(self.optimizer.write(&self.disk, self.threads, &snapshot.optimizer)?);
        Ok(records)
    }

    /// Makes the step complete: documents, manifest, rename, `latest`. `records` are those of all ranks.
    /// Returns the folder and its bytes.
    ///
    /// # Errors
    /// If an element was written by no rank or by two, or the disk fails. Then call
    /// [`StepWriter::abandon`].
    pub fn commit(&self, records: Vec<SliceRecord>, documents: &Documents) -> Result<(PathBuf, u64)> {
        let (disk, tmp) = (&self.disk, self.checkpoints_dir.join(step_name(self.step) + TMP));
        let tensors = self.tensor_records(records)?;
        let mut files = self.weights.file_records();
        files.extend(self.optimizer.file_records());
        let mut write = |path: &str, bytes: &[u8]| {
            files.push(document_record(path, bytes));
            disk.write_file(&tmp.join(path), bytes)
        };
        write("trainer.json", documents.trainer.to_json().as_bytes())?;
        for (name, bytes) in
            hf_documents(&self.weights, &documents.config_json, documents.tokenizer.as_deref())?
        {
            write(&format!("weights/{name}"), &bytes)?;
        }
        disk.sync_dir(&self.weights.dir)?;
        disk.sync_dir(&self.optimizer.dir)?;
        let TrainerState { consumed_samples, consumed_tokens, .. } = documents.trainer;
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            step: self.step,
            consumed_samples,
            consumed_tokens,
            mesh: documents.mesh,
            files,
            tensors,
        };
        let text = manifest.to_json();
        disk.write_file(&tmp.join(manifest::FILE_NAME), text.as_bytes())?;
        disk.sync_dir(&tmp)?;
        let dir = put_in_place(disk, &self.checkpoints_dir, self.step)?;
        self.point_latest_here()?;
        Ok((dir, manifest.size_bytes() + text.len() as u64))
    }

    /// Removes what was written, as far as the disk allows; a failed save leaves earlier checkpoints as
    /// they were.
    pub fn abandon(&self) {
        // The error that led here is the one to report; the next save tidies again.
        let _ = tidy(&self.disk, &self.checkpoints_dir);
    }

    /// The manifest's records of all tensors, once every element is known to be written exactly once.
    fn tensor_records(&self, records: Vec<SliceRecord>) -> Result<Vec<TensorRecord>> {
        let mut slices: BTreeMap<(Part, usize), Vec<Slice>> = BTreeMap::new();
        for SliceRecord { part, tensor, slice } in records {
            slices.entry((part, tensor)).or_default().push(slice);
        }
        let mut tensors = Vec::new();
        for files in [&self.weights, &self.optimizer] {
            for (i, (spec, place)) in files.specs.iter().zip(&files.plan.places).enumerate() {
                let mut slices = slices.remove(&(files.part, i)).unwrap_or_default();
                slices.sort_by_key(|slice| slice.start_element);
                check_coverage(&slices, spec.num_elements())
                    .map_err(|why| Error::fault(format!("save of {} `{}`: {why}", files.part, spec.name)))?;
                tensors.push(TensorRecord {
                    part: files.part,
                    name: spec.name.clone(),
                    shape: spec.shape.clone(),
                    dtype: spec.dtype.into(),
                    file: format!("{}/{}", files.part, files.plan.files[place.file].name),
                    offset_bytes: place.offset_bytes,
                    slices,
                });
            }
        }
        Ok(tensors)
    }

    fn point_latest_here(&self) -> Result<()> {
        let path = self.checkpoints_dir.join(LATEST);
        let tmp = with_suffix(&path, TMP);
        self.disk.write_file(&tmp, (step_name(self.step) + "\n").as_bytes())?;
        self.disk.rename(&tmp, &path)?;
        self.disk.sync_dir(&self.checkpoints_dir)
    }
}

/// Renames `step-N.tmp` to `step-N`. A step N that is already there is moved aside first and removed last:
/// at every moment one of the two is complete under a name that readers accept.
pub(super) fn put_in_place(disk: &Disk, parent: &Path, step: u64) -> Result<PathBuf> {
    let dir = parent.join(step_name(step));
    let old = with_suffix(&dir, OLD);
    let replaces = dir.exists();
    if replaces {
        disk.rename(&dir, &old)?;
    }
    disk.rename(&with_suffix(&dir, TMP), &dir)?;
    disk.sync_dir(parent)?;
    if replaces {
        // A failure leaves only a folder that nobody reads and that the next save clears.
        let _ = remove_aside(disk, &old);
    }
    Ok(dir)
}

/// The small files that make a folder of weights a Hugging Face folder.
pub(super) fn hf_documents(
    weights: &PartFiles,
    config_json: &str,
    tokenizer: Option<&Path>,
) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut documents = vec![("config.json", config_json.as_bytes().to_vec())];
    if let Some(path) = tokenizer {
        // Read and written, not copied: a copy would take over the permissions of the original.
        documents.push(("tokenizer.json", std::fs::read(path).map_err(|e| read_error(path, &e))?));
    }
    let index = weights.plan.hf_index(&weights.specs);
    documents.extend(index.map(|text| ("model.safetensors.index.json", text.into_bytes())));
    Ok(documents)
}

fn document_record(path: &str, bytes: &[u8]) -> FileRecord {
    let size_bytes = bytes.len() as u64;
    let blake3 = blake3::hash(bytes).to_hex().to_string();
    FileRecord { path: path.into(), size_bytes, covered_bytes: size_bytes, blake3 }
}
