//! Rotary positions: the bits of the CPU device, both ways, for heads of all kinds of sizes.

use tisserand_kernels::ops::rope::{self, RopeScaling, RopeShape, Turn};
use tisserand_kernels::testing::{bits, normal_f64, upload, upload_as};
use tisserand_kernels::{Context, DType, Device};

use crate::support::{FLOATS, assert_coalesced, cpu, for_each_setting, with_warps_of_64};

const MAX_POSITIONS: usize = 50;

/// Heads that fill bundles of four and that do not; halves of whole groups and of others; several blocks.
const SHAPES: [[usize; 3]; 8] =
    [[1, 1, 2], [3, 3, 18], [5, 4, 16], [9, 5, 64], [2, 9, 80], [3, 2, 96], [33, 8, 128], [2, 1, 256]];

/// Elements before the table and before `x` in their blocks: aligned or not, each by itself.
const STARTS: [[usize; 2]; 4] = [[0, 0], [1, 1], [1, 0], [0, 1]];

/// Turns `x` by a table.
fn turned<D: Device>(
    ctx: &Context<D>,
    shape: RopeShape,
    turn: Turn,
    dtype: DType,
    [from_table, from_x]: [usize; 2],
) -> Vec<u32> {
    let RopeShape { tokens, heads, head_dim } = shape;
    let len = tokens * heads * head_dim;
    let positions: Vec<u32> = (0..tokens).map(|t| (t * 37 % MAX_POSITIONS) as u32).collect();
    let mut table = vec![f32::NAN; from_table];
    table.extend(rope::table(head_dim, 1e4, &RopeScaling::None, MAX_POSITIONS));
    let (positions, table) = (upload(ctx, &positions), upload(ctx, &table));
    let mut x = upload_as(ctx, dtype, &normal_f64(1, from_x + len + 1));
    let op = if turn == Turn::Forward { rope::forward } else { rope::backward };
    let table = table.range(from_table, [MAX_POSITIONS, head_dim]);
    op(ctx, positions.view([tokens]), table, x.range_mut(from_x, [tokens, heads, head_dim])).unwrap();
    bits(ctx, &x)
}

fn check<D: Device>(ctx: &Context<D>) {
    let cpu = cpu();
    for [tokens, heads, head_dim] in SHAPES {
        let shape = RopeShape { tokens, heads, head_dim };
        for (turn, dtype) in [Turn::Forward, Turn::Backward].into_iter().flat_map(|t| FLOATS.map(|d| (t, d)))
        {
            for starts in STARTS {
                let want = turned(&cpu, shape, turn, dtype, starts);
                let got = turned(ctx, shape, turn, dtype, starts);
                assert_eq!(got, want, "{shape:?} {turn:?} {dtype} {starts:?}");
            }
        }
    }
}

#[test]
fn both_turns_have_the_bits_of_the_cpu() {
    for_each_setting(check);
    with_warps_of_64(check);
}

#[test]
fn accesses_are_coalesced() {
    let shape = RopeShape { tokens: 40, heads: 8, head_dim: 128 };
    // The table, of f32, is read as two packs for each thread: half a sector at a time, from the caches.
    assert_coalesced("rope", 1.4, |ctx| {
        turned(ctx, shape, Turn::Forward, DType::Bf16, [0, 0]);
    });
}
