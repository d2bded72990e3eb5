//! Which tensor lies in which file and at which byte: a pure function of the tensors, never of the ranks.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use tisserand_kernels::DType;

use super::header::StoredDType;
use crate::{Error, Result};

/// A tensor as every rank knows it: its name and its global shape.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorSpec {
    /// Name, as in the Hugging Face model for weights.
    pub name: String,
    /// Global extents, row-major.
    pub shape: Vec<usize>,
    /// Element type on disk.
    pub dtype: DType,
}

impl TensorSpec {
    /// A tensor of this name, shape and type.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, dtype: DType) -> Self {
        TensorSpec { name: name.into(), shape: shape.into(), dtype }
    }

    /// Number of elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of all elements.
    pub fn size_bytes(&self) -> u64 {
        self.num_elements() as u64 * self.dtype.size_bytes() as u64
    }
}

/// Where a tensor begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Index into [`FilePlan::files`].
    pub file: usize,
    /// First byte of the tensor, from the start of the file.
    pub offset_bytes: u64,
}

/// One safetensors file that is going to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedFile {
    /// File name, without folder.
    pub name: String,
    /// The bytes before the first tensor: 8-byte little-endian length, JSON, spaces up to 8 bytes.
    pub header: Vec<u8>,
    /// Bytes of the whole file.
    pub size_bytes: u64,
}

/// The files of one part of a checkpoint and the place of each tensor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilePlan {
    /// Files in the order of their numbers.
    pub files: Vec<PlannedFile>,
    /// For each tensor, in the order given.
    pub places: Vec<Place>,
}

impl FilePlan {
    /// Files of a Hugging Face folder: tensors in the order given, a new file before the one that would pass
    /// `max_file_bytes`. A single file is named `model.safetensors`; several need [`FilePlan::hf_index`].
    ///
    /// # Errors
    /// If a name occurs twice or is reserved.
    pub fn weights(specs: &[TensorSpec], max_file_bytes: u64) -> Result<Self> {
        let mut groups: Vec<Vec<usize>> = vec![Vec::new()];
        let mut filled = 0;
        for (i, spec) in specs.iter().enumerate() {
            if filled > 0 && filled + spec.size_bytes() > max_file_bytes {
                groups.push(Vec::new());
                filled = 0;
            }
            filled += spec.size_bytes();
            groups.last_mut().expect("starts with one group").push(i);
        }
        let num_files = groups.len();
        Self::new(specs, groups, |i| match num_files {
            1 => "model.safetensors".into(),
            _ => format!("model-{:05}-of-{num_files:05}.safetensors", i + 1),
        })
    }

    /// `num_files` files of nearly equal size, tensors in the order given; fewer where tensors are fewer.
    ///
    /// # Errors
    /// As [`FilePlan::weights`].
    pub fn optimizer(specs: &[TensorSpec], num_files: usize) -> Result<Self> {
        let num_files = num_files.clamp(1, specs.len().max(1)) as u128;
        let total: u128 = specs.iter().map(|s| u128::from(s.size_bytes())).sum();
        let mut groups = vec![Vec::new(); num_files as usize];
        let mut before: u128 = 0;
        for (i, spec) in specs.iter().enumerate() {
            // A tensor goes where its middle falls when the bytes of all tensors are cut evenly.
            let middle = 2 * before + u128::from(spec.size_bytes());
            let file = (middle * num_files).checked_div(2 * total).unwrap_or(0).min(num_files - 1);
            groups[file as usize].push(i);
            before += u128::from(spec.size_bytes());
        }
        groups.retain(|group| !group.is_empty() || specs.is_empty());
        let num_files = groups.len();
        Self::new(specs, groups, |i| format!("state-{:05}-of-{num_files:05}.safetensors", i + 1))
    }

    fn new(specs: &[TensorSpec], groups: Vec<Vec<usize>>, name: impl Fn(usize) -> String) -> Result<Self> {
        let mut seen = HashSet::new();
        for TensorSpec { name, .. } in specs {
            if name == "__metadata__" || !seen.insert(name.as_str()) {
                return Err(Error::fault(format!("tensor name `{name}` is reserved or used twice")));
            }
        }
        let mut places = vec![Place { file: 0, offset_bytes: 0 }; specs.len()];
        let mut files = Vec::with_capacity(groups.len());
        for (file, mut group) in groups.into_iter().enumerate() {
            // Wide elements first, as the safetensors library does: every tensor is then aligned.
            group.sort_by_key(|&i| std::cmp::Reverse(specs[i].dtype.size_bytes()));
            let header = encode_header(specs, &group);
            let mut offset_bytes = header.len() as u64;
            for &i in &group {
                places[i] = Place { file, offset_bytes };
                offset_bytes += specs[i].size_bytes();
            }
            files.push(PlannedFile { name: name(file), header, size_bytes: offset_bytes });
        }
        Ok(FilePlan { files, places })
    }

    /// The text of `model.safetensors.index.json`, if there are several files.
    pub fn hf_index(&self, specs: &[TensorSpec]) -> Option<String> {
        if self.files.len() == 1 {
            return None;
        }
        let total: u64 = specs.iter().map(TensorSpec::size_bytes).sum();
        let file_name = |place: &Place| Value::from(self.files[place.file].name.as_str());
        let map: Map<String, Value> =
            specs.iter().zip(&self.places).map(|(s, place)| (s.name.clone(), file_name(place))).collect();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        Some(format!("{index:#}\n"))
    }
}

/// The length, the JSON and the padding in front of the tensors `group`, which follow without gaps.
fn encode_header(specs: &[TensorSpec], group: &[usize]) -> Vec<u8> {
    let mut entries = Map::new();
    // transformers refuses files that do not say which framework wrote them.
    entries.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut start = 0;
    for spec in group.iter().map(|&i| &specs[i]) {
        let end = start + spec.size_bytes();
        let dtype = StoredDType::from(spec.dtype).name();
        let entry = json!({ "dtype": dtype, "shape": spec.shape, "data_offsets": [start, end] });
        entries.insert(spec.name.clone(), entry);
        start = end;
    }
    let json = Value::Object(entries).to_string();
    let padded = json.len().next_multiple_of(8);
    let mut header = (padded as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    header.resize(8 + padded, b' ');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(sizes: &[usize]) -> Vec<TensorSpec> {
        let spec = |(i, &n): (usize, &usize)| TensorSpec::new(format!("t{i}"), [n], DType::F32);
        sizes.iter().enumerate().map(spec).collect()
    }

    fn files_of(plan: &FilePlan) -> Vec<usize> {
        plan.places.iter().map(|p| p.file).collect()
    }

    #[test]
    fn weights_start_a_new_file_at_the_limit_and_a_large_tensor_has_its_own() {
        let plan = FilePlan::weights(&specs(&[2, 2, 1, 9, 1]), 16).unwrap();
        assert_eq!(files_of(&plan), [0, 0, 1, 2, 3]);
        assert_eq!(plan.files[3].name, "model-00004-of-00004.safetensors");
        assert_eq!(FilePlan::weights(&specs(&[2, 2]), 16).unwrap().files[0].name, "model.safetensors");
    }

    #[test]
    fn optimizer_files_are_balanced_and_never_empty() {
        let plan = FilePlan::optimizer(&specs(&[4, 4, 4, 4, 8, 8]), 4).unwrap();
        assert_eq!(files_of(&plan), [0, 0, 1, 1, 2, 3]);
        let plan = FilePlan::optimizer(&specs(&[1, 100, 1]), 3).unwrap();
        assert_eq!(plan.files.len(), 3.min(plan.files.len()));
        assert!((0..plan.files.len()).all(|f| files_of(&plan).contains(&f)));
        assert_eq!(FilePlan::optimizer(&[], 4).unwrap().files.len(), 1);
        assert_eq!(FilePlan::optimizer(&specs(&[0, 0]), 2).unwrap().files.len(), 1);
    }

    #[test]
    fn tensors_are_aligned_and_follow_each_other() {
        let mixed = [
            TensorSpec::new("half", [3], DType::Bf16),
            TensorSpec::new("full", [5], DType::F32),
            TensorSpec::new("scalar", [], DType::F32),
        ];
        let plan = FilePlan::weights(&mixed, u64::MAX).unwrap();
        let start = plan.files[0].header.len() as u64;
        assert_eq!(start % 8, 0);
        let offsets: Vec<_> = plan.places.iter().map(|p| p.offset_bytes - start).collect();
        assert_eq!(offsets, [24, 0, 20]);
        assert_eq!(plan.files[0].size_bytes, start + 30);
    }

    #[test]
    fn names_that_clash_are_refused() {
        let twice = [TensorSpec::new("a", [1], DType::F32), TensorSpec::new("a", [2], DType::F32)];
        assert!(FilePlan::weights(&twice, 1).is_err());
        assert!(FilePlan::weights(&[TensorSpec::new("__metadata__", [1], DType::F32)], 1).is_err());
    }
}
