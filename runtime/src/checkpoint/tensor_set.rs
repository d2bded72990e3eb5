//! Tensors of one or several safetensors files, by name, read by position and widened to f32. One rank reads the headers
//! and tells the others where the tensors are ([`TensorSet::layout`]); those open a file when they first read from it.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

use super::disk::read_error;
use super::header::{Header, StoredDType, TensorInfo};
use crate::opener::Opener;
use crate::{Error, Result};

/// Bytes read at once where elements are widened.
const CHUNK_BYTES: usize = 1 << 20;

/// The tensors of the files given to [`TensorSet::open`]. Reads may come from several threads.
#[derive(Debug, Default)]
pub struct TensorSet {
    files: Vec<TensorFile>,
    /// In the order of files and of bytes.
    tensors: Vec<(usize, TensorInfo)>,
    by_name: HashMap<String, usize>,
    opener: Opener,
}

#[derive(Debug)]
struct TensorFile {
    path: PathBuf,
    /// Once it is read from.
    file: OnceLock<File>,
}

/// Where the tensors of a [`TensorSet`] are: what the headers of its files say.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TensorLayout {
    files: Vec<PathBuf>,
    tensors: Vec<(usize, TensorInfo)>,
}

impl TensorFile {
    fn get(&self, opener: &Opener) -> Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = opener.open(&self.path).map_err(|e| read_error(&self.path, &e))?;
        Ok(self.file.get_or_init(|| file))
    }
}

impl TensorSet {
    /// What its headers say.
    pub fn layout(&self) -> TensorLayout {
        let files = self.files.iter().map(|file| file.path.clone()).collect();
        TensorLayout { files, tensors: self.tensors.clone() }
    }

    /// The same tensors at another rank, which opens a file, by `opener`, when it reads from it.
    ///
    /// # Errors
    /// A layout of no set.
    pub fn from_layout(layout: TensorLayout, opener: Opener) -> Result<Self> {
        let TensorLayout { files, tensors } = layout;
        if tensors.iter().any(|(file, _)| *file >= files.len()) {
            return Err(Error::fault("a tensor of a file that is not listed, in what rank 0 tells"));
        }
        let by_name = tensors.iter().enumerate().map(|(i, (_, tensor))| (tensor.name.clone(), i)).collect();
        let closed = |path| TensorFile { path, file: OnceLock::new() };
        Ok(TensorSet { files: files.into_iter().map(closed).collect(), tensors, by_name, opener })
    }

    /// Reads the headers of these files.
    ///
    /// # Errors
    /// If a file cannot be read or is damaged, or a name occurs twice.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut set = TensorSet::default();
        for path in paths {
            let file = File::open(path).map_err(|e| read_error(path, &e))?;
            let header = Header::read(&file).map_err(|why| {
                Error::input(format!("{}: {why}; hint: copy the file again", path.display()))
            })?;
            for tensor in header.tensors {
                if let Some(first) = set.by_name.insert(tensor.name.clone(), set.tensors.len()) {
                    let first = set.files.get(set.tensors[first].0).map_or(path, |file| &file.path);
                    return Err(Error::input(format!(
                        "tensor `{}` is in {} and in {}; hint: remove the file that does not belong there",
                        tensor.name,
                        first.display(),
                        path.display()
                    )));
                }
                set.tensors.push((set.files.len(), tensor));
            }
            set.files.push(TensorFile { path: path.clone(), file: OnceLock::from(file) });
        }
        Ok(set)
    }

    /// All tensors, in the order of files and of bytes.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter().map(|(_, tensor)| tensor)
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i].1)
    }

    /// The file that holds it.
    pub fn path_of(&self, name: &str) -> Option<&Path> {
        self.by_name.get(name).map(|&i| self.files[self.tensors[i].0].path.as_path())
    }

    /// Files with their number of bytes.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        let len =
            |file: &TensorFile| file.get(&self.opener).ok()?.metadata().ok().map(|metadata| metadata.len());
        self.files.iter().map(move |file| (file.path.as_path(), len(file).unwrap_or(0)))
    }

    /// Reads the elements `range` of the row-major tensor, widened to f32: exactly, but for f64, which is
    /// rounded.
    ///
    /// # Errors
    /// If there is no such tensor, it is not of floating-point type, the range lies outside, or reading
    /// fails.
    ///
    /// # Panics
    /// If `out` has another length than `range`.
    pub fn read_range(&self, name: &str, range: Range<usize>, out: &mut [f32]) -> Result<()> {
        assert_eq!(range.len(), out.len(), "`{name}`: {range:?} into {} elements", out.len());
        let tensor = self.find(name)?;
        if tensor.dtype == StoredDType::F32 {
            return self.read_bytes(name, range, bytemuck::cast_slice_mut(out));
        }
        let size_bytes = tensor.dtype.size_bytes();
        let chunk_elements = CHUNK_BYTES / size_bytes;
        // Of u64, so that every element type is aligned in it.
        let mut buffer = vec![0_u64; (chunk_elements.min(out.len()) * size_bytes).div_ceil(8)];
        let mut start = range.start;
        for out in out.chunks_mut(chunk_elements) {
            let bytes = &mut bytemuck::cast_slice_mut(&mut buffer)[..out.len() * size_bytes];
            self.read_bytes(name, start..start + out.len(), bytes)?;
            widen(tensor, bytes, out)?;
            start += out.len();
        }
        Ok(())
    }

    /// Reads a whole tensor, widened to f32.
    ///
    /// # Errors
    /// As [`TensorSet::read_range`].
    pub fn read_tensor_f32(&self, name: &str) -> Result<Vec<f32>> {
        let num_elements = self.find(name)?.num_elements;
        let mut out = vec![0.0; num_elements];
        self.read_range(name, 0..num_elements, &mut out)?;
        Ok(out)
    }

    /// Reads a whole tensor that must have this shape, widened to f32.
    ///
    /// # Errors
    /// If its shape is another; as [`TensorSet::read_range`].
    pub fn read_shaped(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.check_shape(name, shape)?;
        self.read_tensor_f32(name)
    }

    /// Refuses a tensor of another shape.
    ///
    /// # Errors
    /// If its shape is another, or there is no such tensor.
    pub fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        let tensor = self.find(name)?;
        if tensor.shape != shape {
            let path = self.path_of(name).unwrap_or(Path::new(""));
            return Err(Error::input(format!(
                "{}: tensor `{name}` has shape {:?}, the model wants {shape:?}; hint: weights and config are of \
                 two models",
                path.display(),
                tensor.shape
            )));
        }
        Ok(())
    }

    /// Reads the elements `range` as they are stored.
    ///
    /// # Errors
    /// If there is no such tensor, the range lies outside, or reading fails.
    ///
    /// # Panics
    /// If `out` is not as long as these elements.
    pub fn read_bytes(&self, name: &str, range: Range<usize>, out: &mut [u8]) -> Result<()> {
        let tensor = self.find(name)?;
        let size_bytes = tensor.dtype.size_bytes();
        assert_eq!(range.len() * size_bytes, out.len(), "`{name}`: {range:?} into {} bytes", out.len());
        if range.end > tensor.num_elements {
            return Err(Error::input(format!(
                "elements {range:?} of `{name}`, which has {:?}",
                tensor.shape
            )));
        }
        let file = &self.files[self.tensors[self.by_name[name]].0];
        let path = &file.path;
        file.get(&self.opener)?
            .read_exact_at(out, tensor.offset_bytes + (range.start * size_bytes) as u64)
            .map_err(|e| Error::fault(format!("cannot read `{name}` from {}: {e}", path.display())))
    }

    fn find(&self, name: &str) -> Result<&TensorInfo> {
        self.get(name).ok_or_else(|| {
            let dir = self.files.first().and_then(|file| file.path.parent()).unwrap_or(Path::new(""));
            Error::input(format!(
                "{} has no tensor `{name}`; hint: `tisserand checkpoint inspect` lists them",
                dir.display()
            ))
        })
    }
}

/// Widens stored elements; `bytes` begin at a multiple of 8.
pub(super) fn widen(tensor: &TensorInfo, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    match tensor.dtype {
        StoredDType::F32 => out.copy_from_slice(bytemuck::cast_slice(bytes)),
        StoredDType::BF16 => {
            for (out, &bits) in out.iter_mut().zip(bytemuck::cast_slice::<u8, u16>(bytes)) {
                *out = f32::from_bits(u32::from(bits) << 16);
            }
        }
        StoredDType::F16 => bytemuck::cast_slice::<u8, half::f16>(bytes).convert_to_f32_slice(out),
        StoredDType::F64 => {
            for (out, &value) in out.iter_mut().zip(bytemuck::cast_slice::<u8, f64>(bytes)) {
                *out = value as f32;
            }
        }
        other => {
            return Err(Error::input(format!(
                "tensor `{}` has dtype {other}; hint: convert the model to F32, F16 or BF16",
                tensor.name
            )));
        }
    }
    Ok(())
}
