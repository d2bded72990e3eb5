//! Which kernels of attention run, and with how many threads: `ForwardGeometry` and `BackwardGeometry` of
//! `kernels/cuda/attention_*.cuh`, as the host counts them.

use crate::cuda::LaunchConfig;

/// What tensor cores' kernels move at a time: addresses of rows must be multiples.
pub(super) const CHUNK_BYTES: usize = 16;

/// Elements of bf16 in a chunk.
const CHUNK: usize = 8;

/// Threads, hence rows, of a block without tensor cores: one warp for a row.
const PLAIN_THREADS: u32 = 128;
const WARP: u32 = 32;

/// One launch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pass {
    /// out and logsumexp, by tiles of queries.
    Forward,
    /// dq and delta, by tiles of queries.
    BackwardQueries,
    /// dk and dv, by tiles of keys.
    BackwardKeys,
}

/// A set of kernels for all passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kernels {
    PlainF32,
    PlainBf16,
    /// On tensor cores, for heads of at most this width.
    D64,
    D80,
    D96,
    D128,
    D256,
}

impl Kernels {
    /// For bf16 at addresses that are multiples of 16 bytes, as far as the width of a row keeps them so.
    pub(super) fn of_bf16(head_dim: usize) -> Self {
        match head_dim {
            _ if !head_dim.is_multiple_of(CHUNK) => Kernels::PlainBf16,
            0..=64 => Kernels::D64,
            65..=80 => Kernels::D80,
            81..=96 => Kernels::D96,
            97..=128 => Kernels::D128,
            _ => Kernels::D256,
        }
    }

    /// Width of a tile; none without tensor cores.
    fn width(self) -> Option<usize> {
        match self {
            Kernels::PlainF32 | Kernels::PlainBf16 => None,
            Kernels::D64 => Some(64),
            Kernels::D80 => Some(80),
            Kernels::D96 => Some(96),
            Kernels::D128 => Some(128),
            Kernels::D256 => Some(256),
        }
    }

    /// Name of a pass' kernel.
    pub(super) fn name(self, pass: Pass) -> &'static str {
        macro_rules! by_kernels {
            ($pass:literal) => {
                match self {
                    Kernels::PlainF32 => concat!($pass, "_plain_f32"),
                    Kernels::PlainBf16 => concat!($pass, "_plain_bf16"),
                    Kernels::D64 => concat!($pass, "_bf16_d64"),
                    Kernels::D80 => concat!($pass, "_bf16_d80"),
                    Kernels::D96 => concat!($pass, "_bf16_d96"),
                    Kernels::D128 => concat!($pass, "_bf16_d128"),
                    Kernels::D256 => concat!($pass, "_bf16_d256"),
                }
            };
        }
        match pass {
            Pass::Forward => by_kernels!("attention_forward"),
            Pass::BackwardQueries => by_kernels!("attention_backward_queries"),
            Pass::BackwardKeys => by_kernels!("attention_backward_keys"),
        }
    }

    /// Blocks for all tiles of `tokens` rows, of each of `heads` heads.
    pub(super) fn config(self, pass: Pass, tokens: usize, heads: usize) -> LaunchConfig {
        let Some(width) = self.width() else {
            let rows = (PLAIN_THREADS / WARP) as usize;
            return LaunchConfig::grid([tokens.div_ceil(rows), heads, 1], PLAIN_THREADS);
        };
        let is_wide = width > 128;
        let rows = if is_wide { 64 } else { 128 };
        let grid = [tokens.div_ceil(rows), heads, 1];
        let tile_bytes = |rows: usize| rows * (width + CHUNK) * 2;
        let spans_bytes = 2 * rows * 4;
        if pass == Pass::Forward {
            const KEYS: usize = 64;
            let bytes = tile_bytes(rows) + 2 * tile_bytes(KEYS) + spans_bytes;
            return LaunchConfig::grid(grid, 128).with_shared_bytes(bytes);
        }
        const STAGES: usize = 2;
        let others = if is_wide { 32 } else { 64 };
        let numbers_bytes = if pass == Pass::BackwardKeys { STAGES * 2 * others * 4 } else { 0 };
        let bytes = 2 * (tile_bytes(rows) + STAGES * tile_bytes(others)) + spans_bytes + numbers_bytes;
        LaunchConfig::grid(grid, 256).with_shared_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::launch::MAX_SHARED_BYTES;

    #[test]
    fn every_block_fits_the_smallest_gpu() {
        for kernels in [Kernels::D64, Kernels::D80, Kernels::D96, Kernels::D128, Kernels::D256] {
            for pass in [Pass::Forward, Pass::BackwardQueries, Pass::BackwardKeys] {
                let config = kernels.config(pass, 1, 1);
                assert!(config.shared_bytes <= MAX_SHARED_BYTES, "{kernels:?} {pass:?} {config:?}");
            }
        }
    }

    #[test]
    fn rows_that_are_no_multiple_of_a_chunk_do_without_tensor_cores() {
        let dims = [2, 8, 64, 72, 80, 90, 96, 104, 128, 136, 256];
        use Kernels::*;
        let want = [PlainBf16, D64, D64, D80, D80, PlainBf16, D96, D128, D128, D256, D256];
        assert_eq!(dims.map(Kernels::of_bf16), want);
    }

    #[test]
    fn every_row_has_a_block() {
        let grid = |kernels: Kernels, tokens| kernels.config(Pass::Forward, tokens, 3).grid;
        assert_eq!(grid(Kernels::D64, 0), [0, 3, 1]);
        assert_eq!(grid(Kernels::D64, 129), [2, 3, 1]);
        assert_eq!(grid(Kernels::D256, 129), [3, 3, 1]);
        assert_eq!(grid(Kernels::PlainF32, 129), [33, 3, 1]);
    }
}
