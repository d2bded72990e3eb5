//! `checkpoint digest`: one number for what a checkpoint holds, whatever mesh wrote it and into which files.

use std::ops::Range;
use std::path::Path;

use super::header::TensorInfo;
use super::load::Opened;
use super::manifest::Part;
use super::part_files::cut;
use super::tensor_set::TensorSet;
use super::workers::{default_threads, parallel};
use crate::Result;

/// A tensor is hashed in blocks of so many bytes: part of the definition, so that threads can share a tensor.
const BLOCK_BYTES: usize = 16 << 20;

/// The blake3 (hex) of step, consumed samples and tokens (not for a Hugging Face folder, which has none) and
/// of all tensors by part and name: part, name, type, shape, and the blake3 of each 16 MiB of bytes.
///
/// # Errors
/// If the folder cannot be opened or read.
pub fn digest(path: &Path) -> Result<String> {
    let opened = Opened::open(path)?;
    let mut tensors: Vec<(Part, &TensorSet, &TensorInfo)> = Vec::new();
    for part in opened.parts() {
        tensors
            .extend(opened.part(part).into_iter().flat_map(|set| set.tensors().map(move |t| (part, set, t))));
    }
    tensors.sort_by_key(|(part, _, tensor)| (*part, tensor.name.as_str()));
    let blocks: Vec<(&TensorSet, &TensorInfo, Range<usize>)> = tensors
        .iter()
        .flat_map(|&(_, set, tensor)| blocks_of(tensor).map(move |range| (set, tensor, range)))
        .collect();
    let hashes = parallel(default_threads(), blocks.len(), |i| {
        let (set, tensor, range) = &blocks[i];
        let mut bytes = vec![0; range.len() * tensor.dtype.size_bytes()];
        set.read_bytes(&tensor.name, range.clone(), &mut bytes)?;
        Ok(blake3::hash(&bytes))
    })?;

    let mut hasher = blake3::Hasher::new();
    let mut put = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    put(b"tisserand checkpoint digest 1");
    if let Some(reader) = opened.checkpoint() {
        for count in [reader.trainer.step, reader.trainer.consumed_samples, reader.trainer.consumed_tokens] {
            put(&count.to_le_bytes());
        }
    }
    let mut hashes = hashes.iter();
    for (part, _, tensor) in tensors {
        put(part.folder().as_bytes());
        put(tensor.name.as_bytes());
        put(tensor.dtype.name().as_bytes());
        put(&tensor.shape.iter().flat_map(|&dim| (dim as u64).to_le_bytes()).collect::<Vec<_>>());
        for hash in hashes.by_ref().take(blocks_of(tensor).count()) {
            put(hash.as_bytes());
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn blocks_of(tensor: &TensorInfo) -> impl Iterator<Item = Range<usize>> + use<> {
    cut(0..tensor.num_elements, BLOCK_BYTES / tensor.dtype.size_bytes())
}
