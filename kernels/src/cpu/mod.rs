//! The device that computes on the host: f32 arithmetic, tensors stored as f32 or bf16.
//!
//! Invariant: bits depend on shapes and values only, never on the number of threads, alignment or free
//! memory. Hence every parallel loop cuts its work at places that are functions of the shape, each piece
//! writes its own outputs, and sums across pieces go through partial buffers that are added in order.
//!
//! Loops are compiled once per instruction set by [`vectorized`]; they contain no reassociation, so the
//! instruction set does not change their bits either.

mod cross_entropy;
mod embedding;
mod gemm;
mod rms_norm;
mod simd;

use std::sync::Arc;

use crate::arena::HostMemory;
use crate::device::Caps;
use crate::{Cost, Element, KernelError, Result, Storage, TensorMut, TensorRef};

/// The host as a device, with its own thread pool. Clones share the pool.
#[derive(Clone)]
pub struct Cpu {
    pool: Arc<rayon::ThreadPool>,
}

impl Cpu {
    /// A device that computes with `threads` threads; 0 means one per core.
    pub fn new(threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("cpu-{i}"))
            .build()
            .map_err(|e| KernelError::Device(format!("cannot start {threads} CPU worker threads: {e}")))?;
        Ok(Cpu { pool: Arc::new(pool) })
    }

    /// Number of threads that compute.
    pub fn num_threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Caps of every CPU device, without starting one.
    pub const CAPS: Caps =
        Caps { name: "cpu", alignment_bytes: 256, widens_bf16: true, packs_products: true };

    /// Runs `work` on the pool; nested calls stay on their thread.
    fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }
}

impl Storage for Cpu {
    type Memory = HostMemory;

    fn caps(&self) -> Caps {
        Self::CAPS
    }

    fn allocate(&self, bytes: usize) -> Result<HostMemory> {
        HostMemory::allocate(bytes)
    }

    fn upload<T: Element>(&self, src: &[T], dst: TensorMut<'_, Self>) -> Result<()> {
        dst.into_slice::<T>().copy_from_slice(src);
        Ok(())
    }

    fn download<T: Element>(&self, src: TensorRef<'_, Self>, dst: &mut [T]) -> Result<()> {
        dst.copy_from_slice(src.as_slice::<T>());
        Ok(())
    }

    fn copy(&self, src: TensorRef<'_, Self>, dst: TensorMut<'_, Self>) -> Result<()> {
        src.expect_dtype("copy", "src", dst.dtype())?;
        match src.dtype().size_bytes() {
            2 => dst.into_slice::<half::bf16>().copy_from_slice(src.as_slice()),
            _ => match src.dtype() {
                crate::DType::F32 => dst.into_slice::<f32>().copy_from_slice(src.as_slice()),
                crate::DType::U32 => dst.into_slice::<u32>().copy_from_slice(src.as_slice()),
                _ => dst.into_slice::<i32>().copy_from_slice(src.as_slice()),
            },
        }
        Ok(())
    }

    fn zero(&self, dst: TensorMut<'_, Self>) -> Result<()> {
        match dst.dtype() {
            crate::DType::F32 => dst.into_slice::<f32>().fill(0.0),
            crate::DType::Bf16 => dst.into_slice::<half::bf16>().fill(half::bf16::ZERO),
            crate::DType::U32 => dst.into_slice::<u32>().fill(0),
            crate::DType::I32 => dst.into_slice::<i32>().fill(0),
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.run(work)
    }

    fn record(&self, _cost: Cost) {}
}

/// Compiles `body` for the best instruction set of this machine. Everything it calls must be
/// `#[inline(always)]`, or it is compiled for the baseline and `f32::mul_add` becomes a library call.
#[inline(always)]
pub(crate) fn vectorized<R>(body: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(body)
}

/// [`vectorized`] of an expression, which it certainly inlines. A plain closure is called from one place
/// per instruction set, so that beyond a modest size the compiler keeps it out of line, where it has only
/// the baseline's instructions.
macro_rules! vectorize {
    ($body:expr) => {
        $crate::cpu::vectorized({
            #[inline(always)]
            || $body
        })
    };
}
pub(crate) use vectorize;

/// Lanes of the explicit accumulators in reductions: a fixed number, so that a sum has the same order
/// whatever the width of the machine's registers.
pub(crate) const LANES: usize = 16;

/// `sum_i f(i)` for `i < len`: [`LANES`] interleaved sums, then a pairwise tree over them.
#[inline(always)]
pub(crate) fn lane_sum(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let whole = len - len % LANES;
    let mut i = 0;
    while i < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(i + lane);
        }
        i += LANES;
    }
    for lane in 0..len - whole {
        lanes[lane] += f(whole + lane);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}
