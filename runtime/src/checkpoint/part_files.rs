//! The safetensors files of one part while they are written: positioned writes from several threads, and
//! from several ranks, each hashing what it writes.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::layout::{FilePlan, TensorSpec};
use super::manifest::{FileRecord, Part, Slice};
use super::snapshot::TensorData;
use super::workers::parallel;
use crate::{Error, Result};

/// Elements are written and hashed in slices that end at multiples of this many bytes of the tensor: the
/// unit of work of a thread, also of `verify`.
const SLICE_BYTES: usize = 64 << 20;
/// Bytes hashed and then written at once: small enough to be in cache for the copy after the hash.
const CHUNK_BYTES: usize = 1 << 20;

/// A slice that a rank has written; ranks send theirs to the one that writes the manifest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SliceRecord {
    /// Part of the tensor.
    pub part: Part,
    /// Index of the tensor in its part.
    pub tensor: usize,
    /// Elements and checksum.
    pub slice: Slice,
}

/// The open files of one part.
#[derive(Debug)]
pub(super) struct PartFiles {
    pub(super) part: Part,
    pub(super) dir: PathBuf,
    pub(super) specs: Vec<TensorSpec>,
    pub(super) plan: FilePlan,
    files: Vec<(File, PathBuf)>,
}

impl PartFiles {
    /// Creates the folder and its files at full size with their headers; done by one rank.
    pub(super) fn create(
        disk: &Disk,
        part: Part,
        dir: PathBuf,
        specs: Vec<TensorSpec>,
        plan: FilePlan,
    ) -> Result<Self> {
        disk.create_dir_all(&dir)?;
        let files = open_each(&dir, &plan, |path, planned| {
            let file = disk.create_sized(path, planned.size_bytes)?;
            disk.write_at(&file, path, &planned.header, 0)?;
            Ok(file)
        })?;
        Ok(PartFiles { part, dir, specs, plan, files })
    }

    /// Opens the files that another rank has created.
    pub(super) fn join(
        disk: &Disk,
        part: Part,
        dir: PathBuf,
        specs: Vec<TensorSpec>,
        plan: FilePlan,
    ) -> Result<Self> {
        let files = open_each(&dir, &plan, |path, _| disk.open_writable(path))?;
        Ok(PartFiles { part, dir, specs, plan, files })
    }

    /// Writes these elements of a tensor at their place.
    pub(super) fn write_at(
        &self,
        disk: &Disk,
        tensor: usize,
        start_element: usize,
        bytes: &[u8],
    ) -> Result<()> {
        let place = self.plan.places[tensor];
        let (file, path) = &self.files[place.file];
        let offset_bytes = (start_element * self.specs[tensor].dtype.size_bytes()) as u64;
        disk.write_at(file, path, bytes, place.offset_bytes + offset_bytes)
    }

    /// Writes all pieces of `tensors`, which are this part's tensors in its order, and syncs the files.
    pub(super) fn write(
        &self,
        disk: &Disk,
        threads: usize,
        tensors: &[TensorData],
    ) -> Result<Vec<SliceRecord>> {
        let same = tensors.len() == self.specs.len()
            && tensors.iter().zip(&self.specs).all(|(data, spec)| data.spec == *spec);
        if !same {
            return Err(Error::fault(format!("snapshot of {} has other tensors than the plan", self.part)));
        }
        let mut work = Vec::new();
        for (tensor, data) in tensors.iter().enumerate() {
            let slice_elements = SLICE_BYTES / data.spec.dtype.size_bytes();
            for piece in &data.pieces {
                let elements = data.elements(piece)?;
                work.extend(cut(elements, slice_elements).map(|range| (tensor, piece, range)));
            }
        }
        let records = parallel(threads, work.len(), |i| {
            let (tensor, piece, range) = &work[i];
            let size_bytes = self.specs[*tensor].dtype.size_bytes();
            let skipped = range.start - piece.start_element;
            let bytes = &piece.bytes()[skipped * size_bytes..][..range.len() * size_bytes];
            let mut hasher = blake3::Hasher::new();
            for (chunk, bytes) in bytes.chunks(CHUNK_BYTES).enumerate() {
                hasher.update(bytes);
                self.write_at(disk, *tensor, range.start + chunk * (CHUNK_BYTES / size_bytes), bytes)?;
            }
            let slice = Slice {
                start_element: range.start,
                num_elements: range.len(),
                blake3: hasher.finalize().to_hex().to_string(),
            };
            Ok(SliceRecord { part: self.part, tensor: *tensor, slice })
        })?;
        self.sync(disk, threads)?;
        Ok(records)
    }

    /// Waits until all bytes are on the medium.
    pub(super) fn sync(&self, disk: &Disk, threads: usize) -> Result<()> {
        parallel(threads, self.files.len(), |i| disk.sync_file(&self.files[i].0, &self.files[i].1))?;
        Ok(())
    }

    /// What the manifest says of the files; paths begin with the part's folder.
    pub(super) fn file_records(&self) -> Vec<FileRecord> {
        let record = |file: &super::layout::PlannedFile| FileRecord {
            path: format!("{}/{}", self.part, file.name),
            size_bytes: file.size_bytes,
            covered_bytes: file.header.len() as u64,
            blake3: blake3::hash(&file.header).to_hex().to_string(),
        };
        self.plan.files.iter().map(record).collect()
    }

    /// Bytes of all files.
    pub(super) fn size_bytes(&self) -> u64 {
        self.plan.files.iter().map(|file| file.size_bytes).sum()
    }
}

fn open_each(
    dir: &Path,
    plan: &FilePlan,
    open: impl Fn(&Path, &super::layout::PlannedFile) -> Result<File>,
) -> Result<Vec<(File, PathBuf)>> {
    let one = |planned: &super::layout::PlannedFile| {
        let path = dir.join(&planned.name);
        Ok((open(&path, planned)?, path))
    };
    plan.files.iter().map(one).collect()
}

/// `range` in parts that end at multiples of `step`.
pub(super) fn cut(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        let end = ((start / step + 1) * step).min(range.end);
        let part = start..end;
        start = end;
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_multiples() {
        assert_eq!(cut(3..10, 4).collect::<Vec<_>>(), [3..4, 4..8, 8..10]);
        assert!(cut(4..8, 4).eq(std::iter::once(4..8)));
        assert_eq!(cut(5..5, 4).count(), 0);
    }
}
