//! Matrix products.

use half::bf16;
use tisserand_kernels::ops::{Write, gemm};

use super::*;

/// A matrix of zeros, but for numbers in some columns of some rows, by their order.
struct Matrix<T: Float> {
    block: Block<Dev>,
    grid: [usize; 2],
    element: std::marker::PhantomData<T>,
}

impl<T: Float> Matrix<T> {
    fn zeros(ctx: &Context<Dev>, grid: [usize; 2]) -> Self {
        Matrix { block: zeros(ctx, T::DTYPE, grid[0] * grid[1]), grid, element: std::marker::PhantomData }
    }

    fn new(
        ctx: &Context<Dev>,
        grid: [usize; 2],
        seed: u64,
        rows: &[Range<usize>],
        columns: &[Range<usize>],
    ) -> Self {
        let mut matrix = Self::zeros(ctx, grid);
        for (row, seed) in rows.iter().cloned().flatten().zip(seed..) {
            let len = columns.iter().map(|columns| columns.len()).sum();
            let mut numbers = numbers::<T>(seed, len).into_iter();
            for columns in columns {
                let values: Vec<T> = numbers.by_ref().take(columns.len()).collect();
                put(ctx, &mut matrix.block, row * grid[1] + columns.start, &values);
            }
        }
        matrix
    }

    fn part(&self, ctx: &Context<Dev>, row: usize, columns: Range<usize>) -> Vec<T> {
        let start = row * self.grid[1];
        get(ctx, &self.block, start + columns.start..start + columns.end)
    }
}

/// Both ends of an extent, `len` each.
fn ends(extent: usize, len: usize) -> [Range<usize>; 2] {
    [0..len, extent - len..extent]
}

/// Tokens and widths whose products exceed 2^32.
const TOKENS: usize = (1 << 17) + 1;
const WIDE: usize = 1 << 16;

/// The first elements of the first row of a result and the last ones of its last row, where k is `k` of which the ends
/// have numbers.
type Corners<T> = [Vec<T>; 2];

fn forward<T: Float, W: Float>(ctx: &Context<Dev>, [m, n, k]: [usize; 3]) -> Corners<T> {
    let (columns, rows) = (ends(k, 32), [0..1, m - 1..m]);
    let x = Matrix::<T>::new(ctx, [m, k], 1, &rows, &columns);
    let weight = Matrix::<W>::new(ctx, [n, k], 10, &ends(n, 32), &columns);
    let mut out = Matrix::<T>::zeros(ctx, [m, n]);
    let weight = weight.block.view([n, k]);
    gemm::linear_forward(ctx, x.block.view([m, k]), weight, None, out.block.view_mut([m, n])).unwrap();
    [out.part(ctx, 0, 0..32), out.part(ctx, m - 1, n - 32..n)]
}

fn backward_input(ctx: &Context<Dev>, [m, n, k]: [usize; 3]) -> Corners<bf16> {
    let rows = [0..1, m - 1..m];
    let dout = Matrix::<bf16>::new(ctx, [m, k], 1, &rows, &ends(k, 32));
    let weight = Matrix::<bf16>::new(ctx, [k, n], 10, &ends(k, 32), &ends(n, 32));
    let mut dx = Matrix::<bf16>::zeros(ctx, [m, n]);
    let (dout, weight) = (dout.block.view([m, k]), weight.block.view([k, n]));
    gemm::linear_backward_input(ctx, dout, weight, Write::Replace, dx.block.view_mut([m, n])).unwrap();
    [dx.part(ctx, 0, 0..32), dx.part(ctx, m - 1, n - 32..n)]
}

fn backward_weight(ctx: &Context<Dev>, [m, n, k]: [usize; 3]) -> Corners<f32> {
    let dout = Matrix::<bf16>::new(ctx, [k, m], 1, &ends(k, 32), &[0..1, m - 1..m]);
    let x = Matrix::<bf16>::new(ctx, [k, n], 100, &ends(k, 32), &ends(n, 32));
    let mut dweight = Matrix::<f32>::new(ctx, [m, n], 200, &[0..1, m - 1..m], &ends(n, 32));
    let (dout, x) = (dout.block.view([k, m]), x.block.view([k, n]));
    gemm::linear_backward_weight(ctx, dout, x, dweight.block.view_mut([m, n])).unwrap();
    [dweight.part(ctx, 0, 0..32), dweight.part(ctx, m - 1, n - 32..n)]
}

#[test]
fn products_read_operands_of_more_than_two_to_the_32_elements() {
    /// More rows than a model has tokens, since a block's time is that of its terms.
    const ROWS: usize = (1 << 20) + 64;
    const TERMS: usize = 1 << 12;
    let (ctx, small) = (far(), near());
    let grid = [ROWS, 64, TERMS];
    assert!(forward::<bf16, bf16>(&ctx, grid) == forward::<_, bf16>(&small, [2, 64, 64]));
    assert!(forward::<f32, bf16>(&ctx, grid) == forward::<_, bf16>(&small, [2, 64, 64]), "converting");
    assert!(backward_input(&ctx, [64, ROWS, TERMS]) == backward_input(&small, [64, 64, 64]));
    assert!(backward_weight(&ctx, [ROWS, 64, TERMS]) == backward_weight(&small, [64, 64, 64]));
}

#[test]
fn products_write_results_of_more_than_two_to_the_32_elements() {
    let (ctx, small) = (far(), near());
    let grid = [TOKENS, WIDE, 64];
    assert!(forward::<bf16, bf16>(&ctx, grid) == forward::<_, bf16>(&small, [2, 64, 64]));
    assert!(forward::<f32, bf16>(&ctx, grid) == forward::<_, bf16>(&small, [2, 64, 64]), "converting");
    assert!(forward::<f32, f32>(&ctx, grid) == forward::<_, f32>(&small, [2, 64, 64]), "f32");
    assert!(backward_input(&ctx, grid) == backward_input(&small, [2, 64, 64]));
    assert!(backward_weight(&ctx, [TOKENS + 7, WIDE, 64]) == backward_weight(&small, [64, 64, 64]));
}

#[test]
fn the_gate_of_the_last_token_is_that_of_the_first() {
    const K: usize = 64;
    let gated = |ctx: &Context<Dev>, tokens: usize, width: usize| {
        let (columns, [first, last]) = (ends(K, K / 2), ends(width, 32));
        let x = Matrix::<bf16>::new(ctx, [tokens, K], 1, &[0..1, tokens - 1..tokens], &columns);
        // Of gate, and of up.
        let rows = [0, width].map(|start| [&first, &last].map(|rows| start + rows.start..start + rows.end));
        let rows = rows.as_flattened();
        let weight = Matrix::<bf16>::new(ctx, [2 * width, K], 10, rows, &columns);
        let [mut gate_up, mut out] =
            [2 * width, width].map(|width| Matrix::<bf16>::zeros(ctx, [tokens, width]));
        let (x, weight) = (x.block.view([tokens, K]), weight.block.view([2 * width, K]));
        let both = gate_up.block.view_mut([tokens, 2 * width]);
        gemm::linear_swiglu(ctx, x, weight, both, out.block.view_mut([tokens, width])).unwrap();
        [
            out.part(ctx, 0, first),
            out.part(ctx, tokens - 1, last),
            gate_up.part(ctx, 0, 0..32),
            gate_up.part(ctx, tokens - 1, 2 * width - 32..2 * width),
        ]
    };
    assert!(gated(&far(), TOKENS, WIDE) == gated(&near(), 2, 64));
}
