//! What is saved: for every global tensor, the element ranges that this rank holds, in host memory.

use std::ops::Range;
use std::sync::Arc;

use super::layout::TensorSpec;
use crate::{Error, Result};

/// Host memory of a snapshot, shared by the pieces that lie in it: a `Vec<u8>`, pinned memory. When the save
/// is done its clones are dropped, and `Arc::get_mut` gives the buffer back to the owner for the next one.
pub type SnapshotBuffer = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Consecutive elements of the row-major global tensor.
#[derive(Clone)]
pub struct Piece {
    /// Index of the first element in the global tensor.
    pub start_element: usize,
    buffer: SnapshotBuffer,
    range_bytes: Range<usize>,
}

impl Piece {
    /// The bytes `range_bytes` of `buffer`, which are the elements from `start_element` on.
    ///
    /// # Panics
    /// If the range lies outside of the buffer.
    pub fn new(start_element: usize, buffer: SnapshotBuffer, range_bytes: Range<usize>) -> Self {
        let len = (*buffer).as_ref().len();
        assert!(
            range_bytes.start <= range_bytes.end && range_bytes.end <= len,
            "piece {range_bytes:?} of a buffer of {len} bytes"
        );
        Piece { start_element, buffer, range_bytes }
    }

    /// A piece that owns its bytes.
    pub fn owned(start_element: usize, bytes: Vec<u8>) -> Self {
        let range_bytes = 0..bytes.len();
        Piece { start_element, buffer: Arc::new(bytes), range_bytes }
    }

    /// The bytes of the elements.
    pub fn bytes(&self) -> &[u8] {
        &(*self.buffer).as_ref()[self.range_bytes.clone()]
    }
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Piece({} bytes from element {})", self.range_bytes.len(), self.start_element)
    }
}

/// A global tensor and what this rank holds of it.
#[derive(Clone, Debug)]
pub struct TensorData {
    /// The global tensor.
    pub spec: TensorSpec,
    /// This rank's pieces, which do not overlap; none if the tensor lies elsewhere.
    pub pieces: Vec<Piece>,
}

impl TensorData {
    /// A tensor that this rank holds whole.
    pub fn whole(spec: TensorSpec, bytes: Vec<u8>) -> Self {
        TensorData { spec, pieces: vec![Piece::owned(0, bytes)] }
    }

    /// The element range of a piece.
    ///
    /// # Errors
    /// If it lies outside of the tensor or ends inside an element: a defect of the snapshot.
    pub(super) fn elements(&self, piece: &Piece) -> Result<Range<usize>> {
        let size_bytes = self.spec.dtype.size_bytes();
        let start = piece.start_element;
        let end = start.saturating_add(piece.bytes().len() / size_bytes);
        if !piece.bytes().len().is_multiple_of(size_bytes) || end > self.spec.num_elements() {
            return Err(Error::fault(format!(
                "snapshot of `{}`: {} bytes from element {start} do not fit shape {:?} of {}",
                self.spec.name,
                piece.bytes().len(),
                self.spec.shape,
                self.spec.dtype
            )));
        }
        Ok(start..end)
    }
}

/// All tensors of a checkpoint, in the same order on every rank, which is the order on disk.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Weights in compute dtype, named as Hugging Face names them.
    pub weights: Vec<TensorData>,
    /// `master.<name>`, `exp_avg.<name>`, `exp_avg_sq.<name>`.
    pub optimizer: Vec<TensorData>,
}
