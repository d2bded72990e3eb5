//! Products whose sums are cut into parts: few results, each of many terms, as gradients of weights of narrow layers are.
//! With one block of threads for each tile of the result most of a GPU would idle; so several blocks share a tile, each
//! sums a part of the terms, and the parts are added in order.

use super::{GemmShape, Layout};
use crate::DType;

/// Rows and columns of the tile of one block.
const TILE: [usize; 2] = [128, 256];

/// Terms that are multiplied at a time: parts are multiples of it.
const STEP: usize = 64;

/// Blocks that run at the same time, on the GPUs for which parts are chosen (H100, H200). A constant, so that the
/// number of parts, which decides bits, is a function of the shape.
pub const BLOCKS_AT_ONCE: usize = 132;

/// What it costs to write a tile of a part and to read it again, in terms multiplied meanwhile: 8 bytes an
/// element at 23 GB/s, a multiprocessor's share of 3 TB/s, in units of 64 terms at 3 TFLOP/s.
const TERMS_OF_A_PART: usize = 512;

/// Most parts, and most elements of all parts (64 MiB).
const MAX_PARTS: usize = 8;
const MAX_LEN: usize = 1 << 24;

/// Terms of each part but the last. All of them where one part is fastest, and where the operands `a` and `b` or the
/// layout have no kernel for more: those of a weight's gradient, in bf16, have.
pub fn terms_of_part(layout: Layout, shape: GemmShape, a: DType, b: DType) -> usize {
    let GemmShape { m, n, k } = shape;
    if layout != Layout::Tn || a != DType::Bf16 || b != DType::Bf16 {
        return k;
    }
    let tiles = m.div_ceil(TILE[0]) * n.div_ceil(TILE[1]);
    let terms = |parts: usize| if parts == 1 { k } else { k.div_ceil(parts).next_multiple_of(STEP) };
    let time = |parts: usize| {
        let rounds = (tiles * parts).div_ceil(BLOCKS_AT_ONCE);
        rounds * (terms(parts) + if parts == 1 { 0 } else { TERMS_OF_A_PART })
    };
    let possible = (1..=MAX_PARTS).filter(|parts| *parts == 1 || parts * m * n <= MAX_LEN);
    terms(possible.min_by_key(|parts| time(*parts)).unwrap_or(1))
}

/// Elements of all parts' sums, in f32; none if there is one part.
pub fn parts_len(layout: Layout, shape: GemmShape, a: DType, b: DType) -> usize {
    match shape.k.div_ceil(terms_of_part(layout, shape, a, b).max(1)) {
        0 | 1 => 0,
        parts => parts * shape.m * shape.n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DType::{Bf16, F32};

    fn parts(m: usize, n: usize, k: usize) -> usize {
        k.div_ceil(terms_of_part(Layout::Tn, GemmShape { m, n, k }, Bf16, Bf16))
    }

    #[test]
    fn few_tiles_of_many_terms_are_cut_until_they_fill_the_gpu() {
        assert_eq!(parts(1024, 1024, 16384), 4, "32 tiles");
        assert_eq!(parts(768, 768, 16384), 7, "18 tiles");
        assert_eq!(parts(2048, 2048, 16384), 1, "128 tiles");
        assert_eq!(parts(8192, 8192, 8192), 1);
        assert_eq!(parts(1024, 1024, 256), 1, "adding the parts would take longer");
    }

    #[test]
    fn other_products_are_never_cut() {
        let shape = GemmShape { m: 128, n: 256, k: 16384 };
        assert_eq!(terms_of_part(Layout::Nt, shape, Bf16, Bf16), shape.k);
        assert_eq!(terms_of_part(Layout::Tn, shape, F32, Bf16), shape.k);
        assert_eq!(parts_len(Layout::Nn, shape, Bf16, Bf16), 0);
        assert_eq!(parts_len(Layout::Tn, GemmShape { m: 0, n: 3, k: 0 }, Bf16, Bf16), 0);
    }
}
