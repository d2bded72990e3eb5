//! The device that runs the kernels of `kernels/cuda`. Generic over the [`Driver`] that carries a launch out:
//! `Cudarc` on a GPU (feature `cuda`), `Emulated` on the host (feature `emulator`). All host code above the
//! driver is the same, so what the emulator proves holds on the GPU.
//!
//! One file per family holds its trait impl and its launch configurations, which are pure functions of shapes.
//! How to write one: `elementwise.rs` is the example.
//!
//! A handle has a stream of its own: what it is told to do happens in that order, and the host does not wait
//! for it. Handles made by [`Storage::fork`] share memory, and are ordered only by events.

mod adamw;
mod attention;
mod combine;
mod cross_entropy;
pub mod driver;
mod elementwise;
mod embedding;
pub mod gemm;
mod grad_norm;
mod launch;
#[cfg(feature = "cuda")]
pub mod modules;
mod philox;
mod rms_norm;
mod rope;
mod step_scalars;
mod sums;
mod swiglu;

use std::time::{Duration, Instant};

use crate::device::Caps;
use crate::{Cost, Element, KernelError, Result, Storage, TensorMut, TensorRef};

pub use driver::Driver;
use driver::Span;
pub use launch::{Arg, LaunchConfig, THREADS};
use launch::{MAX_ARGS, MAX_SHARED_BYTES};

/// A device whose kernels are those of `kernels/cuda`. Clones share the stream.
#[derive(Clone)]
pub struct Cuda<Dr: Driver> {
    driver: Dr,
}

impl<Dr: Driver> Cuda<Dr> {
    /// The device behind a driver's handle.
    pub fn new(driver: Dr) -> Self {
        Cuda { driver }
    }

    /// What carries the launches out.
    pub fn driver(&self) -> &Dr {
        &self.driver
    }

    /// Caps of every such device, without starting one.
    pub const CAPS: Caps = Caps::CUDA;

    /// Queues a kernel on the stream. Arguments are in the order of the kernel's parameters. The one place
    /// where an empty grid, that of zero elements, is no launch at all.
    ///
    /// # Panics
    /// If a kernel takes more than every driver and every GPU has room for.
    fn launch(&self, kernel: &'static str, config: LaunchConfig, args: &[Arg<'_, Dr::Memory>]) -> Result<()> {
        if config.is_empty() {
            return Ok(());
        }
        assert!(args.len() <= MAX_ARGS, "{kernel}: {} arguments", args.len());
        assert!(config.shared_bytes <= MAX_SHARED_BYTES, "{kernel}: {} bytes", config.shared_bytes);
        self.driver.launch(kernel, config, args)
    }
}

impl<Dr: Driver> Storage for Cuda<Dr> {
    type Memory = Dr::Memory;
    type Event = Dr::Event;
    type Graph = Dr::Graph;
    type Moment = Dr::Moment;

    fn caps(&self) -> Caps {
        Self::CAPS
    }

    fn allocate(&self, bytes: usize) -> Result<Dr::Memory> {
        self.driver.allocate(bytes)
    }

    fn upload<T: Element>(&self, src: &[T], dst: TensorMut<'_, Self>) -> Result<()> {
        dst.expect_dtype("upload", "dst", T::DTYPE)?;
        assert_eq!(src.len(), dst.len(), "upload to a tensor of another length");
        if src.is_empty() {
            return Ok(());
        }
        self.driver.upload(bytemuck::must_cast_slice(src), Span::of_mut(dst))
    }

    fn download<T: Element>(&self, src: TensorRef<'_, Self>, dst: &mut [T]) -> Result<()> {
        src.expect_dtype("download", "src", T::DTYPE)?;
        assert_eq!(src.len(), dst.len(), "download of a tensor of another length");
        if dst.is_empty() {
            return Ok(());
        }
        self.driver.download(Span::of(src), bytemuck::must_cast_slice_mut(dst))
    }

    fn copy(&self, src: TensorRef<'_, Self>, dst: TensorMut<'_, Self>) -> Result<()> {
        src.expect_dtype("copy", "src", dst.dtype())?;
        assert_eq!(src.len(), dst.len(), "copy to a tensor of another length");
        if src.is_empty() {
            return Ok(());
        }
        self.driver.copy(Span::of(src), Span::of_mut(dst))
    }

    fn zero(&self, dst: TensorMut<'_, Self>) -> Result<()> {
        if dst.is_empty() {
            return Ok(());
        }
        self.driver.zero(Span::of_mut(dst))
    }

    fn synchronize(&self) -> Result<()> {
        self.driver.synchronize()
    }

    fn event(&self) -> Result<Dr::Event> {
        self.driver.event()
    }

    fn wait(&self, event: &Dr::Event) -> Result<()> {
        self.driver.wait(event)
    }

    fn moment(&self) -> Result<Dr::Moment> {
        self.driver.moment()
    }

    fn elapsed(&self, from: &Dr::Moment, to: &Dr::Moment) -> Result<Option<Duration>> {
        self.driver.elapsed(from, to)
    }

    fn reached_at(&self, moment: &Dr::Moment) -> Result<Option<Instant>> {
        self.driver.reached_at(moment)
    }

    fn fork(&self) -> Result<Self> {
        Ok(Cuda { driver: self.driver.fork()? })
    }

    fn capture<E: From<KernelError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Dr::Graph, E> {
        self.driver.capture(work)
    }

    fn replay(&self, graph: &Dr::Graph) -> Result<()> {
        self.driver.replay(graph)
    }

    fn discard(&self, memory: &Dr::Memory, offset_bytes: usize, size_bytes: usize) {
        self.driver.discard(Span { memory, offset_bytes, size_bytes });
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    fn record(&self, _cost: Cost) {}
}
