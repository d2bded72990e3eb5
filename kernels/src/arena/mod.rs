//! All device memory: one allocation made before the first step and never grown.
//!
//! A dry run of the same step sizes it: the same calls in the same order give the same offsets, so the
//! highest end address seen by the dry run is exactly what the real run needs ([`Arena::high_water_bytes`]).
//! Blocks go to the lowest free range that fits, hence long-lived blocks are made first.

mod free_list;
mod host_memory;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{DType, KernelError, Result, Shape, Storage, TensorMut, TensorRef};
use free_list::FreeList;
pub use free_list::Occupancy;
pub use host_memory::HostMemory;

/// What a block holds: the lines of the memory plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Compute copy of the parameters.
    Weights,
    /// Master weights of the optimizer.
    Master,
    /// First and second moments of the optimizer.
    Moments,
    /// Gradients and their reduction slots.
    Gradients,
    /// Tensors saved between forward and backward, and the residual stream.
    Activations,
    /// Scratch of one op.
    Workspace,
    /// Tokens, labels, positions, sequence bounds.
    Batch,
    /// Rotary tables, step scalars, counters.
    Constants,
    /// Keys and values kept while generating.
    KvCache,
    /// Buffers in flight in collectives.
    Communication,
}

impl Class {
    /// Every class, in the order in which plans print them.
    pub const ALL: [Class; 10] = [
        Class::Weights,
        Class::Master,
        Class::Moments,
        Class::Gradients,
        Class::Activations,
        Class::Workspace,
        Class::Batch,
        Class::Constants,
        Class::KvCache,
        Class::Communication,
    ];

    /// The name printed in plans.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Weights => "weights",
            Class::Master => "master",
            Class::Moments => "moments",
            Class::Gradients => "gradients",
            Class::Activations => "activations",
            Class::Workspace => "workspace",
            Class::Batch => "batch",
            Class::Constants => "constants",
            Class::KvCache => "kv cache",
            Class::Communication => "communication",
        }
    }
}

/// Bytes in use by class.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    by_class: [usize; Class::ALL.len()],
}

impl Usage {
    /// Bytes of one class.
    pub fn of(&self, class: Class) -> usize {
        self.by_class[class as usize]
    }

    /// Bytes of all classes.
    pub fn total(&self) -> usize {
        self.by_class.iter().sum()
    }
}

/// The allocator of a device's one allocation. Clones share it.
pub struct Arena<D: Storage> {
    shared: Arc<Shared<D>>,
}

struct Shared<D: Storage> {
    /// Told of what is free; its stream is the one that blocks belong to.
    device: D,
    memory: D::Memory,
    alignment_bytes: usize,
    capacity_bytes: usize,
    state: Mutex<State>,
}

struct State {
    free: FreeList,
    usage: Usage,
    peak: Usage,
}

impl<D: Storage> Clone for Arena<D> {
    fn clone(&self) -> Self {
        Arena { shared: Arc::clone(&self.shared) }
    }
}

impl<D: Storage> Arena<D> {
    /// Allocates `capacity_bytes` on the device. A dry run passes `usize::MAX / 2` and allocates nothing.
    pub fn new(device: &D, capacity_bytes: usize) -> Result<Self> {
        let memory = device.allocate(capacity_bytes)?;
        let alignment_bytes = device.caps().alignment_bytes;
        let free = FreeList::new(capacity_bytes, alignment_bytes);
        let state = Mutex::new(State { free, usage: Usage::default(), peak: Usage::default() });
        device.discard(&memory, 0, capacity_bytes);
        let device = device.clone();
        Ok(Arena { shared: Arc::new(Shared { device, memory, alignment_bytes, capacity_bytes, state }) })
    }

    /// A block of `len` elements. Its contents are whatever the last owner left there.
    pub fn block(&self, class: Class, dtype: DType, len: usize) -> Result<Block<D>> {
        Block::take(&self.shared, class, dtype, len)
    }

    /// Bytes in use now.
    pub fn usage(&self) -> Usage {
        self.state().usage
    }

    /// Which bytes are in use now.
    pub fn occupancy(&self) -> Occupancy {
        self.state().free.occupancy()
    }

    /// Whether the bytes in use now are those that were in use then: the same calls that take and return blocks then
    /// give the same offsets as they gave then, and nobody else has a byte that they give.
    pub fn is_occupied_as(&self, then: &Occupancy) -> bool {
        self.state().free.is(then)
    }

    /// Bytes in use when most were.
    pub fn peak(&self) -> Usage {
        self.state().peak
    }

    /// The highest end address of any block so far: the capacity that this sequence of calls needs.
    pub fn high_water_bytes(&self) -> usize {
        self.state().free.high_water()
    }

    /// Size of the allocation.
    pub fn capacity_bytes(&self) -> usize {
        self.shared.capacity_bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An owned range of the arena; dropping it gives the range back.
pub struct Block<D: Storage> {
    shared: Arc<Shared<D>>,
    class: Class,
    dtype: DType,
    len: usize,
    offset_bytes: usize,
    size_bytes: usize,
}

impl<D: Storage> Block<D> {
    fn take(shared: &Arc<Shared<D>>, class: Class, dtype: DType, len: usize) -> Result<Self> {
        let size_bytes = (len * dtype.size_bytes()).next_multiple_of(shared.alignment_bytes);
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let offset_bytes = state.free.take(size_bytes).ok_or(KernelError::ArenaFull {
            capacity_bytes: shared.capacity_bytes,
            requested_bytes: size_bytes,
            class: class.name(),
        })?;
        state.usage.by_class[class as usize] += size_bytes;
        if state.usage.total() > state.peak.total() {
            state.peak = state.usage;
        }
        drop(state);
        Ok(Block { shared: Arc::clone(shared), class, dtype, len, offset_bytes, size_bytes })
    }

    /// Another block of the same arena: for those who are handed a block and need workspace besides.
    pub fn sibling(&self, class: Class, dtype: DType, len: usize) -> Result<Self> {
        Self::take(&self.shared, class, dtype, len)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the block has no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// All elements, as `shape`.
    pub fn view(&self, shape: impl Into<Shape>) -> TensorRef<'_, D> {
        self.range(0, shape)
    }

    /// All elements, as `shape`, writable.
    pub fn view_mut(&mut self, shape: impl Into<Shape>) -> TensorMut<'_, D> {
        self.range_mut(0, shape)
    }

    /// The elements from `start`, as `shape`.
    pub fn range(&self, start: usize, shape: impl Into<Shape>) -> TensorRef<'_, D> {
        let shape = self.checked(start, shape.into());
        TensorRef::new(&self.shared.memory, self.byte_offset(start), self.dtype, shape)
    }

    /// The elements from `start`, as `shape`, writable.
    pub fn range_mut(&mut self, start: usize, shape: impl Into<Shape>) -> TensorMut<'_, D> {
        let shape = self.checked(start, shape.into());
        TensorMut::new(&self.shared.memory, self.byte_offset(start), self.dtype, shape)
    }

    /// Cuts the block in two: this one keeps the elements before `at`, the result owns the others. Two
    /// threads may then work on the two, each as an owner.
    ///
    /// # Panics
    /// If `at` lies outside.
    pub fn split_off(&mut self, at: usize) -> Block<D> {
        assert!(at <= self.len, "split at {at} of a block of {} elements", self.len);
        let kept_bytes = at * self.dtype.size_bytes();
        let rest = Block {
            shared: Arc::clone(&self.shared),
            class: self.class,
            dtype: self.dtype,
            len: self.len - at,
            offset_bytes: self.offset_bytes + kept_bytes,
            size_bytes: self.size_bytes - kept_bytes,
        };
        (self.len, self.size_bytes) = (at, kept_bytes);
        rest
    }

    /// Takes back what [`Block::split_off`] cut off.
    ///
    /// # Panics
    /// If `next` does not begin where this block ends.
    pub fn append(&mut self, mut next: Block<D>) {
        let follows = Arc::ptr_eq(&self.shared, &next.shared)
            && (self.class, self.dtype) == (next.class, next.dtype)
            && self.offset_bytes + self.size_bytes == next.offset_bytes
            && self.len * self.dtype.size_bytes() == self.size_bytes;
        assert!(follows, "append joins what split_off has cut");
        self.len += std::mem::take(&mut next.len);
        self.size_bytes += std::mem::take(&mut next.size_bytes);
    }

    fn byte_offset(&self, start: usize) -> usize {
        self.offset_bytes + start * self.dtype.size_bytes()
    }

    /// Panics if the view would leave the block: soundness of every view rests on this check.
    fn checked(&self, start: usize, shape: Shape) -> Shape {
        let end = start.checked_add(shape.len());
        assert!(
            end.is_some_and(|end| end <= self.len),
            "view {shape:?} at element {start} leaves a block of {} elements",
            self.len
        );
        shape
    }
}

impl<D: Storage> Drop for Block<D> {
    fn drop(&mut self) {
        if self.size_bytes > 0 {
            self.shared.device.discard(&self.shared.memory, self.offset_bytes, self.size_bytes);
        }
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.free.give_back(self.offset_bytes, self.size_bytes);
        state.usage.by_class[self.class as usize] -= self.size_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cpu;

    fn arena(bytes: usize) -> Arena<Cpu> {
        Arena::new(&Cpu::new(1).unwrap(), bytes).unwrap()
    }

    #[test]
    fn blocks_reuse_the_lowest_hole_and_the_high_water_mark_stays() {
        let arena = arena(4096);
        let a = arena.block(Class::Activations, DType::F32, 64).unwrap();
        let b = arena.block(Class::Weights, DType::F32, 64).unwrap();
        drop(a);
        let c = arena.block(Class::Workspace, DType::F32, 10).unwrap();
        assert_eq!(c.offset_bytes, 0);
        assert_eq!(arena.high_water_bytes(), 512);
        assert_eq!(arena.peak().total(), 512);
        drop((b, c));
        assert_eq!(arena.usage().total(), 0);
        assert_eq!(arena.high_water_bytes(), 512);
    }

    #[test]
    fn an_arena_knows_whether_the_same_bytes_are_in_use() {
        let arena = arena(4096);
        let long = arena.block(Class::Weights, DType::F32, 64).unwrap();
        let then = arena.occupancy();
        let [a, b] = [64, 128].map(|len| arena.block(Class::Workspace, DType::F32, len).unwrap());
        assert!(!arena.is_occupied_as(&then));
        drop(a);
        assert!(!arena.is_occupied_as(&then));
        drop(b);
        assert!(arena.is_occupied_as(&then));
        // As many bytes, but others.
        let other = arena.block(Class::Weights, DType::F32, 64).unwrap();
        drop(long);
        assert!(!arena.is_occupied_as(&then) && arena.usage().total() == 256);
        drop(other);
    }

    #[test]
    fn a_full_arena_says_what_did_not_fit() {
        let arena = arena(1024);
        let _all = arena.block(Class::Weights, DType::F32, 256).unwrap();
        let error = arena.block(Class::Workspace, DType::F32, 1).err().unwrap().to_string();
        assert!(error.contains("1024 bytes is full") && error.contains("workspace"), "{error}");
    }

    #[test]
    fn parts_of_a_block_are_blocks_and_join_again() {
        let arena = arena(4096);
        let mut a = arena.block(Class::Weights, DType::F32, 10).unwrap();
        a.view_mut([10])
            .into_slice::<f32>()
            .copy_from_slice(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        let mut b = a.split_off(3);
        let c = b.split_off(0);
        assert_eq!((a.len(), b.len(), c.len()), (3, 0, 7));
        assert_eq!(c.view([7]).as_slice::<f32>()[0], 3.0);
        b.append(c);
        a.append(b);
        assert_eq!(a.view([10]).as_slice::<f32>()[9], 9.0);
        assert_eq!(arena.usage().total(), 256);
        drop(a);
        assert_eq!(arena.usage().total(), 0);
    }

    #[test]
    fn a_sibling_comes_from_the_same_arena() {
        let arena = arena(4096);
        let a = arena.block(Class::Weights, DType::F32, 64).unwrap();
        let b = a.sibling(Class::Communication, DType::U8, 300).unwrap();
        assert_eq!((b.offset_bytes, b.len(), b.dtype()), (256, 300, DType::U8));
        assert_eq!(arena.usage().of(Class::Communication), 512);
        drop(a);
        assert_eq!(arena.usage().total(), 512);
    }

    #[test]
    fn parts_dropped_one_by_one_leave_the_arena_aligned() {
        let arena = arena(4096);
        let mut a = arena.block(Class::Weights, DType::F32, 100).unwrap();
        let b = a.split_off(33);
        drop(a);
        let c = arena.block(Class::Weights, DType::F32, 16).unwrap();
        assert_eq!(c.offset_bytes % 256, 0);
        drop((b, c));
        assert_eq!(arena.usage().total(), 0);
        assert!(arena.block(Class::Weights, DType::F32, 1024).is_ok());
    }

    #[test]
    #[should_panic(expected = "append joins what split_off has cut")]
    fn only_neighbours_are_joined() {
        let arena = arena(4096);
        let mut a = arena.block(Class::Weights, DType::F32, 10).unwrap();
        a.append(arena.block(Class::Weights, DType::F32, 10).unwrap());
    }

    #[test]
    #[should_panic(expected = "leaves a block of 8 elements")]
    fn a_view_outside_its_block_is_a_broken_invariant() {
        let block = arena(1024).block(Class::Weights, DType::F32, 8).unwrap();
        let _ = block.range(4, [5]);
    }
}
