//! Random numbers are functions of the index in the whole tensor: any cut of a matrix by rows, by columns or by
//! both, and any range of such a part, has the bits of the whole. For normal numbers, and for the rounding of
//! the optimizer.

use std::ops::Range;

use tisserand_kernels::ops::adamw::{self, AdamwParams};
use tisserand_kernels::ops::philox::{self, GlobalIndex, NormalParams};
use tisserand_kernels::ops::step_scalars::{StepScalars, WORDS};
use tisserand_kernels::testing::{bits, normal_f64, poisoned, upload, upload_as};
use tisserand_kernels::{Block, Context, Cpu, DType};

fn context(threads: usize) -> Context<Cpu> {
    Context::new(Cpu::new(threads).unwrap(), 64 << 20).unwrap()
}

/// Rows and columns of a matrix that one rank holds.
#[derive(Clone, Debug)]
struct Part {
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Part {
    fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    fn index(&self, num_columns: usize) -> GlobalIndex {
        let first = self.rows.start * num_columns + self.columns.start;
        GlobalIndex::columns(first as u64, self.columns.len(), num_columns)
    }

    /// The elements of the part, out of all.
    fn of<T: Copy>(&self, all: &[T], num_columns: usize) -> Vec<T> {
        let row = |row: usize| &all[row * num_columns..][self.columns.clone()];
        self.rows.clone().flat_map(row).copied().collect()
    }
}

/// The ranges of ranks that share `len` as evenly as they can.
fn shares(len: usize, ranks: usize) -> impl Iterator<Item = Range<usize>> {
    (0..ranks).map(move |rank| rank * len / ranks..(rank + 1) * len / ranks)
}

/// Cuts by rows, by columns and by both.
fn parts([rows, columns]: [usize; 2]) -> Vec<Part> {
    let cuts = [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (1, 4), (2, 3)];
    let parts = cuts.into_iter().flat_map(|(row_ranks, column_ranks)| {
        shares(rows, row_ranks).flat_map(move |rows| {
            shares(columns, column_ranks).map(move |columns| Part { rows: rows.clone(), columns })
        })
    });
    parts.filter(|part| part.len() > 0).collect()
}

/// Ranges that make up `0..len`, most of which begin inside a row and inside a block of random numbers.
fn ranges(len: usize) -> impl Iterator<Item = Range<usize>> {
    let bounds = [0, 1, 6, 39, 64, 1030, 1031, 2500, len].map(|bound| bound.min(len));
    (1..bounds.len()).map(move |i| bounds[i - 1]..bounds[i])
}

/// Rows shorter than a block of random numbers, than a chunk of a device, and longer than both.
const MATRICES: [[usize; 2]; 5] = [[1, 5], [700, 4], [37, 29], [41, 333], [3, 4099]];

fn normal(ctx: &Context<Cpu>, index: GlobalIndex, len: usize) -> Block<Cpu> {
    let params = NormalParams { seed: 5, tensor_key: philox::tensor_key("w"), index, std: 0.02, mean: 0.5 };
    let mut out = poisoned(ctx, DType::F32, [len]);
    philox::normal(ctx, &params, out.view_mut([len])).unwrap();
    out
}

#[test]
fn normal_numbers_of_every_part_are_those_of_the_whole() {
    let ctx = context(2);
    for [rows, columns] in MATRICES {
        let whole = bits(&ctx, &normal(&ctx, GlobalIndex::contiguous(0), rows * columns));
        for part in parts([rows, columns]) {
            let (want, index) = (part.of(&whole, columns), part.index(columns));
            assert!(bits(&ctx, &normal(&ctx, index, part.len())) == want, "{part:?} of {rows} × {columns}");
            for range in ranges(part.len()) {
                let got = bits(&ctx, &normal(&ctx, index.advance(range.start), range.len()));
                assert!(got == want[range.clone()], "{range:?} of {part:?} of {rows} × {columns}");
            }
        }
    }
}

/// Gradient, weights and moments of a whole matrix; the second moments are not negative.
struct Matrix {
    grad: Vec<f64>,
    master: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
}

impl Matrix {
    fn new(len: usize) -> Self {
        let [grad, master, m, v] = [1, 2, 3, 4].map(|seed| normal_f64(seed, len));
        Matrix { grad, master, m, v: v.iter().map(|v| v.abs()).collect() }
    }

    fn part(&self, part: &Part, columns: usize) -> Self {
        let [grad, master, m, v] =
            [&self.grad, &self.master, &self.m, &self.v].map(|values| part.of(values, columns));
        Matrix { grad, master, m, v }
    }

    /// Bits of master weights, moments and compute copy after an update, made range by range.
    fn updated(
        &self,
        ctx: &Context<Cpu>,
        [master, moments]: [DType; 2],
        index: GlobalIndex,
        ranges: impl Iterator<Item = Range<usize>>,
    ) -> [Vec<u32>; 4] {
        let scalars = StepScalars {
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.95,
            step: 7,
            clip_factor: 0.5,
            bias_correction1: 0.5,
            bias_correction2: 0.25,
            update: 1,
            ..StepScalars::default()
        };
        let (scalars, grad) = (upload(ctx, &scalars.to_words()), upload_as(ctx, DType::F32, &self.grad));
        let mut master = upload_as(ctx, master, &self.master);
        let (mut m, mut v) = (upload_as(ctx, moments, &self.m), upload_as(ctx, moments, &self.v));
        let mut weights = poisoned(ctx, DType::Bf16, [self.grad.len()]);
        for range in ranges {
            let (start, extents, index) = (range.start, [range.len()], index.advance(range.start));
            let tensor_key = philox::tensor_key("w");
            let params = AdamwParams { lr_scale: 1.0, eps: 1e-8, weight_decay: 0.1, tensor_key, index };
            adamw::update(
                ctx,
                &params,
                scalars.view([WORDS]),
                grad.range(start, extents),
                master.range_mut(start, extents),
                m.range_mut(start, extents),
                v.range_mut(start, extents),
                weights.range_mut(start, extents),
            )
            .unwrap();
        }
        [&master, &m, &v, &weights].map(|block| bits(ctx, block))
    }
}

#[test]
fn updates_of_every_part_are_those_of_the_whole() {
    use DType::{Bf16, F32};
    let ctx = context(2);
    for [rows, columns] in MATRICES {
        let matrix = Matrix::new(rows * columns);
        for dtypes in [[Bf16, Bf16], [Bf16, F32], [F32, Bf16], [F32, F32]] {
            let all = std::iter::once(0..rows * columns);
            let whole = matrix.updated(&ctx, dtypes, GlobalIndex::contiguous(0), all);
            for part in parts([rows, columns]) {
                let want = whole.clone().map(|bits| part.of(&bits, columns));
                let (own, index, len) = (matrix.part(&part, columns), part.index(columns), part.len());
                let name = format!("{part:?} of {rows} × {columns} {dtypes:?}");
                assert!(own.updated(&ctx, dtypes, index, std::iter::once(0..len)) == want, "{name}");
                assert!(own.updated(&ctx, dtypes, index, ranges(len)) == want, "ranges of {name}");
            }
        }
    }
}

#[test]
fn bits_of_columns_do_not_depend_on_the_number_of_threads() {
    // More than one task of each kernel.
    let [rows, columns] = [300, 500];
    let part = Part { rows: 0..rows, columns: 100..233 };
    let matrix = Matrix::new(rows * columns).part(&part, columns);
    let run = |threads| {
        let (ctx, index) = (context(threads), part.index(columns));
        let updated = matrix.updated(&ctx, [DType::Bf16, DType::Bf16], index, std::iter::once(0..part.len()));
        (updated, bits(&ctx, &normal(&ctx, index, part.len())))
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn a_part_that_leaves_64_bits_is_refused() {
    let ctx = context(1);
    let index = GlobalIndex::columns(u64::MAX - 20, 2, 10);
    normal(&ctx, index, 4);
    let params = NormalParams { seed: 5, tensor_key: 1, index, std: 1.0, mean: 0.0 };
    let mut out = poisoned(&ctx, DType::F32, [5]);
    let message = philox::normal(&ctx, &params, out.view_mut([5])).unwrap_err().to_string();
    assert_eq!(
        message,
        "philox::normal: 5 elements from index 18446744073709551595 on: the last leaves 64 bits"
    );
}
