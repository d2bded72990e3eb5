//! What the tests of the emulator itself share: memory to launch kernels of `kernels/emulator/proofs` on.

use tisserand_kernels::Result;
use tisserand_kernels::cuda::driver::emulated::{Emulated, EmulatedMemory, Settings};
use tisserand_kernels::cuda::driver::{Driver, Span};
use tisserand_kernels::cuda::{Arg, LaunchConfig};

/// A device and two tensors on it: `x` to read, in which word i holds i + 1, and `out` of zeros.
pub(crate) struct Bench {
    pub(crate) device: Emulated,
    memory: EmulatedMemory,
}

/// Room for each of the two.
const TENSOR_BYTES: usize = 64 << 10;

/// An argument of a kernel.
pub(crate) type KernelArg<'a> = Arg<'a, EmulatedMemory>;

impl Bench {
    pub(crate) fn new(settings: Settings) -> Self {
        let device = Emulated::new(settings);
        let memory = device.allocate(2 * TENSOR_BYTES).expect("a little memory");
        let bench = Bench { device, memory };
        let words: Vec<u8> = (1..=TENSOR_BYTES as u32 / 4).flat_map(u32::to_ne_bytes).collect();
        bench.device.upload(&words, bench.span(0, TENSOR_BYTES)).unwrap();
        bench
    }

    fn span(&self, offset_bytes: usize, size_bytes: usize) -> Span<'_, EmulatedMemory> {
        Span { memory: &self.memory, offset_bytes, size_bytes }
    }

    /// The first bytes of `x`.
    pub(crate) fn x(&self, size_bytes: usize) -> KernelArg<'_> {
        self.x_from(0, size_bytes)
    }

    /// Bytes of `x`, from a place on.
    pub(crate) fn x_from(&self, offset_bytes: usize, size_bytes: usize) -> KernelArg<'_> {
        Arg::Read(self.span(offset_bytes, size_bytes))
    }

    /// As [`Bench::x`], for a kernel that may write.
    pub(crate) fn x_mut(&self, size_bytes: usize) -> KernelArg<'_> {
        Arg::Write(self.span(0, size_bytes))
    }

    /// The first bytes of `out`.
    pub(crate) fn out(&self, size_bytes: usize) -> KernelArg<'_> {
        self.out_from(0, size_bytes)
    }

    /// Bytes of `out`, from a place on.
    pub(crate) fn out_from(&self, offset_bytes: usize, size_bytes: usize) -> KernelArg<'_> {
        Arg::Write(self.span(TENSOR_BYTES + offset_bytes, size_bytes))
    }

    /// Gives `x` these bytes.
    pub(crate) fn set_x(&self, bytes: &[u8]) {
        self.device.upload(bytes, self.span(0, bytes.len())).unwrap();
    }

    /// Gives up bytes of `x`, as a freed block is.
    pub(crate) fn free_x(&self, size_bytes: usize) {
        self.device.discard(self.span(0, size_bytes));
    }

    /// Launches and waits.
    pub(crate) fn run(
        &self,
        kernel: &'static str,
        config: LaunchConfig,
        args: &[KernelArg<'_>],
    ) -> Result<()> {
        self.device.launch(kernel, config, args)?;
        self.device.synchronize()
    }

    /// Words of `out`, from word `start` on.
    pub(crate) fn words_from(&self, start: usize, len: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * len];
        self.device.download(self.span(TENSOR_BYTES + 4 * start, 4 * len), &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect()
    }

    /// The first words of `out`.
    pub(crate) fn words(&self, len: usize) -> Vec<u32> {
        self.words_from(0, len)
    }
}

/// `blocks` blocks.
pub(crate) fn grid(blocks: usize, threads: u32, shared_bytes: usize) -> LaunchConfig {
    LaunchConfig::blocks(blocks, threads).with_shared_bytes(shared_bytes)
}
