//! Kernels on tensors of the largest models, of more than 2^32 elements. Of each grid the blocks at the edges alone are
//! run, on memory that takes room only where it is touched; what they make must be what the same kernel makes of the
//! same numbers in a small tensor. So an index, an offset or a stride that is counted in 32 bits where it needs 64 is
//! found without a GPU, and without a machine of a terabyte.

mod attention;
mod elements;
mod products;
mod rows;

use std::num::NonZeroU32;
use std::ops::Range;

use tisserand_kernels::cuda::THREADS;
use tisserand_kernels::cuda::driver::emulated::{Emulated, Settings};
use tisserand_kernels::testing::{cast, normal_f64};
use tisserand_kernels::{Block, Class, Context, Cuda, DType, Device, Element, Float};

use crate::support::Dev;

/// Arena of a device whose memory takes no room, 1 TiB.
const FAR_BYTES: usize = 1 << 40;

/// Blocks at either end of a grid that are run.
const EDGE: u32 = 2;

/// A device that runs the edges of grids.
fn far() -> Context<Dev> {
    let settings = Settings { edge_blocks: NonZeroU32::new(EDGE), ..Settings::default() };
    Context::new(Cuda::new(Emulated::new(settings)), FAR_BYTES).expect("addresses for a sparse arena")
}

/// A device that runs everything, for the same numbers in small tensors.
fn near() -> Context<Dev> {
    Context::new(Cuda::new(Emulated::new(Settings::default())), 64 << 20).expect("arena")
}

/// A tensor of zeros; on the far device without a write, since its memory is zeroed and nothing discards it.
fn zeros<D: Device>(ctx: &Context<D>, dtype: DType, len: usize) -> Block<D> {
    let mut block = ctx.arena.block(Class::Activations, dtype, len).expect("there is room");
    if len < 1 << 24 {
        ctx.device.zero(block.view_mut([len])).expect("zeros");
    }
    block
}

fn put<D: Device, T: Element>(ctx: &Context<D>, block: &mut Block<D>, start: usize, values: &[T]) {
    ctx.device.upload(values, block.range_mut(start, [values.len()])).expect("upload");
}

fn get<D: Device, T: Element>(ctx: &Context<D>, block: &Block<D>, range: Range<usize>) -> Vec<T> {
    let mut values = vec![T::zeroed(); range.len()];
    ctx.device.download(block.range(range.start, [range.len()]), &mut values).expect("download");
    values
}

/// `len` numbers of any float type.
fn numbers<T: Float>(seed: u64, len: usize) -> Vec<T> {
    cast(&normal_f64(seed, len))
}

/// How a kernel that strides goes through its elements: so many at a time of each thread, by at most so many blocks.
#[derive(Clone, Copy)]
struct Stride {
    elements: usize,
    blocks: usize,
}

/// Of a kernel whose grid is as large as grids of such kernels get.
const fn whole_grid(elements: usize) -> Stride {
    Stride { elements, blocks: 65_535 * 8 }
}

impl Stride {
    /// Elements from a block's to those that it does next.
    fn len(self) -> usize {
        self.blocks * self.of_block()
    }

    fn of_block(self) -> usize {
        self.elements * THREADS as usize
    }

    /// What the first and the last block have of the sweeps `sweeps`; and a tail of `tail` elements behind the last
    /// sweep, which the first block has.
    fn windows(self, sweeps: Range<usize>, tail: usize) -> Vec<Range<usize>> {
        let (last, end) = ((self.blocks - 1) * self.of_block(), sweeps.end * self.len());
        let starts = sweeps.flat_map(|sweep| [sweep * self.len(), sweep * self.len() + last]);
        let whole = starts.map(|start| start..start + self.of_block());
        whole.chain(std::iter::once(end..end + tail)).filter(|window| !window.is_empty()).collect()
    }
}
