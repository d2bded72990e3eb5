//! Matrix products on a GPU: which kernel computes one, and in how many blocks.
//!
//! bf16 operands are multiplied on tensor cores, with f32 sums. So are an operand of f32 and one of bf16: the
//! f32 one is rounded to bf16 on its way. Two operands of f32 are multiplied in f32. An element's sum is the same
//! chain of products whatever the tile, so bits do not depend on which one is chosen. They do depend on whether the sums
//! are cut into parts, which is a function of the shape ([`terms_of_part`]).

use super::driver::Driver;
use super::launch::extent;
use super::{Arg, Cuda, LaunchConfig, THREADS};
use crate::ops::Write;
use crate::ops::gemm::parts::{BLOCKS_AT_ONCE, terms_of_part};
use crate::ops::gemm::{GemmKernels, GemmShape, Layout};
use crate::ops::swiglu::{SwigluKernels, SwigluShape};
use crate::{DType, Result, TensorMut, TensorRef, kernel_name};

/// What one block computes. Names and numbers are those of `kernels/cuda/gemm.cu` and `gemm_f32.cu`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tile {
    /// 128 × 256: the fewest bytes of shared memory and of device memory for each product.
    Large,
    /// 128 × 128, two blocks side by side on a multiprocessor.
    Medium,
    /// 64 × 64, where larger ones would leave most of the GPU idle.
    Small,
    /// 128 × 128, through registers: operands of different types, or not aligned.
    Converting,
    /// 64 × 64 in f32, without tensor cores.
    F32,
}

/// Multiprocessors of the GPU for which tiles are chosen (H100, H200). A constant, so that the choice is a
/// function of the shape.
const MULTIPROCESSORS: usize = BLOCKS_AT_ONCE;

impl Tile {
    /// Rows and columns of the result.
    pub const fn extents(self) -> [usize; 2] {
        match self {
            Tile::Large => [128, 256],
            Tile::Medium | Tile::Converting => [128, 128],
            Tile::Small | Tile::F32 => [64, 64],
        }
    }

    const fn threads(self) -> u32 {
        match self {
            Tile::Large | Tile::Converting | Tile::F32 => 256,
            Tile::Medium | Tile::Small => 128,
        }
    }

    /// Stages of operands, or the f32 sums that lie in their place at the end, if these are more.
    const fn shared_bytes(self) -> usize {
        const BF16: usize = DType::Bf16.size_bytes();
        const F32: usize = DType::F32.size_bytes();
        match self {
            Tile::Large => 3 * (128 + 256) * 64 * BF16,
            Tile::Medium => 4 * (128 + 128) * 32 * BF16,
            Tile::Small => 4 * (64 + 64) * 32 * BF16,
            Tile::Converting => 128 * 128 * F32,
            Tile::F32 => 2 * 16 * (64 + 4) * F32,
        }
    }

    /// Time that a multiprocessor takes for one, in units of a 32nd of the largest: by area, times how much
    /// worse the ratio of reads to products is.
    const fn relative_time(self) -> usize {
        match self {
            Tile::Large => 32,
            Tile::Medium => 18,
            _ => 8,
        }
    }

    fn count(self, shape: GemmShape) -> usize {
        let [rows, columns] = self.extents();
        shape.m.div_ceil(rows) * shape.n.div_ceil(columns)
    }

    /// The tile with which the multiprocessor that has most of them is done first; the larger one if equal.
    pub fn fastest(shape: GemmShape) -> Self {
        let time = |tile: &Tile| tile.count(shape).div_ceil(MULTIPROCESSORS) * tile.relative_time();
        let [first, others @ ..] = [Tile::Large, Tile::Medium, Tile::Small];
        others.into_iter().fold(first, |best, tile| if time(&tile) < time(&best) { tile } else { best })
    }

    /// One block for each tile of the result.
    pub fn launch_config(self, shape: GemmShape) -> LaunchConfig {
        LaunchConfig::blocks(self.count(shape), self.threads()).with_shared_bytes(self.shared_bytes())
    }

    /// The kernel of this tile, or of one nearly as good, that also computes the gate of a feed-forward layer. There are
    /// none for operands that are not bf16 or not aligned.
    pub fn with_swiglu(self) -> Option<(Self, &'static str)> {
        match self {
            Tile::Large | Tile::Medium => Some((Tile::Large, "gemm_swiglu_large_bf16")),
            Tile::Small => Some((Tile::Small, "gemm_swiglu_small_bf16")),
            Tile::Converting | Tile::F32 => None,
        }
    }

    /// The kernel's name. Tiles of operands of one type only have it not in their name.
    ///
    /// # Panics
    /// If there is no such kernel: `a` and `b` are bf16 but for [`Tile::F32`], where both are f32, and
    /// [`Tile::Converting`], where one may be.
    pub fn kernel(self, layout: Layout, [a, b, c]: [DType; 3]) -> &'static str {
        use Layout::{Nn, Nt, Tn};
        match (self, layout) {
            (Tile::Large, Nt) => kernel_name!("gemm_nt_large", c),
            (Tile::Large, Nn) => kernel_name!("gemm_nn_large", c),
            (Tile::Large, Tn) => kernel_name!("gemm_tn_large", c),
            (Tile::Medium, Nt) => kernel_name!("gemm_nt_medium", c),
            (Tile::Medium, Nn) => kernel_name!("gemm_nn_medium", c),
            (Tile::Medium, Tn) => kernel_name!("gemm_tn_medium", c),
            (Tile::Small, Nt) => kernel_name!("gemm_nt_small", c),
            (Tile::Small, Nn) => kernel_name!("gemm_nn_small", c),
            (Tile::Small, Tn) => kernel_name!("gemm_tn_small", c),
            (Tile::Converting, Nt) => kernel_name!("gemm_nt_converting", a, b, c),
            (Tile::Converting, Nn) => kernel_name!("gemm_nn_converting", a, b, c),
            (Tile::Converting, Tn) => kernel_name!("gemm_tn_converting", a, b, c),
            (Tile::F32, Nt) => kernel_name!("gemm_nt", a, b, c),
            (Tile::F32, Nn) => kernel_name!("gemm_nn", a, b, c),
            (Tile::F32, Tn) => kernel_name!("gemm_tn", a, b, c),
        }
    }
}

/// Whether rows of this operand begin at multiples of 16 bytes and are whole multiples of that.
fn in_chunks<Dr: Driver>(x: TensorRef<'_, Cuda<Dr>>, row_len: usize) -> bool {
    const CHUNK_BYTES: usize = 16;
    x.offset_bytes.is_multiple_of(CHUNK_BYTES)
        && (row_len * x.dtype().size_bytes()).is_multiple_of(CHUNK_BYTES)
}

fn tile<Dr: Driver>(
    layout: Layout,
    shape: GemmShape,
    a: TensorRef<'_, Cuda<Dr>>,
    b: TensorRef<'_, Cuda<Dr>>,
) -> Tile {
    let GemmShape { m, n, k } = shape;
    let [row_of_a, row_of_b] = match layout {
        Layout::Nt => [k, k],
        Layout::Nn => [k, n],
        Layout::Tn => [m, n],
    };
    match (a.dtype(), b.dtype()) {
        (DType::F32, DType::F32) => Tile::F32,
        (DType::Bf16, DType::Bf16) if in_chunks(a, row_of_a) && in_chunks(b, row_of_b) => {
            Tile::fastest(shape)
        }
        _ => Tile::Converting,
    }
}

impl<Dr: Driver> GemmKernels for Cuda<Dr> {
    fn gemm(
        &self,
        layout: Layout,
        shape: GemmShape,
        a: TensorRef<'_, Self>,
        b: TensorRef<'_, Self>,
        bias: Option<TensorRef<'_, Self>>,
        write: Write,
        c: TensorMut<'_, Self>,
        workspace: TensorMut<'_, Self>,
    ) -> Result<()> {
        let tile = tile(layout, shape, a, b);
        let terms = terms_of_part(layout, shape, a.dtype(), b.dtype());
        if terms < shape.k {
            return self.gemm_in_parts(tile, shape, terms, [a, b], write, c, workspace);
        }
        let kernel = tile.kernel(layout, [a.dtype(), b.dtype(), c.dtype()]);
        let args = arguments(shape, [a, b], bias, None, write, c);
        self.launch(kernel, tile.launch_config(shape), &args)
    }

    fn gemm_add(
        &self,
        shape: GemmShape,
        a: TensorRef<'_, Self>,
        b: TensorRef<'_, Self>,
        residual: TensorRef<'_, Self>,
        c: TensorMut<'_, Self>,
        _workspace: TensorMut<'_, Self>,
    ) -> Result<()> {
        let tile = tile(Layout::Nt, shape, a, b);
        let kernel = tile.kernel(Layout::Nt, [a.dtype(), b.dtype(), c.dtype()]);
        let args = arguments(shape, [a, b], None, Some(residual), Write::Replace, c);
        self.launch(kernel, tile.launch_config(shape), &args)
    }

    fn gemm_swiglu(
        &self,
        shape: GemmShape,
        x: TensorRef<'_, Self>,
        weight: TensorRef<'_, Self>,
        mut gate_up: TensorMut<'_, Self>,
        out: TensorMut<'_, Self>,
        workspace: TensorMut<'_, Self>,
    ) -> Result<()> {
        let width = shape.n / 2;
        let Some((tile, kernel)) = tile(Layout::Nt, shape, x, weight).with_swiglu() else {
            let product = gate_up.reborrow();
            self.gemm(Layout::Nt, shape, x, weight, None, Write::Replace, product, workspace)?;
            return self.swiglu_forward(SwigluShape { tokens: shape.m, width }, gate_up.as_ref(), out);
        };
        let [tokens, width, terms] = [shape.m, width, shape.k].map(extent);
        let args = [x.into(), weight.into(), gate_up.into(), out.into(), tokens, width, terms];
        self.launch(kernel, tile.launch_config(shape), &args)
    }
}

impl<Dr: Driver> Cuda<Dr> {
    /// The gradient of a weight whose sums are cut into parts of `terms` terms.
    fn gemm_in_parts(
        &self,
        tile: Tile,
        shape: GemmShape,
        terms: usize,
        [a, b]: [TensorRef<'_, Self>; 2],
        write: Write,
        c: TensorMut<'_, Self>,
        mut parts: TensorMut<'_, Self>,
    ) -> Result<()> {
        let num_parts = shape.k.div_ceil(terms);
        let [m, n, k] = [shape.m, shape.n, shape.k].map(extent);
        let args = [a.into(), b.into(), parts.reborrow().into(), m, n, k, extent(terms)];
        let (tile, kernel) = match tile {
            Tile::Converting => (Tile::Converting, "gemm_tn_part_converting"),
            _ => (Tile::Large, "gemm_tn_part_large"),
        };
        let mut config = tile.launch_config(shape);
        config.grid[1] = num_parts as u32;
        self.launch(kernel, config, &args)?;

        let len = c.len();
        let add = u32::from(write == Write::Add);
        let args = [parts.as_ref().into(), c.into(), extent(num_parts), (len as u64).into(), add.into()];
        let config = LaunchConfig::blocks(len.div_ceil(THREADS as usize * 4), THREADS);
        self.launch("gemm_add_parts", config, &args)
    }
}

/// Arguments of all kernels that compute one product.
///
/// # Panics
/// If an extent is beyond 2^31: indices of rows and columns are of 32 bits.
pub fn arguments<'a, Dr: Driver>(
    shape: GemmShape,
    [a, b]: [TensorRef<'a, Cuda<Dr>>; 2],
    bias: Option<TensorRef<'a, Cuda<Dr>>>,
    residual: Option<TensorRef<'a, Cuda<Dr>>>,
    write: Write,
    c: TensorMut<'a, Cuda<Dr>>,
) -> [Arg<'a, Dr::Memory>; 9] {
    let add = u32::from(write == Write::Add);
    let [m, n, k] = [shape.m, shape.n, shape.k].map(extent);
    [a.into(), b.into(), bias.into(), residual.into(), c.into(), m, n, k, add.into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fastest(m: usize, n: usize) -> Tile {
        Tile::fastest(GemmShape { m, n, k: 1 })
    }

    #[test]
    fn tiles_are_large_where_they_fill_the_gpu_and_small_where_not() {
        assert_eq!(fastest(8192, 8192), Tile::Large);
        assert_eq!(fastest(4096, 4096), Tile::Large);
        assert_eq!(fastest(2048, 2048), Tile::Large, "128 tiles at once");
        assert_eq!(fastest(4096, 2048 + 128), Tile::Medium, "two rounds of large ones, the second of 12");
        assert_eq!(fastest(1024, 1024), Tile::Small);
        assert_eq!(fastest(1, 4096), Tile::Small);
        assert_eq!(fastest(1, 1), Tile::Small);
    }

    #[test]
    fn a_result_without_elements_is_no_launch() {
        for shape in [GemmShape { m: 0, n: 3, k: 5 }, GemmShape { m: 3, n: 0, k: 5 }] {
            assert!(Tile::Large.launch_config(shape).is_empty());
        }
    }
}
