//! What a device is: memory ([`Storage`]) and one trait per op family, gathered in [`Device`].

use std::time::{Duration, Instant};

use crate::ops::{
    AdamwKernels, AttentionKernels, CrossEntropyKernels, ElementwiseKernels, EmbeddingKernels, GemmKernels,
    GradNormKernels, PhiloxKernels, RmsNormKernels, RopeKernels, StepScalarsKernels, SwigluKernels,
};
use crate::{Arena, Cost, Element, KernelError, Result, TensorMut, TensorRef};

/// What an op must know of a device to compute its workspace. A dry run takes the caps of the device
/// that it stands for, so that its arena has the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// Name for messages: "cpu", "cuda".
    pub name: &'static str,
    /// Alignment of arena blocks in bytes.
    pub alignment_bytes: usize,
    /// Whether matrix products copy an operand into f32 panels in workspace first.
    pub packs_products: bool,
    /// Whether sums of matrix products are cut into parts where that is faster, which lie in workspace.
    pub cuts_products: bool,
    /// Whether the gradient of embeddings needs a word of workspace for each token.
    pub links_tokens: bool,
    /// Whether the gradient of the logits of a bf16 model is rounded to bf16, in workspace of its own: where products
    /// of two bf16 operands are much faster than those of f32 and bf16, which round it all the same.
    pub rounds_dlogits: bool,
    /// Logits of a chunk of the loss: enough that a chunk's products run at full speed, few beside the
    /// activations.
    pub chunk_logits: usize,
}

impl Caps {
    /// Of a GPU, for those who plan for one without the code that runs on it. A chunk of the loss has thousands
    /// of tokens, since the gradient of the projection is read and written once for each.
    pub const CUDA: Caps = Caps {
        name: "cuda",
        alignment_bytes: 256,
        packs_products: false,
        cuts_products: true,
        links_tokens: true,
        rounds_dlogits: true,
        chunk_logits: 1 << 27,
    };
}

/// A device's memory. Buffers are owned by the arena alone; everything else borrows views of them.
pub trait Storage: Clone + Send + Sync + Sized + 'static {
    /// One contiguous allocation.
    type Memory: Send + Sync + 'static;

    /// A point in the work of a handle; see [`Storage::event`].
    type Event: Clone + Send + Sync + 'static;

    /// Work that is queued again as one; see [`Storage::capture`].
    type Graph: Send + Sync + 'static;

    /// A point that remembers when it was reached; see [`Storage::moment`].
    type Moment: Send + Sync + 'static;

    /// What workspace sizes depend on.
    fn caps(&self) -> Caps;

    /// Allocates `bytes` zeroed bytes, aligned to a page. Called once, by the arena.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory>;

    /// Copies host elements into `dst`; lengths must be equal.
    fn upload<T: Element>(&self, src: &[T], dst: TensorMut<'_, Self>) -> Result<()>;

    /// Copies `src` into host elements, after all work queued before; lengths must be equal.
    fn download<T: Element>(&self, src: TensorRef<'_, Self>, dst: &mut [T]) -> Result<()>;

    /// Copies between tensors of equal dtype and length.
    fn copy(&self, src: TensorRef<'_, Self>, dst: TensorMut<'_, Self>) -> Result<()>;

    /// Sets every byte to zero.
    fn zero(&self, dst: TensorMut<'_, Self>) -> Result<()>;

    /// Returns when all work queued so far is done.
    fn synchronize(&self) -> Result<()>;

    /// The point behind all work queued on this handle so far.
    fn event(&self) -> Result<Self::Event>;

    /// Lets all work queued on this handle from now on begin after `event`, of any handle to the same memory.
    /// The caller does not wait.
    fn wait(&self, event: &Self::Event) -> Result<()>;

    /// The point behind all work queued on this handle so far, with its time. Dearer than an event, and nobody can
    /// wait for it.
    fn moment(&self) -> Result<Self::Moment>;

    /// The time between two moments of handles to the same memory, zero if `to` was the earlier; `None` while one
    /// of them is not reached. Nobody waits.
    fn elapsed(&self, from: &Self::Moment, to: &Self::Moment) -> Result<Option<Duration>>;

    /// When a moment was reached, by the host's clock; `None` while it is not. Nobody waits for the handle's work. A
    /// GPU's clock is compared with the host's first, so that only traces ask for it.
    fn reached_at(&self, moment: &Self::Moment) -> Result<Option<Instant>>;

    /// A handle to the same memory whose work is queued apart from this one's, for collectives: another
    /// stream on a GPU, other threads on the host.
    fn fork(&self) -> Result<Self>;

    /// Runs `work`, and records what it queues on this handle instead of doing it: ops, copies and zeros, on the
    /// memory that they name now. The graph keeps that memory from being freed, not from being given to another block.
    ///
    /// # Errors
    /// A device that records nothing, as by default; what `work` returns; all else that it asks of the handle, such
    /// as uploads, downloads and events.
    fn capture<E: From<KernelError>>(&self, _work: impl FnOnce() -> Result<(), E>) -> Result<Self::Graph, E> {
        let name = self.caps().name;
        Err(KernelError::Device(format!("the {name} device records no graphs; only cuda does")).into())
    }

    /// Queues all that a graph has recorded, as one.
    fn replay(&self, graph: &Self::Graph) -> Result<()>;

    /// Told by the arena that bytes have no owner any more, before they get another: work queued on this handle
    /// from now on must not read them before it writes them. A device that looks for mistakes marks them.
    fn discard(&self, _memory: &Self::Memory, _offset_bytes: usize, _size_bytes: usize) {}

    /// Runs `work` where the device computes best (the CPU device: on one of its own threads, so that
    /// the ops inside need not change thread). Called once around a step.
    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R;

    /// Called by every op with its cost. Only the dry run keeps it.
    fn record(&self, cost: Cost);
}

/// A device with kernels for every family: the one type parameter of model code.
pub trait Device:
    Storage
    + AdamwKernels
    + AttentionKernels
    + CrossEntropyKernels
    + ElementwiseKernels
    + EmbeddingKernels
    + GemmKernels
    + GradNormKernels
    + PhiloxKernels
    + RmsNormKernels
    + RopeKernels
    + StepScalarsKernels
    + SwigluKernels
{
}

impl<D> Device for D where
    D: Storage
        + AdamwKernels
        + AttentionKernels
        + CrossEntropyKernels
        + ElementwiseKernels
        + EmbeddingKernels
        + GemmKernels
        + GradNormKernels
        + PhiloxKernels
        + RmsNormKernels
        + RopeKernels
        + StepScalarsKernels
        + SwigluKernels
{
}

/// What an op runs with: the device, and the arena from which it takes its workspace.
pub struct Context<D: Storage> {
    /// The device.
    pub device: D,
    /// All of its memory.
    pub arena: Arena<D>,
}

impl<D: Storage> Context<D> {
    /// A device with an arena of `capacity_bytes`.
    pub fn new(device: D, capacity_bytes: usize) -> Result<Self> {
        let arena = Arena::new(&device, capacity_bytes)?;
        Ok(Context { device, arena })
    }
}

impl<D: Storage> Clone for Context<D> {
    fn clone(&self) -> Self {
        Context { device: self.device.clone(), arena: self.arena.clone() }
    }
}
