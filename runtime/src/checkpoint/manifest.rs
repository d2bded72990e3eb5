//! `manifest.json`: every file and tensor of a checkpoint with its place, size and checksums.
//!
//! It is written last, so a folder that has one was whole. Its last line is the blake3 of the text before
//! that line: a damaged manifest is noticed like any other damage.

use std::cmp::Ordering;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::disk::{read_error, read_text};
use super::header::StoredDType;
use crate::{Error, Result};

/// Name of the file.
pub(super) const FILE_NAME: &str = "manifest.json";
/// Version of the on-disk format. Raise it when an older program could misread a newer checkpoint.
pub(super) const FORMAT_VERSION: u64 = 1;

/// The two sets of tensors of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// `weights/`, in compute dtype.
    Weights,
    /// `optimizer/`: master weights and moments.
    Optimizer,
}

impl Part {
    /// The folder of this part inside of a step.
    pub const fn folder(self) -> &'static str {
        match self {
            Part::Weights => "weights",
            Part::Optimizer => "optimizer",
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.folder())
    }
}

/// Sizes of the mesh that wrote a checkpoint. For the reader's information: loading does not depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The names are those of `[mesh]`; pp, cp and ep are reserved.
pub struct MeshAxes {
    pub dp_replicate: usize,
    pub dp_shard: usize,
    pub tp: usize,
    pub pp: usize,
    pub cp: usize,
    pub ep: usize,
}

impl Default for MeshAxes {
    fn default() -> Self {
        MeshAxes { dp_replicate: 1, dp_shard: 1, tp: 1, pp: 1, cp: 1, ep: 1 }
    }
}

/// One file of the checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileRecord {
    /// Path relative to the step folder.
    pub path: String,
    /// Bytes of the file.
    pub size_bytes: u64,
    /// How many first bytes `blake3` covers: all, or the header of a file of tensors.
    pub covered_bytes: u64,
    /// Checksum of these bytes, hex.
    pub blake3: String,
}

/// Consecutive elements of a tensor that were written and hashed together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Slice {
    /// First element in the row-major global tensor.
    pub start_element: usize,
    /// Number of elements.
    pub num_elements: usize,
    /// Checksum of their bytes, hex.
    pub blake3: String,
}

/// One global tensor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TensorRecord {
    /// Part it belongs to.
    pub part: Part,
    /// Name.
    pub name: String,
    /// Global extents.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: StoredDType,
    /// File, relative to the step folder.
    pub file: String,
    /// First byte in that file.
    pub offset_bytes: u64,
    /// Slices, in order, without gaps or overlap.
    pub slices: Vec<Slice>,
}

/// The whole description of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub format_version: u64,
    /// Steps done.
    pub step: u64,
    /// Sequences consumed.
    pub consumed_samples: u64,
    /// Tokens consumed.
    pub consumed_tokens: u64,
    /// Mesh that wrote it.
    pub mesh: MeshAxes,
    /// Every other file.
    pub files: Vec<FileRecord>,
    /// Every tensor.
    pub tensors: Vec<TensorRecord>,
}

#[derive(Deserialize)]
struct VersionOnly {
    format_version: u64,
}

/// The last lines of the file. Fixed length, so that they are found from the end.
fn tail(body: &str) -> String {
    format!(",\n  \"manifest_blake3\": \"{}\"\n}}\n", blake3::hash(body.as_bytes()).to_hex())
}

impl Manifest {
    /// The text of the file.
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("numbers and strings always serialise");
        let body = text.strip_suffix("\n}").expect("an object with fields ends like this");
        body.to_owned() + &tail(body)
    }

    /// Reads and checks the text of the file; `place` is its name for messages.
    ///
    /// # Errors
    /// If it is of another version, damaged, or describes what no writer writes.
    pub fn from_json(text: &str, place: &str) -> Result<Self> {
        let damaged = |why: &str| {
            Error::input(format!("{place}: {why}; hint: the file is damaged, use an older checkpoint"))
        };
        let VersionOnly { format_version } =
            serde_json::from_str(text).map_err(|e| damaged(&e.to_string()))?;
        if format_version != FORMAT_VERSION {
            return Err(Error::input(format!(
                "{place}: format_version {format_version}, this program reads {FORMAT_VERSION}; \
                 hint: use the version of the program that wrote it"
            )));
        }
        let body_len = text.len().checked_sub(tail("").len());
        let body = body_len.and_then(|len| text.split_at_checked(len));
        if body.is_none_or(|(body, end)| end != tail(body)) {
            return Err(damaged("the text does not have its checksum"));
        }
        let manifest: Manifest = serde_json::from_str(text).map_err(|e| damaged(&e.to_string()))?;
        manifest.check().map_err(|why| damaged(&why))?;
        Ok(manifest)
    }

    /// Reads `manifest.json` of a step folder.
    ///
    /// # Errors
    /// As [`Manifest::from_json`], or if it cannot be read.
    pub fn read(step_dir: &Path) -> Result<Self> {
        let path = step_dir.join(FILE_NAME);
        Self::from_json(&read_text(&path)?, &path.display().to_string())
    }

    /// Reads it and makes sure that every file is there with its size; contents are left to `verify`.
    ///
    /// # Errors
    /// The first file that is missing or of another size.
    pub fn read_complete(step_dir: &Path) -> Result<Self> {
        let manifest = Self::read(step_dir)?;
        for file in &manifest.files {
            let path = step_dir.join(&file.path);
            let size_bytes = std::fs::metadata(&path).map_err(|e| read_error(&path, &e))?.len();
            if size_bytes != file.size_bytes {
                return Err(Error::input(format!(
                    "{}: {size_bytes} bytes, expected {}; hint: run `tisserand checkpoint verify {}`",
                    path.display(),
                    file.size_bytes,
                    step_dir.display()
                )));
            }
        }
        Ok(manifest)
    }

    /// The record of a file.
    pub fn file(&self, path: &str) -> Option<&FileRecord> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Bytes of all files, without the manifest.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// What a forged or mistaken manifest may get wrong although its checksum is right.
    fn check(&self) -> Result<(), String> {
        for FileRecord { path, size_bytes, covered_bytes, .. } in &self.files {
            let is_plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
            if !is_plain || path.is_empty() {
                return Err(format!("file `{path}` lies outside of the checkpoint"));
            }
            if covered_bytes > size_bytes {
                return Err(format!("file `{path}`: checksum of {covered_bytes} bytes of {size_bytes}"));
            }
        }
        self.tensors.iter().try_for_each(|tensor| self.check_tensor(tensor))
    }

    fn check_tensor(&self, tensor: &TensorRecord) -> Result<(), String> {
        let TensorRecord { name, shape, dtype, file, offset_bytes, slices, .. } = tensor;
        let file_bytes = self.file(file).ok_or_else(|| format!("`{name}` lies in unknown file `{file}`"))?;
        let num_elements = shape.iter().try_fold(1_usize, |n, &dim| n.checked_mul(dim));
        let end_bytes = num_elements
            .and_then(|n| n.checked_mul(dtype.size_bytes()))
            .and_then(|bytes| offset_bytes.checked_add(bytes as u64));
        if end_bytes.is_none_or(|end| end > file_bytes.size_bytes) {
            return Err(format!(
                "`{name}` of shape {shape:?} at byte {offset_bytes} passes the end of `{file}`"
            ));
        }
        check_coverage(slices, num_elements.unwrap_or(0)).map_err(|why| format!("`{name}`: {why}"))
    }
}

/// Whether slices sorted by their start cover `0..num_elements` exactly once.
pub(super) fn check_coverage(slices: &[Slice], num_elements: usize) -> Result<(), String> {
    let mut end = 0_usize;
    for slice in slices {
        let start = slice.start_element;
        match start.cmp(&end) {
            Ordering::Less => return Err(format!("elements {start}..{end} were written twice")),
            Ordering::Greater => return Err(format!("elements {end}..{start} are missing")),
            Ordering::Equal => {}
        }
        end = end.saturating_add(slice.num_elements);
    }
    if end != num_elements {
        return Err(format!("slices end at element {end}, the tensor at {num_elements}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Manifest {
        let file = FileRecord {
            path: "weights/model.safetensors".into(),
            size_bytes: 108,
            covered_bytes: 100,
            blake3: String::new(),
        };
        let slices = [(0, 1), (1, 1)].map(|(start_element, num_elements)| Slice {
            start_element,
            num_elements,
            blake3: String::new(),
        });
        let tensor = TensorRecord {
            part: Part::Weights,
            name: "w".into(),
            shape: vec![2],
            dtype: StoredDType::F32,
            file: file.path.clone(),
            offset_bytes: 100,
            slices: slices.to_vec(),
        };
        Manifest {
            format_version: FORMAT_VERSION,
            step: 3,
            consumed_samples: 12,
            consumed_tokens: 99,
            mesh: MeshAxes::default(),
            files: vec![file],
            tensors: vec![tensor],
        }
    }

    #[test]
    fn the_text_reads_back_and_every_flipped_bit_is_noticed() {
        let text = sample().to_json();
        assert_eq!(Manifest::from_json(&text, "m").unwrap(), sample());
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(Manifest::from_json(&text, "m").is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn what_no_writer_writes_is_refused() {
        let refuse = |change: fn(&mut Manifest), expected: &str| {
            let mut manifest = sample();
            change(&mut manifest);
            let message = Manifest::from_json(&manifest.to_json(), "m").unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        refuse(|m| m.format_version = 2, "format_version 2, this program reads 1");
        refuse(|m| m.files[0].path = "../x".into(), "outside of the checkpoint");
        refuse(|m| m.files[0].covered_bytes = 109, "109 bytes of 108");
        refuse(|m| m.tensors[0].file = "x".into(), "unknown file `x`");
        refuse(|m| m.tensors[0].offset_bytes = u64::MAX, "passes the end");
        refuse(|m| m.tensors[0].shape = vec![usize::MAX, 2], "passes the end");
        refuse(|m| m.tensors[0].slices[1].start_element = 0, "elements 0..1 were written twice");
        refuse(|m| m.tensors[0].slices.truncate(1), "end at element 1");
        refuse(|m| m.tensors[0].slices[1].num_elements = usize::MAX, "slices end");
    }

    proptest! {
        #[test]
        fn no_text_with_a_right_checksum_panics(at in 0..2000_usize, with in "[-0-9a-z\\[\\]{}\",:.]{0,6}", cut in 0..4_usize) {
            let text = sample().to_json();
            let body = &text[..text.len() - tail("").len()];
            let at = at % body.len();
            let end = (at + cut).min(body.len());
            let body = format!("{}{with}{}", &body[..at], &body[end..]);
            let _ = Manifest::from_json(&(body.clone() + &tail(&body)), "m");
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            prop_assert!(Manifest::from_json(&text, "m").is_err());
        }
    }
}
