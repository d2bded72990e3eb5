//! An NVIDIA GPU behind its driver, libcuda, which is looked for at run time: a program built with this feature also
//! starts on machines without one, and says so when a GPU is asked for ([`probe`]).
//!
//! The driver's functions are those of the crate `cudarc`, called as they are: its own objects order streams by
//! themselves, where here every order is written down. Each call is made in a safe function of this folder that
//! checks what the call relies on.

mod call;
mod captures;
mod context;
mod graph;
mod kernels;
mod memory;
mod moments;
mod probe;
mod raw;
mod staging;
mod stream;

use std::sync::{Arc, Mutex, PoisonError};

use ::cudarc::driver::sys;

use super::{Driver, Span};
use crate::cuda::modules::{MODULES, Module};
use crate::cuda::{Arg, LaunchConfig};
use crate::{KernelError, Result};

use call::check;
use context::Context;
use graph::Capture;
pub use graph::CudaGraph;
use kernels::{Arguments, Kernels};
pub use memory::CudaMemory;
pub use moments::CudaMoment;
use moments::Times;
pub use probe::{Gpu, driver_cuda_version, probe};
use staging::Staging;
use stream::{Event, Priority, Stream};

/// A handle to a GPU, with a stream of its own. Clones share the stream.
#[derive(Clone)]
pub struct Cudarc {
    stream: Arc<Stream>,
    kernels: Arc<Kernels>,
    times: Arc<Times>,
    /// Made by the first upload: few streams have any.
    staging: Arc<Mutex<Option<Staging>>>,
}

/// A point in the work of a stream.
#[derive(Clone)]
pub struct CudaEvent {
    stream: Arc<Stream>,
    point: usize,
}

impl Cudarc {
    /// The GPU of this number, for the rank of this number on a node.
    ///
    /// # Errors
    /// As [`probe`]; no GPU of this number, one older than compute capability 8.0, a driver too old for the kernels.
    pub fn open(ordinal: usize) -> Result<Self> {
        Self::open_with(ordinal, &[])
    }

    /// As [`Cudarc::open`], with the kernels of these modules besides.
    ///
    /// # Errors
    /// As [`Cudarc::open`].
    pub fn open_with(ordinal: usize, more: &'static [Module]) -> Result<Self> {
        let (gpu, code) = probe::choose(ordinal)?;
        let context = Context::open(gpu)?;
        let kernels = Kernels::load(Arc::clone(&context), code, MODULES.iter().chain(more))?;
        let times = Times::new(&context)?;
        Self::on(&context, Priority::Usual, Arc::new(kernels), Arc::new(times))
    }

    /// What GPU it is.
    pub fn gpu(&self) -> &Gpu {
        self.context().gpu()
    }

    /// Bytes of its memory that nobody uses.
    ///
    /// # Errors
    /// The driver's.
    pub fn free_bytes(&self) -> Result<usize> {
        self.stream.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the driver writes two lengths, of the GPU whose context `enter` has made the thread's.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok(free)
    }

    fn on(
        context: &Arc<Context>,
        priority: Priority,
        kernels: Arc<Kernels>,
        times: Arc<Times>,
    ) -> Result<Self> {
        let stream = Arc::new(Stream::new(context, priority)?);
        Ok(Cudarc { stream, kernels, times, staging: Arc::default() })
    }

    fn context(&self) -> &Arc<Context> {
        self.stream.context()
    }

    /// Where a span is, for work that is about to be queued.
    fn address(&self, span: Span<'_, CudaMemory>) -> Result<u64> {
        self.stream.recorded().names(span.memory.allocation());
        span.memory.address(self.context(), span.offset_bytes, span.size_bytes)
    }

    fn refuse_in_capture(&self, call: &str) -> Result<()> {
        self.stream.recorded().refuse(call)
    }

    fn arguments(&self, args: &[Arg<'_, CudaMemory>]) -> Result<Arguments> {
        let mut arguments = Arguments::new();
        for arg in args {
            match *arg {
                Arg::Read(span) | Arg::Write(span) => arguments.push(self.address(span)?, 8),
                Arg::Absent => arguments.push(0, 8),
                Arg::U64(value) => arguments.push(value, 8),
                Arg::U32(value) => arguments.push(u64::from(value), 4),
                Arg::I32(value) => arguments.push(u64::from(value.cast_unsigned()), 4),
                Arg::F32(value) => arguments.push(u64::from(value.to_bits()), 4),
            }
        }
        Ok(arguments)
    }

    /// Queues zeros.
    fn clear(&self, address: u64, len: usize) -> Result<()> {
        let stream = self.stream.enter()?;
        // SAFETY: callers pass ranges of allocations, which are freed only after all work queued on the GPU.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(address, 0, len, stream) })
    }
}

impl Driver for Cudarc {
    type Memory = CudaMemory;
    type Event = CudaEvent;
    type Graph = CudaGraph;

    fn allocate(&self, bytes: usize) -> Result<CudaMemory> {
        self.refuse_in_capture("allocate")?;
        let memory = CudaMemory::new(self.context(), bytes)?;
        if bytes > 0 {
            self.clear(memory.address(self.context(), 0, bytes)?, bytes)?;
        }
        // Other streams may use it at once.
        self.synchronize()?;
        Ok(memory)
    }

    fn upload(&self, src: &[u8], dst: Span<'_, CudaMemory>) -> Result<()> {
        assert_eq!(src.len(), dst.size_bytes, "upload of another length");
        self.refuse_in_capture("upload")?;
        let to = self.address(dst)?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let staging = match &mut *staging {
            Some(staging) => staging,
            none => none.insert(Staging::new(&self.stream)?),
        };
        // SAFETY: `to` is a range of an allocation, of this length, which is freed only after all work on the GPU.
        unsafe { staging.upload(src, to) }
    }

    /// Straight into the caller's memory, which is not pinned: the driver stages it, and the host waits in any case.
    fn download(&self, src: Span<'_, CudaMemory>, dst: &mut [u8]) -> Result<()> {
        assert_eq!(src.size_bytes, dst.len(), "download of another length");
        self.refuse_in_capture("download")?;
        let (from, stream) = (self.address(src)?, self.stream.enter()?);
        // SAFETY: `from` is a range of a live allocation, as long as `dst`, which is borrowed until the stream has done
        // the copy below, or has failed and does nothing any more.
        let answer = unsafe { sys::cuMemcpyDtoHAsync_v2(dst.as_mut_ptr().cast(), from, dst.len(), stream) };
        check("cuMemcpyDtoHAsync", answer)?;
        self.synchronize()
    }

    fn copy(&self, src: Span<'_, CudaMemory>, dst: Span<'_, CudaMemory>) -> Result<()> {
        assert_eq!(src.size_bytes, dst.size_bytes, "copy of another length");
        let (from, to, stream) = (self.address(src)?, self.address(dst)?, self.stream.enter()?);
        // SAFETY: ranges of one length of allocations, which are freed only after all work queued on the GPU.
        check("cuMemcpyDtoDAsync", unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, src.size_bytes, stream) })
    }

    fn zero(&self, dst: Span<'_, CudaMemory>) -> Result<()> {
        self.clear(self.address(dst)?, dst.size_bytes)
    }

    fn launch(&self, kernel: &'static str, config: LaunchConfig, args: &[Arg<'_, CudaMemory>]) -> Result<()> {
        let (mut arguments, stream) = (self.arguments(args)?, self.stream.enter()?);
        // SAFETY: the stream is that of this handle; addresses are ranges of allocations, which are freed only after
        // all work queued on the GPU. That a kernel stays within its ranges is what the emulator proves.
        unsafe { self.kernels.launch(kernel, config, &mut arguments, stream) }
    }

    fn has_kernel(&self, kernel: &'static str) -> bool {
        self.kernels.has(kernel)
    }

    fn event(&self) -> Result<CudaEvent> {
        self.refuse_in_capture("event")?;
        Ok(CudaEvent { point: self.stream.point()?, stream: Arc::clone(&self.stream) })
    }

    fn wait(&self, event: &CudaEvent) -> Result<()> {
        self.refuse_in_capture("wait")?;
        self.stream.wait(event.event())
    }

    fn synchronize(&self) -> Result<()> {
        self.refuse_in_capture("synchronize")?;
        self.stream.synchronize()
    }

    fn fork(&self) -> Result<Self> {
        self.refuse_in_capture("fork")?;
        Self::on(self.context(), Priority::High, Arc::clone(&self.kernels), Arc::clone(&self.times))
    }

    fn capture<E: From<KernelError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<CudaGraph, E> {
        let capture = Capture::begin(&self.stream)?;
        work()?;
        Ok(capture.end(&self.kernels)?)
    }

    fn replay(&self, graph: &CudaGraph) -> Result<()> {
        self.refuse_in_capture("replay")?;
        graph.launch(&self.stream)
    }
}

impl CudaEvent {
    fn event(&self) -> &Event {
        self.stream.event(self.point)
    }
}
