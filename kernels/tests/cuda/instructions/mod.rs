//! Every function of the instruction layer, on the GPU and in the emulator, against the same plain expectations: what the
//! emulator takes an instruction to do is what the GPU does. The kernels are the `.cu` files of this folder.

mod fragments;
mod memory;
mod order;
mod registers;

use bytemuck::Pod;
use tisserand_kernels::cuda::driver::Span;
use tisserand_kernels::cuda::{Arg, Driver, LaunchConfig};
use tisserand_kernels::{Context, Storage};

use crate::support::Dev;

type Memory = <Dev as Storage>::Memory;

/// Two pieces of memory for the kernel under test: `x` for inputs, `out` for what it writes.
struct Bench {
    device: Dev,
    x: Memory,
    out: Memory,
}

/// Room for each of the two.
const BYTES: usize = 1 << 20;

/// An argument of a kernel.
type KernelArg<'a> = Arg<'a, Memory>;

impl Bench {
    /// With `x` as given, and `out` of zeros.
    fn new<T: Pod>(ctx: &Context<Dev>, x: &[T]) -> Self {
        let device = ctx.device.clone();
        let allocate = || device.driver().allocate(BYTES).expect("a little memory");
        let (x_memory, out) = (allocate(), allocate());
        let bytes = bytemuck::cast_slice(x);
        let span = Span { memory: &x_memory, offset_bytes: 0, size_bytes: bytes.len() };
        device.driver().upload(bytes, span).expect("upload");
        Bench { device, x: x_memory, out }
    }

    /// Replaces the first bytes of `out`.
    fn set_out<T: Pod>(&self, values: &[T]) {
        let bytes = bytemuck::cast_slice(values);
        let span = Span { memory: &self.out, offset_bytes: 0, size_bytes: bytes.len() };
        self.device.driver().upload(bytes, span).expect("upload");
    }

    /// Bytes of `x`, which the kernel reads.
    fn x(&self, offset_bytes: usize, size_bytes: usize) -> KernelArg<'_> {
        Arg::Read(Span { memory: &self.x, offset_bytes, size_bytes })
    }

    /// Bytes of `out`, which the kernel writes.
    fn out(&self, offset_bytes: usize, size_bytes: usize) -> KernelArg<'_> {
        Arg::Write(Span { memory: &self.out, offset_bytes, size_bytes })
    }

    /// Runs a kernel on `blocks` blocks.
    fn run(
        &self,
        kernel: &'static str,
        blocks: [usize; 3],
        threads: u32,
        shared_bytes: usize,
        args: &[KernelArg<'_>],
    ) {
        let config = LaunchConfig::grid(blocks, threads).with_shared_bytes(shared_bytes);
        let driver = self.device.driver();
        driver.launch(kernel, config, args).and_then(|()| driver.synchronize()).expect(kernel);
    }

    /// The first `len` elements of `out`.
    fn read<T: Pod>(&self, len: usize) -> Vec<T> {
        let mut values = vec![T::zeroed(); len];
        let size_bytes = size_of_val(values.as_slice());
        let span = Span { memory: &self.out, offset_bytes: 0, size_bytes };
        self.device.driver().download(span, bytemuck::cast_slice_mut(&mut values)).expect("download");
        values
    }

    /// The first `rows` rows of `out`, of `len` words each.
    fn rows(&self, rows: usize, len: usize) -> Vec<Vec<u32>> {
        self.read(rows * len).chunks(len).map(<[u32]>::to_vec).collect()
    }
}

/// Random words, the same ones every time (splitmix64: Steele, Lea, Flood 2014).
fn random_words(seed: u64, len: usize) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    };
    (0..len).map(|_| next()).collect()
}
