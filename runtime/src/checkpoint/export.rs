//! `checkpoint export`: the weights of a checkpoint as a Hugging Face folder of another element type.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tisserand_kernels::{DType, Float, match_float};

use super::disk::Disk;
use super::header::StoredDType;
use super::layout::{FilePlan, TensorSpec};
use super::load::Opened;
use super::manifest::Part;
use super::part_files::{PartFiles, cut};
use super::retention::{TMP, with_suffix};
use super::save::write_documents;
use super::step_writer::SaveOptions;
use super::tensor_set::TensorSet;
use super::workers::{default_threads, parallel};
use crate::files::Access;
use crate::{Error, Result};

/// Elements converted at once by a thread.
const BLOCK_ELEMENTS: usize = 1 << 20;

/// Writes a Hugging Face folder with weights of `dtype` (f32 or bf16) from a checkpoint, a run folder or
/// another Hugging Face folder.
///
/// Where f32 is asked for and the weights are narrower, the f32 master weights are taken if the checkpoint
/// has them: nothing is lost. Narrowing rounds to nearest, ties to even.
///
/// # Errors
/// If the source cannot be read, `out_dir` is not empty, or the disk fails; `out_dir` then stays as it was.
pub fn export_hf(source: &Path, out_dir: &Path, dtype: DType) -> Result<()> {
    if !matches!(dtype, DType::F32 | DType::Bf16) {
        return Err(Error::input(format!("cannot export weights as {dtype}; hint: use f32 or bf16")));
    }
    let (disk, opened) = (Disk::default(), Opened::open(source)?);
    let (config_json, tokenizer) = match &opened {
        Opened::Checkpoint(reader) => (&reader.weights.config_json, &reader.weights.tokenizer),
        Opened::HfFolder(folder) => (&folder.config_json, &folder.tokenizer),
    };
    let config_json = config_json.as_deref().map(|text| with_dtype(text, dtype, source)).transpose()?;
    let tmp = with_suffix(out_dir, TMP);
    for path in [out_dir, &tmp] {
        if std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) || path.is_file() {
            return Err(Error::input(format!("{} exists; hint: choose an empty folder", path.display())));
        }
    }
    // A relative name without folder lies in the current one.
    let parent = out_dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Before the first byte: an impossible path is the user's, whatever fails later is the disk's.
    Access::umask().create_dir_all(parent)?;
    let written = write(&disk, &opened, &tmp, dtype, config_json.as_deref(), tokenizer.as_deref());
    let placed = written.and_then(|()| {
        disk.rename(&tmp, out_dir)?;
        disk.sync_dir(parent)
    });
    if placed.is_err() && tmp.exists() {
        // The first error is the one to report.
        let _ = disk.remove_dir_all(&tmp);
    }
    placed
}

fn write(
    disk: &Disk,
    opened: &Opened,
    tmp: &Path,
    dtype: DType,
    config_json: Option<&str>,
    tokenizer: Option<&Path>,
) -> Result<()> {
    let Some(weights) = opened.part(Part::Weights) else { return Ok(()) };
    let specs: Vec<_> =
        weights.tensors().map(|t| TensorSpec::new(t.name.as_str(), t.shape.as_slice(), dtype)).collect();
    let plan = FilePlan::weights(&specs, SaveOptions::default().max_file_bytes)?;
    let files = PartFiles::create(disk, Part::Weights, PathBuf::from(tmp), specs, plan)?;
    let sources: Vec<_> = files.specs.iter().map(|spec| source_of(opened, weights, spec)).collect();
    let blocks: Vec<_> = (0..sources.len())
        .flat_map(|i| cut(0..files.specs[i].num_elements(), BLOCK_ELEMENTS).map(move |range| (i, range)))
        .collect();
    parallel(default_threads(), blocks.len(), |block| {
        let (i, range) = &blocks[block];
        let (set, name) = &sources[*i];
        let mut values = vec![0.0_f32; range.len()];
        set.read_range(name, range.clone(), &mut values)?;
        match_float!(dtype, T => {
            let stored: Vec<T> = values.iter().map(|&v| T::from_f32(v)).collect();
            files.write_at(disk, *i, range.start, bytemuck::cast_slice(&stored))
        })
    })?;
    files.sync(disk, default_threads())?;
    match config_json {
        Some(config_json) => write_documents(disk, &files, tmp, config_json, tokenizer).map(|_| ()),
        None => Err(Error::input("the source has no config.json; hint: copy the model's one into it")),
    }
}

/// Where the best numbers of a tensor are.
fn source_of<'a>(opened: &'a Opened, weights: &'a TensorSet, spec: &TensorSpec) -> (&'a TensorSet, String) {
    let master = format!("master.{}", spec.name);
    let is_f32 = |set: &TensorSet, name: &str| set.get(name).is_some_and(|t| t.dtype == StoredDType::F32);
    match opened.part(Part::Optimizer) {
        Some(optimizer)
            if spec.dtype == DType::F32 && !is_f32(weights, &spec.name) && is_f32(optimizer, &master) =>
        {
            (optimizer, master)
        }
        _ => (weights, spec.name.clone()),
    }
}

/// `config.json` with the element type of the export under the key that it uses.
fn with_dtype(config_json: &str, dtype: DType, source: &Path) -> Result<String> {
    let mut config: Value = serde_json::from_str(config_json)
        .map_err(|e| Error::input(format!("{}: config.json: {e}", source.display())))?;
    let name = if dtype == DType::F32 { "float32" } else { "bfloat16" };
    if let Value::Object(keys) = &mut config {
        // Older releases of transformers write and read `torch_dtype`.
        let key = if keys.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
        keys.insert(key.into(), name.into());
    }
    Ok(format!("{config:#}\n"))
}
