//! A whole save by all ranks: a checkpoint with its retention, or the weights alone.
//!
//! Three phases, and in each the lead decides for all: it creates the files, every rank writes its elements, the
//! lead completes the folder. A rank that fails in one of them fails the save, not the run.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::crew::Crew;
use super::disk::Disk;
use super::folder::step_name;
use super::layout::{FilePlan, TensorSpec};
use super::manifest::Part;
use super::part_files::PartFiles;
use super::retention::{Retention, TMP, prune_on, tidy};
use super::snapshot::{Snapshot, TensorData};
use super::step_writer::{Documents, SaveOptions, StepWriter, hf_documents, put_in_place};
use crate::{Error, Result};

/// A checkpoint to write.
#[derive(Clone, Debug)]
pub struct SaveJob {
    /// `RUN/checkpoints`; created if absent.
    pub checkpoints_dir: PathBuf,
    /// Who writes.
    pub crew: Crew,
    /// All tensors, with what this rank writes of them.
    pub snapshot: Snapshot,
    /// What goes beside them.
    pub documents: Documents,
    /// How files are cut.
    pub options: SaveOptions,
    /// What is removed once this checkpoint is complete; `None`: nothing.
    pub retention: Option<Retention>,
}

/// A Hugging Face folder to write, without optimizer state or manifest.
#[derive(Clone, Debug)]
pub struct WeightsJob {
    /// `RUN/weights`; the folder `step-N` is made in it.
    pub weights_dir: PathBuf,
    /// Step of the weights.
    pub step: u64,
    /// Who writes.
    pub crew: Crew,
    /// All weights, with what this rank writes of them.
    pub weights: Vec<TensorData>,
    /// Text of `config.json`.
    pub config_json: String,
    /// A `tokenizer.json` to copy.
    pub tokenizer: Option<PathBuf>,
    /// How files are cut.
    pub options: SaveOptions,
}

/// A finished save.
#[derive(Clone, PartialEq, Debug)]
pub struct Saved {
    /// Step.
    pub step: u64,
    /// Complete folder.
    pub dir: PathBuf,
    /// Seconds it took, retention included.
    pub seconds: f64,
    /// Bytes of the folder.
    pub bytes: u64,
    /// Steps that retention removed.
    pub pruned: Vec<u64>,
    /// Why retention could not do its work. The new checkpoint is complete all the same.
    pub warning: Option<String>,
}

/// Writes a checkpoint. When this returns it is complete on the medium and `latest` names it.
///
/// # Errors
/// With path and reason if the disk fails; then `step-N.tmp` is removed where possible and earlier
/// checkpoints are as they were.
pub fn save(job: &SaveJob) -> Result<Saved> {
    save_on(Disk::new(job.options.access.clone()), job)
}

/// Writes the weights alone, as atomically as a checkpoint.
///
/// # Errors
/// As [`save`].
pub fn save_weights(job: &WeightsJob) -> Result<Saved> {
    let (disk, start) = (Disk::new(job.options.access.clone()), Instant::now());
    let done = write_weights(&disk, job);
    if done.is_err() && job.crew.is_lead() {
        // The first error is the one to report.
        let _ = tidy(&disk, &job.weights_dir);
    }
    let (dir, bytes) = done?;
    let (step, seconds) = (job.step, start.elapsed().as_secs_f64());
    Ok(Saved { step, dir, seconds, bytes, pruned: Vec::new(), warning: None })
}

fn specs(tensors: &[TensorData]) -> Vec<TensorSpec> {
    tensors.iter().map(|data| data.spec.clone()).collect()
}

pub(super) fn save_on(disk: Disk, job: &SaveJob) -> Result<Saved> {
    let start = Instant::now();
    let SaveJob { checkpoints_dir, crew, snapshot, documents, options, retention } = job;
    let step = documents.trainer.step;
    let (weights, optimizer) = (specs(&snapshot.weights), specs(&snapshot.optimizer));
    let mut writer = None;
    crew.phase(Ok(()), |_| {
        let (weights, optimizer) = (weights.clone(), optimizer.clone());
        writer = Some(StepWriter::create_on(disk, checkpoints_dir, step, weights, optimizer, options)?);
        Ok(())
    })?;
    let writer = match writer {
        Some(writer) => Ok(writer),
        None => StepWriter::join(checkpoints_dir, step, weights, optimizer, options),
    };
    let written = writer.as_ref().map_or_else(|e| Err(Error::fault(e.to_string())), |w| w.write(snapshot));
    let done = crew.phase(written, |records| {
        let writer = writer.as_ref().map_err(|error| Error::fault(error.to_string()))?;
        writer.commit(records?.into_iter().flatten().collect(), documents)
    });
    // What is left is the lead's work.
    let lead = writer.ok().filter(|_| crew.is_lead());
    let (dir, bytes) = match (done, &lead) {
        (Ok(done), _) => done,
        (Err(error), None) => return Err(error),
        (Err(error), Some(writer)) => {
            writer.abandon();
            return Err(error);
        }
    };
    let prune =
        |writer: &StepWriter| retention.map(|retention| prune_on(&writer.disk, checkpoints_dir, &retention));
    let (pruned, warning) = match lead.as_ref().and_then(prune) {
        Some(Err(e)) => (Vec::new(), Some(e.to_string())),
        Some(Ok(pruned)) => (pruned, None),
        None => (Vec::new(), None),
    };
    let seconds = start.elapsed().as_secs_f64();
    Ok(Saved { step, dir, seconds, bytes, pruned, warning })
}

fn write_weights(disk: &Disk, job: &WeightsJob) -> Result<(PathBuf, u64)> {
    let tmp = job.weights_dir.join(step_name(job.step) + TMP);
    let specs = specs(&job.weights);
    let plan = FilePlan::weights(&specs, job.options.max_file_bytes)?;
    let open = |open: fn(&Disk, Part, PathBuf, Vec<TensorSpec>, FilePlan) -> Result<PartFiles>| {
        open(disk, Part::Weights, tmp.clone(), specs.clone(), plan.clone())
    };
    let mut created = None;
    job.crew.phase(Ok(()), |_| {
        disk.create_dir_all(&job.weights_dir)?;
        tidy(disk, &job.weights_dir)?;
        created = Some(open(PartFiles::create)?);
        Ok(())
    })?;
    let files = created.map_or_else(|| open(PartFiles::join), Ok);
    let written = files.as_ref().map_or_else(
        |error| Err(Error::fault(error.to_string())),
        |files| files.write(disk, job.options.threads, &job.weights),
    );
    job.crew.phase(written, |records| {
        records?;
        let files = files.as_ref().map_err(|error| Error::fault(error.to_string()))?;
        let bytes = write_documents(disk, files, &tmp, &job.config_json, job.tokenizer.as_deref())?;
        Ok((put_in_place(disk, &job.weights_dir, job.step)?, bytes))
    })
}

/// Writes `config.json` and its companions into a folder of weights, syncs it, and returns its bytes.
pub(super) fn write_documents(
    disk: &Disk,
    files: &PartFiles,
    dir: &Path,
    config_json: &str,
    tokenizer: Option<&Path>,
) -> Result<u64> {
    let mut bytes = files.size_bytes();
    for (name, document) in hf_documents(files, config_json, tokenizer)? {
        bytes += document.len() as u64;
        disk.write_file(&dir.join(name), &document)?;
    }
    disk.sync_dir(dir)?;
    Ok(bytes)
}
