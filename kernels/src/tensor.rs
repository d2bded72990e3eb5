//! Borrowed views of device memory: a buffer, an element offset and a shape.
//!
//! Weights, gradients and shards are ranges of larger blocks, so ops take these views and never own
//! memory. A [`TensorMut`] comes from a mutable borrow of its [`Block`](crate::Block): the borrow checker
//! keeps inputs and outputs of an op apart.

use std::marker::PhantomData;

use crate::{DType, KernelError, Result, Shape, Storage};

/// A read-only view of a contiguous row-major tensor.
pub struct TensorRef<'a, D: Storage> {
    pub(crate) memory: &'a D::Memory,
    pub(crate) offset_bytes: usize,
    dtype: DType,
    shape: Shape,
}

/// A writable view of a contiguous row-major tensor; nothing else sees its elements meanwhile.
pub struct TensorMut<'a, D: Storage> {
    view: TensorRef<'a, D>,
    exclusive: PhantomData<&'a mut [u8]>,
}

impl<D: Storage> Clone for TensorRef<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D: Storage> Copy for TensorRef<'_, D> {}

impl<D: Storage> std::fmt::Debug for TensorRef<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

impl<'a, D: Storage> TensorRef<'a, D> {
    /// A view of `shape` elements at `offset_bytes`. Only blocks make views: they know what they own.
    pub(crate) fn new(memory: &'a D::Memory, offset_bytes: usize, dtype: DType, shape: Shape) -> Self {
        TensorRef { memory, offset_bytes, dtype, shape }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.shape.is_empty()
    }

    /// Bytes of all elements.
    pub fn size_bytes(&self) -> usize {
        self.len() * self.dtype.size_bytes()
    }

    /// The same elements under other extents.
    ///
    /// # Panics
    /// If the number of elements differs: reshapes are written in our code.
    pub fn reshape(self, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.len(), self.len(), "reshape of {:?} to {shape:?}", self.shape);
        TensorRef { shape, ..self }
    }

    /// The same bits as elements of another type of the same size: an f32 word of a table of u32, say.
    ///
    /// # Panics
    /// If the elements of the two types differ in size.
    pub fn reinterpret(self, dtype: DType) -> Self {
        assert_eq!(dtype.size_bytes(), self.dtype.size_bytes(), "reinterpret {} as {dtype}", self.dtype);
        TensorRef { dtype, ..self }
    }

    /// `rows` rows of the outermost dimension from row `start`.
    ///
    /// # Panics
    /// If the rows lie outside.
    pub fn rows(self, start: usize, rows: usize) -> Self {
        let dims = self.shape.dims();
        assert!(start + rows <= dims[0], "rows {start}..{} of {:?}", start + rows, self.shape);
        let row_len: usize = dims[1..].iter().product();
        let mut extents = [1; Shape::MAX_RANK];
        extents[..dims.len()].copy_from_slice(dims);
        extents[0] = rows;
        TensorRef {
            offset_bytes: self.offset_bytes + start * row_len * self.dtype.size_bytes(),
            shape: Shape::new(&extents[..dims.len()]),
            ..self
        }
    }

    /// The extents, if there are `N` of them.
    pub fn dims<const N: usize>(&self, op: &'static str, argument: &'static str) -> Result<[usize; N]> {
        <[usize; N]>::try_from(self.shape.dims()).map_err(|_| KernelError::Shape {
            op,
            argument,
            got: self.shape,
            expected: format!("{N} dimensions"),
        })
    }

    /// Checks the extents.
    pub fn expect(&self, op: &'static str, argument: &'static str, extents: &[usize]) -> Result<()> {
        if self.shape.dims() == extents {
            return Ok(());
        }
        Err(KernelError::Shape { op, argument, got: self.shape, expected: format!("{extents:?}") })
    }

    /// Checks that the element type is this one.
    pub fn expect_dtype(&self, op: &'static str, argument: &'static str, dtype: DType) -> Result<()> {
        if self.dtype == dtype {
            return Ok(());
        }
        Err(KernelError::DType { op, argument, got: self.dtype, expected: dtype.name() })
    }

    /// Checks that the elements are floating-point.
    pub fn expect_float(&self, op: &'static str, argument: &'static str) -> Result<()> {
        if matches!(self.dtype, DType::F32 | DType::Bf16) {
            return Ok(());
        }
        Err(KernelError::DType { op, argument, got: self.dtype, expected: "f32 or bf16" })
    }
}

impl<D: Storage> std::fmt::Debug for TensorMut<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.view.fmt(f)
    }
}

impl<'a, D: Storage> TensorMut<'a, D> {
    /// A writable view. The caller holds a mutable borrow of the block for `'a`.
    pub(crate) fn new(memory: &'a D::Memory, offset_bytes: usize, dtype: DType, shape: Shape) -> Self {
        TensorMut { view: TensorRef::new(memory, offset_bytes, dtype, shape), exclusive: PhantomData }
    }

    /// The same elements, read-only, while this view is borrowed.
    pub fn as_ref(&self) -> TensorRef<'_, D> {
        self.view
    }

    /// The same elements, no longer writable, for as long as this view would have been.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn into_ref(self) -> TensorRef<'a, D> {
        self.view
    }

    /// A second writable view that ends before this one is used again.
    pub fn reborrow(&mut self) -> TensorMut<'_, D> {
        TensorMut { view: self.view, exclusive: PhantomData }
    }

    /// The same elements under other extents; panics as [`TensorRef::reshape`] does.
    pub fn reshape(self, shape: impl Into<Shape>) -> Self {
        TensorMut { view: self.view.reshape(shape), exclusive: PhantomData }
    }

    /// `rows` rows of the outermost dimension from row `start`; panics as [`TensorRef::rows`] does.
    pub fn rows(self, start: usize, rows: usize) -> Self {
        TensorMut { view: self.view.rows(start, rows), exclusive: PhantomData }
    }

    /// The first `rows` rows and the others, as two views that do not overlap.
    pub fn split_rows(self, rows: usize) -> (Self, Self) {
        let total = self.view.shape().dims()[0];
        (
            TensorMut { view: self.view.rows(0, rows), exclusive: PhantomData },
            TensorMut { view: self.view.rows(rows, total - rows), exclusive: PhantomData },
        )
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.view.dtype()
    }

    /// Extents.
    pub fn shape(&self) -> Shape {
        self.view.shape()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.view.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.view.is_empty()
    }

    /// The extents, if there are `N` of them.
    pub fn dims<const N: usize>(&self, op: &'static str, argument: &'static str) -> Result<[usize; N]> {
        self.view.dims(op, argument)
    }

    /// Checks the extents.
    pub fn expect(&self, op: &'static str, argument: &'static str, extents: &[usize]) -> Result<()> {
        self.view.expect(op, argument, extents)
    }

    /// Checks that the element type is this one.
    pub fn expect_dtype(&self, op: &'static str, argument: &'static str, dtype: DType) -> Result<()> {
        self.view.expect_dtype(op, argument, dtype)
    }

    /// Checks that the elements are floating-point.
    pub fn expect_float(&self, op: &'static str, argument: &'static str) -> Result<()> {
        self.view.expect_float(op, argument)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Class, Context, Cpu, DType};

    #[test]
    fn reinterpret_keeps_the_bits() {
        let ctx = Context::new(Cpu::new(1).unwrap(), 1024).unwrap();
        let mut block = ctx.arena.block(Class::Constants, DType::U32, 3).unwrap();
        block.view_mut([3]).into_slice().copy_from_slice(&[7, 1.5_f32.to_bits(), 9]);
        let word = block.range(1, [1]).reinterpret(DType::F32);
        assert_eq!(word.dtype(), DType::F32);
        assert_eq!(word.as_slice::<f32>(), [1.5]);
    }

    #[test]
    #[should_panic(expected = "reinterpret u32 as bf16")]
    fn reinterpret_refuses_another_size() {
        let ctx = Context::new(Cpu::new(1).unwrap(), 1024).unwrap();
        let block = ctx.arena.block(Class::Constants, DType::U32, 4).unwrap();
        let _ = block.view([4]).reinterpret(DType::Bf16);
    }
}
