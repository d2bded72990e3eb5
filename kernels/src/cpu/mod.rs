//! The device that computes on the host: f32 arithmetic, tensors stored as f32 or bf16.
//!
//! Invariant: bits depend on shapes and values only, never on the number of threads, alignment or free
//! memory. Hence every parallel loop cuts its work at places that are functions of the shape, each piece
//! writes its own outputs, and sums across pieces go through partial buffers that are added in order.
//!
//! Where pieces are long, each is offered to the other threads by itself (`with_max_len(1)`): on a machine that
//! others use too, no thread is as fast as the next, and the slowest would keep several pieces to the end.
//!
//! Loops are compiled once per instruction set by `vectorize!`; they contain no reassociation, so the
//! instruction set does not change their bits either.

mod adamw;
mod attention;
mod combine;
mod cross_entropy;
mod elementwise;
mod embedding;
mod gemm;
mod grad_norm;
mod philox;
mod profile;
mod rms_norm;
mod rope;
mod scratch;
mod simd;
mod step_scalars;
mod swiglu;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::arena::HostMemory;
use crate::device::Caps;
use crate::{Cost, Element, KernelError, Result, Storage, TensorMut, TensorRef, match_element};

pub use profile::OpTime;
use profile::Profile;

/// The host as a device, with its own thread pool. Clones share the pool.
#[derive(Clone)]
pub struct Cpu {
    pool: Arc<rayon::ThreadPool>,
    profile: Option<Arc<Mutex<Profile>>>,
}

impl Cpu {
    /// A device that computes with `threads` threads; 0 means one per core.
    pub fn new(threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("cpu-{i}"))
            .build()
            .map_err(|e| KernelError::Device(format!("cannot start {threads} CPU worker threads: {e}")))?;
        Ok(Cpu { pool: Arc::new(pool), profile: None })
    }

    /// The same device, which from now on measures where its time goes.
    pub fn profiled(self) -> Self {
        Cpu { profile: Some(Arc::default()), ..self }
    }

    /// Calls and seconds by op since the last call, in the order of first use; empty unless
    /// [`Cpu::profiled`]. An op's time lasts until the next op begins, so the sum is wall time.
    pub fn take_times(&self) -> Vec<OpTime> {
        let profile = self.profile.as_ref();
        profile.map_or_else(Vec::new, |profile| profile.lock().unwrap_or_else(PoisonError::into_inner).take())
    }

    /// Begins the time of an op.
    fn begin(&self, op: &'static str) {
        if let Some(profile) = &self.profile {
            profile.lock().unwrap_or_else(PoisonError::into_inner).begin(op);
        }
    }

    /// Number of threads that compute.
    pub fn num_threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Caps of every CPU device, without starting one.
    pub const CAPS: Caps = Caps {
        name: "cpu",
        alignment_bytes: 256,
        packs_products: true,
        cuts_products: false,
        links_tokens: false,
        rounds_dlogits: false,
        chunk_logits: 1 << 20,
    };

    /// Zeroes by all threads: one alone does not reach the bandwidth of memory.
    fn clear<T: Element>(&self, dst: TensorMut<'_, Self>) {
        let dst = dst.into_slice::<T>();
        if dst.len() <= ELEMENTS_PER_TASK {
            dst.fill(T::zeroed());
        } else {
            self.run(|| dst.par_chunks_mut(ELEMENTS_PER_TASK).for_each(|dst| dst.fill(T::zeroed())));
        }
    }

    /// Copies by all threads. What no cache will hold is written past the caches.
    fn copy_bytes(&self, src: &[u8], dst: &mut [u8]) {
        let is_large = dst.len() >= COPIED_PAST_CACHES_BYTES;
        let copy = |src: &[u8], dst: &mut [u8]| match is_large {
            true => simd::copy_past_caches(src, dst),
            false => dst.copy_from_slice(src),
        };
        if dst.len() <= COPIED_BY_A_TASK_BYTES || self.num_threads() == 1 {
            return copy(src, dst);
        }
        let tasks = dst.par_chunks_mut(COPIED_BY_A_TASK_BYTES).zip(src.par_chunks(COPIED_BY_A_TASK_BYTES));
        self.run(|| tasks.for_each(|(dst, src)| copy(src, dst)));
    }

    /// Runs `work` on the pool; nested calls stay on their thread.
    fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }
}

impl Storage for Cpu {
    type Memory = HostMemory;
    /// Work is done when its call returns.
    type Event = ();
    /// None is ever made.
    type Graph = Infallible;
    type Moment = Instant;

    fn caps(&self) -> Caps {
        Self::CAPS
    }

    fn allocate(&self, bytes: usize) -> Result<HostMemory> {
        HostMemory::allocate(bytes)
    }

    fn upload<T: Element>(&self, src: &[T], dst: TensorMut<'_, Self>) -> Result<()> {
        self.begin("upload");
        dst.into_slice::<T>().copy_from_slice(src);
        Ok(())
    }

    fn download<T: Element>(&self, src: TensorRef<'_, Self>, dst: &mut [T]) -> Result<()> {
        self.begin("download");
        dst.copy_from_slice(src.as_slice::<T>());
        Ok(())
    }

    fn copy(&self, src: TensorRef<'_, Self>, dst: TensorMut<'_, Self>) -> Result<()> {
        self.begin("copy");
        src.expect_dtype("copy", "src", dst.dtype())?;
        self.copy_bytes(src.as_bytes(), dst.into_bytes());
        Ok(())
    }

    fn zero(&self, dst: TensorMut<'_, Self>) -> Result<()> {
        self.begin("zero");
        match_element!(dst.dtype(), T => self.clear::<T>(dst));
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn event(&self) -> Result<()> {
        Ok(())
    }

    fn wait(&self, _event: &()) -> Result<()> {
        Ok(())
    }

    fn moment(&self) -> Result<Instant> {
        Ok(Instant::now())
    }

    fn elapsed(&self, from: &Instant, to: &Instant) -> Result<Option<Duration>> {
        Ok(Some(to.saturating_duration_since(*from)))
    }

    fn reached_at(&self, moment: &Instant) -> Result<Option<Instant>> {
        Ok(Some(*moment))
    }

    /// One thread of its own for every four that compute, at least one.
    fn fork(&self) -> Result<Self> {
        Cpu::new((self.num_threads() / 4).max(1))
    }

    fn replay(&self, graph: &Infallible) -> Result<()> {
        match *graph {}
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.run(work)
    }

    fn record(&self, cost: Cost) {
        self.begin(cost.op);
    }
}

/// From here on a copy is read again, if at all, when it has left the caches of a core and its neighbours.
const COPIED_PAST_CACHES_BYTES: usize = 64 << 20;

/// Amortises the task.
const COPIED_BY_A_TASK_BYTES: usize = 1 << 20;

/// Compiles an expression for the best instruction set of this machine. Every function that it calls must be
/// `#[inline(always)]`, or that function is compiled for the baseline, where `f32::mul_add` is a library call.
///
/// The closure inside is marked likewise. It also consumes [`Once`], for a reason: a closure that could be
/// called twice is called through a shim that no attribute reaches, and where the compiler keeps that shim
/// out of line, the body has only the baseline's instructions (ten times slower where it multiplies and adds).
macro_rules! vectorize {
    ($body:expr) => {{
        let once = $crate::cpu::Once;
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                let _consumed = once;
                $body
            },
        )
    }};
}
pub(crate) use vectorize;

/// Not `Copy`, so that a closure which consumes it can be called once only; see [`vectorize!`].
pub(crate) struct Once;

/// Lanes of the explicit accumulators in reductions: a fixed number, so that a sum has the same order
/// whatever the width of the machine's registers.
pub(crate) const LANES: usize = 16;

/// `sum_i f(x[i])`: [`LANES`] interleaved sums, then a pairwise tree over them. No index is checked, so that
/// the lanes are vector registers.
#[inline(always)]
pub(crate) fn lane_sum_of<T: Element>(x: &[T], f: impl Fn(T) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane]);
        }
    }
    for (sum, x) in lanes.iter_mut().zip(rest) {
        *sum += f(*x);
    }
    tree_of_lanes(lanes)
}

/// [`lane_sum_of`] `f(a[i], b[i], c[i])` for slices of one length.
#[inline(always)]
pub(crate) fn lane_sum_of_three<A: Element, B: Element, C: Element>(
    a: &[A],
    b: &[B],
    c: &[C],
    f: impl Fn(A, B, C) -> f32,
) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a, b, c) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    for ((a, b), c) in a.0.iter().zip(b.0).zip(c.0) {
        for lane in 0..LANES {
            lanes[lane] += f(a[lane], b[lane], c[lane]);
        }
    }
    for (((sum, a), b), c) in lanes.iter_mut().zip(a.1).zip(b.1).zip(c.1) {
        *sum += f(*a, *b, *c);
    }
    tree_of_lanes(lanes)
}

/// Their sum, halves onto halves.
#[inline(always)]
fn tree_of_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Elements per task of elementwise loops: amortises the task, still feeds many threads.
pub(crate) const ELEMENTS_PER_TASK: usize = 16 * crate::ops::CHUNK;

/// `sums[w] += sum_p partials[p, w]`, in the order of p: the second half of every sum over rows.
pub(crate) fn add_partials(partials: &[f32], sums: &mut [f32]) {
    let width = sums.len();
    sums.par_chunks_mut(crate::ops::CHUNK).enumerate().for_each(|(chunk, sums)| {
        let start = chunk * crate::ops::CHUNK;
        vectorize!({
            for partial in partials.chunks_exact(width) {
                for (sum, term) in sums.iter_mut().zip(&partial[start..]) {
                    *sum += term;
                }
            }
        });
    });
}
