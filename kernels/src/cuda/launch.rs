//! What a launch consists of: the kernel's name, how many threads, and its arguments. Pure values: every
//! family computes them from shapes and dtypes, and a driver only carries them out.
//!
//! A kernel is named `<op>_<dtype>...`, one dtype for each type that the op is compiled for.
//! [`kernel_name!`](crate::kernel_name) makes that name without allocating.

use super::Cuda;
use super::driver::{Driver, Span};
use crate::{TensorMut, TensorRef};

/// Threads of a block where a kernel has no reason for another number.
pub const THREADS: u32 = 256;

/// Shared memory that a block of any kernel may take: what an A100 gives it. GPUs that give less are refused.
pub(super) const MAX_SHARED_BYTES: u32 = 163 << 10;

/// Arguments that a launch may have. The most are those of `combine.cu`, 36.
pub(super) const MAX_ARGS: usize = 40;

/// Bytes that one thread moves by one instruction.
const VECTOR_BYTES: usize = 16;

/// Elements that a thread of a memory-bound kernel works on at once: `GROUP` of `kernels/cuda/vector.cuh`.
pub(super) const GROUP: usize = 8;

/// Bytes of shared memory for `values` f32 of each warp: `take_for_warps` of `kernels/cuda/reduce.cuh`.
pub(super) fn bytes_for_warps(threads: u32, values: usize) -> usize {
    const SMALLEST_WARP: usize = 32;
    threads as usize / SMALLEST_WARP * values * size_of::<f32>()
}

/// Blocks of a kernel that strides over its elements: more than any GPU has room for, few enough to start.
const MAX_STRIDING_BLOCKS: u64 = 65_535 * 8;

/// How many threads run a kernel, and the shared memory of each block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaunchConfig {
    /// Blocks by dimension; x is the fastest. With a 0 among them nothing is launched.
    pub grid: [u32; 3],
    /// Threads of a block, which is one-dimensional: a multiple of 64, so that warps of 32 and of 64 are whole.
    pub threads: u32,
    /// Shared memory of a block: exactly what the kernel takes.
    pub shared_bytes: u32,
}

impl LaunchConfig {
    /// `blocks` blocks of `threads` threads, in one dimension, without shared memory.
    ///
    /// # Panics
    /// If the number of blocks is beyond the hardware's limit of 2^31 - 1: no shape of training comes near.
    pub fn blocks(blocks: usize, threads: u32) -> Self {
        Self::grid([blocks, 1, 1], threads)
    }

    /// A grid of blocks of `threads` threads, without shared memory.
    ///
    /// # Panics
    /// If an extent is beyond the hardware's limit: 2^31 - 1 for x, 65,535 for y and z.
    pub fn grid(extents: [usize; 3], threads: u32) -> Self {
        const LIMITS: [usize; 3] = [(1 << 31) - 1, 65_535, 65_535];
        let fits = extents.iter().zip(LIMITS).all(|(extent, limit)| *extent <= limit);
        assert!(fits, "a grid of {extents:?} blocks is beyond the limit of {LIMITS:?}");
        assert!(threads.is_multiple_of(64) && threads <= 1024, "a block of {threads} threads");
        LaunchConfig { grid: extents.map(|extent| extent as u32), threads, shared_bytes: 0 }
    }

    /// For a kernel that strides over `len` elements, of which the largest type has `element_bytes`: one
    /// vector for each thread, up to a bound.
    pub fn elements(len: usize, element_bytes: usize) -> Self {
        let per_block = THREADS as usize * (VECTOR_BYTES / element_bytes);
        let blocks = len.div_ceil(per_block) as u64;
        Self::blocks(blocks.min(MAX_STRIDING_BLOCKS) as usize, THREADS)
    }

    /// For a kernel that strides over `len` elements in groups (`kernels/cuda/vector.cuh`), of any type: one group
    /// for each thread, up to a bound.
    pub fn groups(len: usize) -> Self {
        Self::elements(len, VECTOR_BYTES / GROUP)
    }

    /// The same launch with `bytes` of shared memory for each block.
    pub fn with_shared_bytes(self, bytes: usize) -> Self {
        LaunchConfig { shared_bytes: bytes as u32, ..self }
    }

    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.grid.contains(&0)
    }
}

/// One argument of a kernel. Made from views and scalars by `into()`.
pub enum Arg<'a, M> {
    /// Memory that the kernel only reads.
    Read(Span<'a, M>),
    /// Memory that the kernel may read and write.
    Write(Span<'a, M>),
    /// A null pointer: an optional tensor that is not there.
    Absent,
    /// A `u32`.
    U32(u32),
    /// An `i32`.
    I32(i32),
    /// A `u64`.
    U64(u64),
    /// An `f32`.
    F32(f32),
}

impl<M> Clone for Arg<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M> Copy for Arg<'_, M> {}

impl<'a, Dr: Driver> From<TensorRef<'a, Cuda<Dr>>> for Arg<'a, Dr::Memory> {
    fn from(view: TensorRef<'a, Cuda<Dr>>) -> Self {
        Arg::Read(Span::of(view))
    }
}

/// Reborrow the view first where it is used again after the launch.
impl<'a, Dr: Driver> From<TensorMut<'a, Cuda<Dr>>> for Arg<'a, Dr::Memory> {
    fn from(view: TensorMut<'a, Cuda<Dr>>) -> Self {
        Arg::Write(Span::of_mut(view))
    }
}

impl<'a, Dr: Driver> From<Option<TensorRef<'a, Cuda<Dr>>>> for Arg<'a, Dr::Memory> {
    fn from(view: Option<TensorRef<'a, Cuda<Dr>>>) -> Self {
        view.map_or(Arg::Absent, Arg::from)
    }
}

impl<'a, Dr: Driver> From<Option<TensorMut<'a, Cuda<Dr>>>> for Arg<'a, Dr::Memory> {
    fn from(view: Option<TensorMut<'a, Cuda<Dr>>>) -> Self {
        view.map_or(Arg::Absent, Arg::from)
    }
}

impl<M> From<u32> for Arg<'_, M> {
    fn from(value: u32) -> Self {
        Arg::U32(value)
    }
}

impl<M> From<i32> for Arg<'_, M> {
    fn from(value: i32) -> Self {
        Arg::I32(value)
    }
}

impl<M> From<u64> for Arg<'_, M> {
    fn from(value: u64) -> Self {
        Arg::U64(value)
    }
}

impl<M> From<f32> for Arg<'_, M> {
    fn from(value: f32) -> Self {
        Arg::F32(value)
    }
}

/// Rows, columns and the like, which kernels count in 32 bits with room for what they count beyond the end.
///
/// # Panics
/// If there are 2^31 or more: no shape of training comes near, and cut off they would be a few.
pub(super) fn extent<'a, M>(len: usize) -> Arg<'a, M> {
    let len = i32::try_from(len).expect("extents that kernels count in 32 bits are below 2^31");
    len.cast_unsigned().into()
}

/// The name of a kernel: the op, then the name of each dtype, as a `&'static str`.
///
/// `kernel_name!("cast", src.dtype(), dst.dtype())` is `"cast_bf16_f32"` for a `src` of bf16 and a `dst` of f32.
/// Dtypes are floating-point ones, as front doors have checked; after `any`, there is one dtype of any kind:
/// `kernel_name!("combine_sum", any own.dtype())`. It expands to nested matches over literals, so a name costs a
/// few comparisons and no memory.
#[macro_export]
macro_rules! kernel_name {
    ($op:literal, any $dtype:expr) => {
        match $dtype {
            $crate::DType::F32 => concat!($op, "_f32"),
            $crate::DType::Bf16 => concat!($op, "_bf16"),
            $crate::DType::U32 => concat!($op, "_u32"),
            $crate::DType::I32 => concat!($op, "_i32"),
            $crate::DType::U8 => concat!($op, "_u8"),
        }
    };
    ($op:literal, $($dtype:expr),+) => {
        $crate::kernel_name!(@ [$op] $($dtype),+)
    };
    (@ [$($part:literal),+]) => {
        concat!($($part),+)
    };
    (@ [$($part:literal),+] $dtype:expr $(, $rest:expr)*) => {
        match $dtype {
            $crate::DType::F32 => $crate::kernel_name!(@ [$($part,)+ "_f32"] $($rest),*),
            $crate::DType::Bf16 => $crate::kernel_name!(@ [$($part,)+ "_bf16"] $($rest),*),
            other => unreachable!("front doors admit only floating-point tensors here, got {other}"),
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType::{Bf16, F32, U8};

    #[test]
    fn names_join_the_op_and_its_dtypes() {
        assert_eq!(kernel_name!("fill", Bf16), "fill_bf16");
        assert_eq!(kernel_name!("cast", Bf16, F32), "cast_bf16_f32");
        assert_eq!(kernel_name!("adamw_update", F32, Bf16, Bf16), "adamw_update_f32_bf16_bf16");
        assert_eq!(kernel_name!("combine_max", any U8), "combine_max_u8");
    }

    #[test]
    fn every_thread_has_a_vector_until_the_grid_is_full() {
        let blocks = |len, bytes| LaunchConfig::elements(len, bytes).grid[0];
        assert_eq!([blocks(1, 4), blocks(1024, 4), blocks(1025, 4)], [1, 1, 2]);
        assert_eq!([blocks(2048, 2), blocks(2049, 2)], [1, 2]);
        assert_eq!(blocks(usize::MAX / 2, 4), 524_280);
        assert!(LaunchConfig::elements(0, 4).is_empty());
    }

    #[test]
    #[should_panic(expected = "below 2^31")]
    fn an_extent_is_never_cut_off() {
        let _ = extent::<()>((1 << 32) + 5);
    }

    #[test]
    #[should_panic(expected = "beyond the limit")]
    fn a_grid_that_no_gpu_has_is_a_broken_invariant() {
        let _ = LaunchConfig::grid([1, 65_536, 1], THREADS);
    }
}
