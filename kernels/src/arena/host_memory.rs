//! The arena's memory on the host, and the only way from views to slices.

use memmap2::{MmapMut, MmapRaw};

use crate::{Element, KernelError, Result, Storage, TensorMut, TensorRef, match_element};

/// Zeroed host memory on huge pages where the system has them. Its bytes are reached only through views of
/// arena blocks.
pub struct HostMemory {
    map: MmapRaw,
    /// Where the first huge page begins.
    start: usize,
    len: usize,
}

impl HostMemory {
    /// A huge page of x86-64 and of AArch64 with small pages of 4 KiB.
    const ALIGNMENT_BYTES: usize = 2 << 20;

    /// Maps `bytes` zeroed bytes. The system provides a page when a thread first writes to it.
    pub fn allocate(bytes: usize) -> Result<Self> {
        let out_of_memory = || KernelError::OutOfMemory { device: "cpu", bytes };
        let padded = bytes.checked_add(Self::ALIGNMENT_BYTES).ok_or_else(out_of_memory)?;
        let map = MmapRaw::from(MmapMut::map_anon(padded).map_err(|_| out_of_memory())?);
        // Rows of matrices lie pages apart, and every step passes over all of the arena. Only a request:
        // the memory is as good, only slower, where it is turned off.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = map.as_ptr().align_offset(Self::ALIGNMENT_BYTES);
        Ok(HostMemory { map, start, len: bytes })
    }

    /// Address of the bytes `offset .. offset + len`.
    ///
    /// # Panics
    /// If the range leaves the allocation.
    fn address(&self, offset_bytes: usize, len_bytes: usize) -> *mut u8 {
        let inside = offset_bytes.checked_add(len_bytes).is_some_and(|end| end <= self.len);
        assert!(inside, "bytes {offset_bytes}..+{len_bytes} leave an allocation of {}", self.len);
        // SAFETY: the offset was just checked to lie inside the `len` bytes that begin at `start`, which is
        // below the alignment; the one mapping has `len` and an alignment of bytes, and lives as long as we.
        unsafe { self.map.as_mut_ptr().add(self.start + offset_bytes) }
    }
}

impl<'a, D: Storage<Memory = HostMemory>> TensorRef<'a, D> {
    /// The elements.
    ///
    /// # Panics
    /// If the tensor has another dtype: kernels are called behind checked front doors.
    pub fn as_slice<T: Element>(&self) -> &'a [T] {
        assert_eq!(self.dtype(), T::DTYPE, "tensor read with another element type");
        let start = self.memory.address(self.offset_bytes, self.size_bytes()).cast::<T>();
        // SAFETY: the range is inside the allocation, initialised (zeroed, then only plain data written)
        // and aligned: blocks start at 256 bytes and views step by whole elements. The view borrows its
        // block for 'a and blocks are disjoint, so no `TensorMut` to these elements exists meanwhile.
        // `T: Pod` admits every bit pattern.
        unsafe { std::slice::from_raw_parts(start, self.len()) }
    }

    /// The bytes of the elements, for those who move them and do not compute with them.
    pub fn as_bytes(&self) -> &'a [u8] {
        match_element!(self.dtype(), T => bytemuck::must_cast_slice(self.as_slice::<T>()))
    }
}

impl<'a, D: Storage<Memory = HostMemory>> TensorMut<'a, D> {
    /// The elements, writable for as long as this view is kept.
    ///
    /// # Panics
    /// If the tensor has another dtype: kernels are called behind checked front doors.
    pub fn into_slice<T: Element>(self) -> &'a mut [T] {
        let view = self.as_ref();
        assert_eq!(view.dtype(), T::DTYPE, "tensor written with another element type");
        let start = view.memory.address(view.offset_bytes, view.size_bytes()).cast::<T>();
        // SAFETY: bounds, alignment and initialisation as in `as_slice`. A `TensorMut` comes from a
        // mutable borrow of its block (or a split of one) for 'a and is consumed here, so this slice is
        // the only way to these elements for 'a.
        unsafe { std::slice::from_raw_parts_mut(start, view.len()) }
    }

    /// The bytes of the elements, writable for as long as this view is kept.
    pub fn into_bytes(self) -> &'a mut [u8] {
        match_element!(self.dtype(), T => bytemuck::must_cast_slice_mut(self.into_slice::<T>()))
    }

    /// The elements, writable while this view is borrowed; panics as [`TensorMut::into_slice`] does.
    pub fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        self.reborrow().into_slice()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Class, Context, Cpu, DType};

    #[test]
    fn bytes_are_those_of_the_elements() {
        let ctx = Context::new(Cpu::new(1).unwrap(), 1024).unwrap();
        let mut block = ctx.arena.block(Class::Batch, DType::U32, 3).unwrap();
        block.view_mut([3]).into_slice::<u32>().copy_from_slice(&[1, 2, 3]);
        block.range_mut(1, [1]).into_bytes().copy_from_slice(&7_u32.to_ne_bytes());
        assert_eq!(block.view([3]).as_slice::<u32>(), [1, 7, 3]);
        assert_eq!(block.range(2, [1]).as_bytes(), 3_u32.to_ne_bytes());
    }
}
