//! A GPU on the host: the kernels of `kernels/cuda`, run by the emulator of `kernels/emulator`, with streams
//! and events that behave as badly as a GPU's may ([`Settings`]).
//!
//! Where a real driver would let a mistake pass, this one says what it is: a kernel's access outside its
//! arguments or to bytes that nobody has written, a download of such bytes.

mod abi;
mod capture;
mod gpu;
mod host_waits;
mod memory;
mod moments;
mod settings;
mod work;

use std::sync::Arc;
use std::time::Duration;

use super::{Driver, Span};
use crate::cuda::{Arg, LaunchConfig};
use crate::{KernelError, Result};

pub use abi::Counters;
use abi::{Allocation, OwnedArg};
use capture::Capture;
pub use capture::EmulatedGraph;
pub use gpu::EmulatedEvent;
use gpu::Gpu;
pub use host_waits::HostWaits;
pub use memory::EmulatedMemory;
use memory::Range;
pub use moments::EmulatedMoment;
pub use settings::{Completion, Schedule, Settings};
use work::Work;

/// A handle to an emulated GPU, with a stream of its own. Clones share the stream.
#[derive(Clone)]
pub struct Emulated {
    stream: Arc<Stream>,
}

/// A stream of a device. When the last handle goes, what is left of its work is done.
struct Stream {
    gpu: Arc<Gpu>,
    number: u64,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.gpu.remove_stream(self.number);
    }
}

impl Emulated {
    /// A device of its own.
    pub fn new(settings: Settings) -> Self {
        Self::on(Arc::new(Gpu::new(settings)))
    }

    /// What the kernels that have run so far have done, on all streams.
    pub fn counters(&self) -> Counters {
        self.stream.gpu.counters()
    }

    /// As [`Emulated::counters`], since the last call of this function.
    pub fn take_counters(&self) -> Counters {
        self.stream.gpu.take_counters()
    }

    /// Calls so far that queue work, on all streams: kernels, copies to and on the device, zeros, and graphs, each as
    /// one. What a graph records is not queued.
    pub fn commands(&self) -> u64 {
        self.stream.gpu.commands()
    }

    /// How often the host has waited for the device so far, on all streams.
    pub fn host_waits(&self) -> HostWaits {
        self.stream.gpu.host_waits().read()
    }

    /// Queues work that takes so long and does nothing: to be late on purpose.
    ///
    /// # Errors
    /// As other work.
    pub fn stall(&self, time: Duration) -> Result<()> {
        self.queue(Work::Stall(time))
    }

    fn on(gpu: Arc<Gpu>) -> Self {
        let number = gpu.add_stream();
        Emulated { stream: Arc::new(Stream { gpu, number }) }
    }

    fn queue(&self, work: Work) -> Result<()> {
        self.stream.gpu.queue(self.stream.number, work)
    }

    fn refuse_in_capture(&self, call: &str) -> Result<()> {
        self.stream.gpu.refuse_in_capture(self.stream.number, call)
    }
}

/// The memory behind a span, for as long as the work that it is for.
fn range(span: Span<'_, EmulatedMemory>) -> Range {
    span.memory.range(span.offset_bytes, span.size_bytes)
}

fn argument(arg: Arg<'_, EmulatedMemory>) -> OwnedArg {
    match arg {
        Arg::Read(span) => OwnedArg::Buffer(range(span), false),
        Arg::Write(span) => OwnedArg::Buffer(range(span), true),
        Arg::Absent => OwnedArg::Absent,
        Arg::U32(value) => OwnedArg::Integer(u64::from(value), 4),
        Arg::I32(value) => OwnedArg::Integer(u64::from(value.cast_unsigned()), 4),
        Arg::U64(value) => OwnedArg::Integer(value, 8),
        Arg::F32(value) => OwnedArg::Float(value),
    }
}

impl Driver for Emulated {
    type Memory = EmulatedMemory;
    type Event = EmulatedEvent;
    type Graph = EmulatedGraph;

    fn allocate(&self, bytes: usize) -> Result<EmulatedMemory> {
        self.refuse_in_capture("allocate")?;
        let allocation = Allocation::new(bytes, self.stream.gpu.settings())
            .ok_or(KernelError::OutOfMemory { device: "emulated", bytes })?;
        Ok(EmulatedMemory { allocation: Arc::new(allocation) })
    }

    fn upload(&self, src: &[u8], dst: Span<'_, EmulatedMemory>) -> Result<()> {
        assert_eq!(src.len(), dst.size_bytes, "upload of another length");
        self.refuse_in_capture("upload")?;
        self.queue(Work::Upload(src.into(), range(dst)))
    }

    fn download(&self, src: Span<'_, EmulatedMemory>, dst: &mut [u8]) -> Result<()> {
        assert_eq!(src.size_bytes, dst.len(), "download of another length");
        self.refuse_in_capture("download")?;
        self.stream.gpu.host_waits().download();
        self.stream.gpu.finish(self.stream.number)?;
        let range = range(src);
        if let Some(first) = range.first_poisoned() {
            let (start, end) = (src.offset_bytes, src.offset_bytes + src.size_bytes);
            return Err(KernelError::Device(format!(
                "download of the bytes {start}..{end}: byte {} was not written since its block was made",
                start + first
            )));
        }
        range.read(dst);
        Ok(())
    }

    fn copy(&self, src: Span<'_, EmulatedMemory>, dst: Span<'_, EmulatedMemory>) -> Result<()> {
        assert_eq!(src.size_bytes, dst.size_bytes, "copy of another length");
        let (src, dst) = (range(src), range(dst));
        assert!(!src.overlaps(&dst), "copy between ranges that overlap");
        self.queue(Work::Copy(src, dst))
    }

    fn zero(&self, dst: Span<'_, EmulatedMemory>) -> Result<()> {
        self.queue(Work::Zero(range(dst)))
    }

    /// An error stays with the device, and the next call returns it. Where not all blocks run, nobody can tell what
    /// should have been written.
    fn discard(&self, dead: Span<'_, EmulatedMemory>) {
        if self.stream.gpu.settings().edge_blocks.is_none() {
            let _stays = self.queue(Work::Discard(range(dead)));
        }
    }

    fn launch(
        &self,
        kernel: &'static str,
        config: LaunchConfig,
        args: &[Arg<'_, EmulatedMemory>],
    ) -> Result<()> {
        let args = args.iter().map(|arg| argument(*arg)).collect();
        self.queue(Work::Launch(kernel, config, args))
    }

    fn has_kernel(&self, kernel: &'static str) -> bool {
        abi::has_kernel(kernel, self.stream.gpu.settings().warp_size)
    }

    fn event(&self) -> Result<EmulatedEvent> {
        self.refuse_in_capture("event")?;
        Ok(self.stream.gpu.event(self.stream.number))
    }

    fn wait(&self, event: &EmulatedEvent) -> Result<()> {
        self.refuse_in_capture("wait")?;
        self.stream.gpu.queue_wait(self.stream.number, event.clone())
    }

    fn synchronize(&self) -> Result<()> {
        self.refuse_in_capture("synchronize")?;
        self.stream.gpu.host_waits().synchronization();
        self.stream.gpu.finish(self.stream.number)
    }

    fn fork(&self) -> Result<Self> {
        self.refuse_in_capture("fork")?;
        Ok(Self::on(Arc::clone(&self.stream.gpu)))
    }

    fn capture<E: From<KernelError>>(
        &self,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<EmulatedGraph, E> {
        let capture = Capture::begin(&self.stream)?;
        work()?;
        Ok(capture.end())
    }

    fn replay(&self, graph: &EmulatedGraph) -> Result<()> {
        self.refuse_in_capture("replay")?;
        self.queue(graph.work_on(&self.stream.gpu)?)
    }
}
