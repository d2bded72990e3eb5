//! What the device needs of a GPU's driver, as a trait: memory, a stream, events, launches by kernel name.
//! Implementations: `cudarc` (a GPU), `emulated` (the host). The only folder of the device with `unsafe`.

#[cfg(feature = "cuda")]
pub mod cudarc;
#[cfg(feature = "emulator")]
pub mod emulated;
mod moments;
mod raw;

pub use moments::Moments;
pub use raw::RawDriver;

use super::{Arg, Cuda, LaunchConfig};
use crate::{KernelError, Result, TensorMut, TensorRef};

/// A range of one allocation: exactly the bytes that a copy or a kernel may touch.
pub struct Span<'a, M> {
    /// The allocation.
    pub memory: &'a M,
    /// Where the range begins.
    pub offset_bytes: usize,
    /// How long it is; may be 0 for an argument of a kernel.
    pub size_bytes: usize,
}

impl<M> Clone for Span<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M> Copy for Span<'_, M> {}

impl<'a, M> Span<'a, M> {
    /// The bytes of a tensor.
    pub(super) fn of<Dr: Driver<Memory = M>>(view: TensorRef<'a, Cuda<Dr>>) -> Self {
        Span { memory: view.memory, offset_bytes: view.offset_bytes, size_bytes: view.size_bytes() }
    }

    /// The bytes of a writable tensor.
    pub(super) fn of_mut<Dr: Driver<Memory = M>>(view: TensorMut<'a, Cuda<Dr>>) -> Self {
        Self::of(view.into_ref())
    }
}

/// A handle to a GPU, with one stream: work queued on it happens in order, while the host goes on. Clones
/// share the stream. What is queued holds what it needs; spans need not outlive the call.
///
/// An error may belong to work queued before. After the fault of a kernel the device stays failed: every later call errs.
pub trait Driver: Moments + Clone + Send + Sync + 'static {
    /// One allocation. It stays valid until it is dropped and all work queued on it is done.
    type Memory: Send + Sync + 'static;

    /// A point in a stream's work.
    type Event: Clone + Send + Sync + 'static;

    /// Work that was recorded by [`Driver::capture`]. It keeps the memory that it names.
    type Graph: Send + Sync + 'static;

    /// Allocates `bytes` zeroed bytes, aligned to 256 at least.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory>;

    /// Queues a copy of host bytes, which the caller may change at once. Equal lengths.
    fn upload(&self, src: &[u8], dst: Span<'_, Self::Memory>) -> Result<()>;

    /// Copies to the host after all work queued on this stream. Equal lengths. The host waits.
    fn download(&self, src: Span<'_, Self::Memory>, dst: &mut [u8]) -> Result<()>;

    /// Queues a copy between ranges of equal length that do not overlap.
    fn copy(&self, src: Span<'_, Self::Memory>, dst: Span<'_, Self::Memory>) -> Result<()>;

    /// Queues zeros.
    fn zero(&self, dst: Span<'_, Self::Memory>) -> Result<()>;

    /// Learns that from this point of the stream on nobody may read these bytes before they are written.
    /// Only a driver that looks for mistakes does anything.
    fn discard(&self, _dead: Span<'_, Self::Memory>) {}

    /// Queues a kernel. The grid is not empty; arguments are in the order of the kernel's parameters.
    fn launch(
        &self,
        kernel: &'static str,
        config: LaunchConfig,
        args: &[Arg<'_, Self::Memory>],
    ) -> Result<()>;

    /// Whether there is a kernel of this name for the GPU behind this driver.
    fn has_kernel(&self, kernel: &'static str) -> bool;

    /// The point behind all work queued on this stream so far.
    fn event(&self) -> Result<Self::Event>;

    /// Lets all work queued on this stream from now on begin after `event`. The host does not wait.
    fn wait(&self, event: &Self::Event) -> Result<()>;

    /// Returns when all work queued on this stream is done.
    fn synchronize(&self) -> Result<()>;

    /// Another handle to the same memory, with a stream of its own.
    fn fork(&self) -> Result<Self>;

    /// Runs `work`, and records the kernels, copies and zeros that it queues on this stream instead of doing them: in
    /// their order, with the arguments that they have now. All else that it asks of this stream is refused with one
    /// line: uploads, which take bytes of the host as they are once; downloads, events, moments, waits and synchronisation,
    /// which would wait for what does not happen; allocations, forks, and graphs inside of graphs. Meanwhile no other
    /// thread uses this stream.
    fn capture<E: From<KernelError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Self::Graph, E>;

    /// Queues all work of a graph as one piece, behind what is queued already. The graph is one of the same GPU.
    fn replay(&self, graph: &Self::Graph) -> Result<()>;
}

/// The refusal of a call that a graph cannot repeat.
fn refused_in_capture(call: &str) -> KernelError {
    KernelError::Device(format!(
        "{call} on a stream that records a graph: only kernels, copies and zeros can be repeated (please report this)"
    ))
}

/// The refusal of a graph of another GPU.
fn refused_elsewhere() -> KernelError {
    KernelError::Device("replay of a graph that was recorded on another GPU (please report this)".into())
}
