//! `checkpoint diff`: two checkpoints or Hugging Face folders, tensor by tensor.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::header::{StoredDType, TensorInfo};
use super::load::Opened;
use super::manifest::Part;
use super::part_files::cut;
use super::tensor_set::{TensorSet, widen};
use super::workers::{default_threads, parallel};
use crate::Result;

/// Elements compared at once.
const BLOCK_ELEMENTS: usize = 1 << 20;

/// How a tensor differs between `a` and `b`.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// Same shape, type and bits.
    None,
    /// Some bits differ. Types may differ too; then numbers are compared as f32.
    Values {
        /// Largest |a − b|; infinite where exactly one of them is NaN.
        max_abs: f64,
        /// Largest |a − b| / max(|a|, |b|).
        max_rel: f64,
        /// Multi-index of the element with the largest |a − b|.
        at: Vec<usize>,
        /// The two numbers there.
        values: (f32, f32),
    },
    /// Some bits of a tensor that holds no floating-point numbers differ.
    Bits,
    /// Shapes differ.
    Shape(Vec<usize>, Vec<usize>),
    /// `b` lacks it.
    OnlyInA,
    /// `a` lacks it.
    OnlyInB,
}

/// One tensor of `a`, of `b` or of both.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TensorDiff {
    /// Part.
    pub part: Part,
    /// Name.
    pub name: String,
    /// Element types in `a` and `b`, where it is there.
    pub dtypes: (Option<StoredDType>, Option<StoredDType>),
    /// The difference.
    pub difference: Difference,
}

impl TensorDiff {
    /// Whether the tensor is the same to the last bit.
    pub fn bit_equal(&self) -> bool {
        self.difference == Difference::None
    }
}

impl std::fmt::Display for TensorDiff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} `{}`: ", self.part, self.name)?;
        if let (Some(a), Some(b)) = self.dtypes
            && a != b
        {
            write!(f, "{a} and {b}, ")?;
        }
        match &self.difference {
            Difference::None => f.write_str("bit-equal"),
            Difference::Values { max_abs, max_rel, at, values: (a, b) } => {
                write!(f, "max abs {max_abs:.3e} at {at:?} ({a} and {b}), max rel {max_rel:.3e}")
            }
            Difference::Bits => f.write_str("bits differ"),
            Difference::Shape(a, b) => write!(f, "shapes {a:?} and {b:?}"),
            Difference::OnlyInA => f.write_str("only in the first"),
            Difference::OnlyInB => f.write_str("only in the second"),
        }
    }
}

/// Compares all tensors, sorted by part and name. A checkpoint and a Hugging Face folder are compared by
/// their weights alone.
///
/// # Errors
/// If either cannot be opened or read.
pub fn diff(a: &Path, b: &Path) -> Result<Vec<TensorDiff>> {
    let (a, b) = (Opened::open(a)?, Opened::open(b)?);
    let mut diffs = Vec::new();
    for &part in a.parts().intersection(&b.parts()) {
        if let (Some(a), Some(b)) = (a.part(part), b.part(part)) {
            diffs.extend(diff_part(part, a, b)?);
        }
    }
    Ok(diffs)
}

fn diff_part(part: Part, a: &TensorSet, b: &TensorSet) -> Result<Vec<TensorDiff>> {
    let names: BTreeSet<&str> = a.tensors().chain(b.tensors()).map(|t| t.name.as_str()).collect();
    let mut diffs = Vec::new();
    for name in names {
        let (a_info, b_info) = (a.get(name), b.get(name));
        let difference = match (a_info, b_info) {
            (Some(a_info), Some(b_info)) if a_info.shape != b_info.shape => {
                Difference::Shape(a_info.shape.clone(), b_info.shape.clone())
            }
            (Some(a_info), Some(b_info)) => diff_tensor((a, a_info), (b, b_info))?,
            (Some(_), None) => Difference::OnlyInA,
            (None, _) => Difference::OnlyInB,
        };
        let dtypes = (a_info.map(|t| t.dtype), b_info.map(|t| t.dtype));
        diffs.push(TensorDiff { part, name: name.into(), dtypes, difference });
    }
    Ok(diffs)
}

/// What a block of elements adds to the difference of its tensor.
struct BlockDiff {
    bits_differ: bool,
    max_abs: f64,
    max_rel: f64,
    at: usize,
    values: (f32, f32),
}

fn diff_tensor(a: (&TensorSet, &TensorInfo), b: (&TensorSet, &TensorInfo)) -> Result<Difference> {
    let blocks: Vec<_> = cut(0..a.1.num_elements, BLOCK_ELEMENTS).collect();
    let blocks = parallel(default_threads(), blocks.len(), |i| diff_block(a, b, blocks[i].clone()))?;
    let is_float = |t: &TensorInfo| {
        matches!(t.dtype, StoredDType::F64 | StoredDType::F32 | StoredDType::F16 | StoredDType::BF16)
    };
    let same_dtype = a.1.dtype == b.1.dtype;
    if same_dtype && blocks.iter().all(|block| !block.bits_differ) {
        return Ok(Difference::None);
    }
    if !is_float(a.1) || !is_float(b.1) {
        return Ok(Difference::Bits);
    }
    let max_rel = blocks.iter().fold(0.0, |max: f64, block| max.max(block.max_rel));
    let worst = blocks.into_iter().reduce(|x, y| if y.max_abs > x.max_abs { y } else { x });
    let (max_abs, at, values) = worst.map_or((0.0, 0, (0.0, 0.0)), |w| (w.max_abs, w.at, w.values));
    Ok(Difference::Values { max_abs, max_rel, at: multi_index(at, &a.1.shape), values })
}

fn diff_block(
    a: (&TensorSet, &TensorInfo),
    b: (&TensorSet, &TensorInfo),
    range: std::ops::Range<usize>,
) -> Result<BlockDiff> {
    let read = |(set, tensor): (&TensorSet, &TensorInfo)| {
        let size_bytes = range.len() * tensor.dtype.size_bytes();
        let mut buffer = vec![0_u64; size_bytes.div_ceil(8)];
        set.read_bytes(
            &tensor.name,
            range.clone(),
            &mut bytemuck::cast_slice_mut(&mut buffer)[..size_bytes],
        )?;
        Ok::<_, crate::Error>((buffer, size_bytes))
    };
    let ((a_buffer, a_bytes), (b_buffer, b_bytes)) = (read(a)?, read(b)?);
    let bits_differ = a_buffer != b_buffer;
    let mut block =
        BlockDiff { bits_differ, max_abs: 0.0, max_rel: 0.0, at: range.start, values: (0.0, 0.0) };
    let (mut a_values, mut b_values) = (vec![0.0; range.len()], vec![0.0; range.len()]);
    if a.1.dtype == b.1.dtype && !bits_differ {
        return Ok(block);
    }
    let widened = widen(a.1, &bytemuck::cast_slice(&a_buffer)[..a_bytes], &mut a_values)
        .and_then(|()| widen(b.1, &bytemuck::cast_slice(&b_buffer)[..b_bytes], &mut b_values));
    if widened.is_err() {
        // Not floating-point: the caller reports that bits differ.
        return Ok(block);
    }
    let mut first = true;
    for (i, (&a, &b)) in a_values.iter().zip(&b_values).enumerate() {
        let (abs, rel) = distance(a, b);
        block.max_rel = block.max_rel.max(rel);
        if abs > block.max_abs || (first && a.to_bits() != b.to_bits()) {
            (block.max_abs, block.at, block.values) = (abs, range.start + i, (a, b));
            first = false;
        }
    }
    Ok(block)
}

/// |a − b|, alone and over the larger of the two.
fn distance(a: f32, b: f32) -> (f64, f64) {
    if a == b || (a.is_nan() && b.is_nan()) {
        return (0.0, 0.0);
    }
    let abs = (f64::from(a) - f64::from(b)).abs();
    if !abs.is_finite() {
        return (f64::INFINITY, f64::INFINITY);
    }
    (abs, abs / f64::from(a.abs().max(b.abs())))
}

fn multi_index(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (slot, &dim) in index.iter_mut().zip(shape).rev() {
        *slot = flat % dim.max(1);
        flat /= dim.max(1);
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_treat_zeros_and_non_finite_numbers_as_a_reader_expects() {
        assert_eq!(distance(0.0, -0.0), (0.0, 0.0));
        assert_eq!(distance(f32::NAN, f32::NAN), (0.0, 0.0));
        assert_eq!(distance(f32::NAN, 1.0).0, f64::INFINITY);
        assert_eq!(distance(f32::INFINITY, 1.0).1, f64::INFINITY);
        assert_eq!(distance(2.0, 1.0), (1.0, 0.5));
        assert_eq!(multi_index(23, &[2, 3, 4]), [1, 2, 3]);
        assert_eq!(multi_index(0, &[]), [0; 0]);
    }
}
