//! Kernels that go through the rows of activations.

use half::bf16;
use tisserand_kernels::ops::cross_entropy::{CrossEntropyKernels, CrossEntropyParams, CrossEntropyShape};
use tisserand_kernels::ops::rope::{self, RopeScaling};
use tisserand_kernels::ops::{Write, elementwise, embedding, rms_norm, swiglu};
use tisserand_kernels::testing::{assert_close, rms, tolerance, upload};

use super::*;

/// A hidden size at which 2^18 rows are 2^32 elements.
const WIDTH: usize = 16_384;

/// The first two rows and the last two, of which the last one has a part of sums over rows for itself.
fn edges_of(rows: usize) -> [usize; 4] {
    assert_eq!(rows % 64, 1);
    [0, 1, rows - 2, rows - 1]
}

/// Norms of `rows` rows of which those at `edges` have numbers: out and dx of these, their rstd, and the gradient of
/// the weight.
fn norms(ctx: &Context<Dev>, rows: usize, edges: [usize; 4]) -> (Vec<[Vec<bf16>; 2]>, Vec<f32>, Vec<f32>) {
    let len = rows * WIDTH;
    let weight = upload(ctx, &numbers::<bf16>(1, WIDTH));
    let [mut x, mut dout, mut out, mut dx] = [(); 4].map(|()| zeros(ctx, DType::Bf16, len));
    let (mut rstd, mut dweight) = (zeros(ctx, DType::F32, rows), zeros(ctx, DType::F32, WIDTH));
    for (row, seed) in edges.into_iter().zip(2..) {
        put(ctx, &mut x, row * WIDTH, &numbers::<bf16>(seed, WIDTH));
        put(ctx, &mut dout, row * WIDTH, &numbers::<bf16>(seed + 100, WIDTH));
    }
    let grid = [rows, WIDTH];
    let weight = weight.view([WIDTH]);
    rms_norm::forward(ctx, 1e-5, x.view(grid), weight, out.view_mut(grid), rstd.view_mut([rows])).unwrap();
    rms_norm::backward(
        ctx,
        dout.view(grid),
        x.view(grid),
        weight,
        rstd.view([rows]),
        Write::Replace,
        dx.view_mut(grid),
        dweight.view_mut([WIDTH]),
    )
    .unwrap();
    let row_of = |block: &Block<Dev>, row: usize| get::<_, bf16>(ctx, block, row * WIDTH..(row + 1) * WIDTH);
    (
        edges.map(|row| [row_of(&out, row), row_of(&dx, row)]).to_vec(),
        edges.map(|row| get::<_, f32>(ctx, &rstd, row..row + 1)[0]).to_vec(),
        get(ctx, &dweight, 0..WIDTH),
    )
}

#[test]
fn norms_of_the_last_rows_are_those_of_the_first() {
    let (rows, few) = ((1 << 18) + 65, 129);
    let (got, rstd, dweight) = norms(&far(), rows, edges_of(rows));
    let (want, want_rstd, want_dweight) = norms(&near(), few, edges_of(few));
    assert!(got == want && rstd == want_rstd);
    // Of the sum over parts the columns at both ends; parts are added in another order.
    for columns in [0..16, WIDTH - 16..WIDTH] {
        let want: Vec<f64> = want_dweight[columns.clone()].iter().map(|x| f64::from(*x)).collect();
        let bound = tolerance(DType::F32, 4);
        assert_close("dweight", &dweight[columns], &want, rms(&want), bound);
    }
}

#[test]
fn columns_of_many_rows_are_summed_to_the_last_one() {
    let (ctx, rows) = (far(), (1 << 18) + 64);
    let (mut x, mut sums) = (zeros(&ctx, DType::F32, rows * WIDTH), zeros(&ctx, DType::F32, WIDTH));
    for (row, seed) in [(0, 1), (1, 2), (rows - 1, 3)] {
        put(&ctx, &mut x, row * WIDTH, &numbers::<f32>(seed, WIDTH));
    }
    elementwise::column_sum(&ctx, x.view([rows, WIDTH]), sums.view_mut([WIDTH])).unwrap();
    let [first, second, last] = [1, 2, 3].map(|seed| numbers::<f32>(seed, WIDTH));
    let sums = get::<_, f32>(&ctx, &sums, 0..WIDTH);
    // The blocks at the edges have the first part of the first columns, and the last part of the last ones.
    for column in 0..16 {
        assert_eq!(sums[column], first[column] + second[column]);
        assert_eq!(sums[WIDTH - 1 - column], last[WIDTH - 1 - column]);
    }
}

#[test]
fn the_last_token_is_turned_as_the_first() {
    const HEADS: usize = 256;
    const HEAD_DIM: usize = 128;
    let turned = |ctx: &Context<Dev>, tokens: usize| {
        let row = HEADS * HEAD_DIM;
        let table = upload(ctx, &rope::table(HEAD_DIM, 1e4, &RopeScaling::None, 100));
        let (mut positions, mut x) = (zeros(ctx, DType::U32, tokens), zeros(ctx, DType::Bf16, tokens * row));
        put(ctx, &mut positions, tokens - 1, &[99_u32]);
        for (token, seed) in [(0, 1), (tokens - 1, 2)] {
            put(ctx, &mut x, token * row, &numbers::<bf16>(seed, row));
        }
        let (positions, grid) = (positions.view([tokens]), [tokens, HEADS, HEAD_DIM]);
        rope::forward(ctx, positions, table.view([100, HEAD_DIM]), x.view_mut(grid)).unwrap();
        [0, tokens - 1].map(|token| get::<_, bf16>(ctx, &x, token * row..(token + 1) * row))
    };
    let tokens = (1 << 17) + 3;
    assert!(tokens * HEADS * HEAD_DIM > 1 << 32);
    assert!(turned(&far(), tokens) == turned(&near(), 2));
}

#[test]
fn gates_of_wide_layers_are_found_for_every_token() {
    const GATES: usize = 65_536;
    let (ctx, small, stride) = (far(), near(), whole_grid(8));
    let (tokens, piece) = ((1 << 17) + 1, stride.of_block());
    let (len, grid, both) = (tokens * GATES, [tokens, GATES], [tokens, 2 * GATES]);
    assert!(len > 1 << 33);
    let [mut gate_up, mut dgate_up] = [(); 2].map(|()| zeros(&ctx, DType::Bf16, 2 * len));
    let [mut out, mut dout] = [(); 2].map(|()| zeros(&ctx, DType::Bf16, len));
    let windows = stride.windows(0..8, piece);
    // Where the gates of a window lie; what they are multiplied with lies a row further.
    let gates = |window: &Range<usize>| window.start + window.start / GATES * GATES;
    for (window, seed) in windows.iter().zip(1..) {
        put(&ctx, &mut gate_up, gates(window), &numbers::<bf16>(seed, piece));
        put(&ctx, &mut gate_up, gates(window) + GATES, &numbers::<bf16>(seed + 100, piece));
        put(&ctx, &mut dout, window.start, &numbers::<bf16>(seed + 200, piece));
    }
    swiglu::forward(&ctx, gate_up.view(both), out.view_mut(grid)).unwrap();
    swiglu::backward(&ctx, gate_up.view(both), dout.view(grid), dgate_up.view_mut(both)).unwrap();
    for (window, seed) in windows.into_iter().zip(1..) {
        let both = [numbers::<bf16>(seed, piece), numbers(seed + 100, piece)].concat();
        let (gate_up, dout) = (upload(&small, &both), upload(&small, &numbers::<bf16>(seed + 200, piece)));
        let [mut want, mut dwant] = [piece, 2 * piece].map(|len| zeros(&small, DType::Bf16, len));
        let (one, two) = ([1, piece], [1, 2 * piece]);
        swiglu::forward(&small, gate_up.view(two), want.view_mut(one)).unwrap();
        swiglu::backward(&small, gate_up.view(two), dout.view(one), dwant.view_mut(two)).unwrap();
        let start = gates(&window);
        let [dgate, dup] =
            [start, start + GATES].map(|start| get::<_, bf16>(&ctx, &dgate_up, start..start + piece));
        assert!(
            get::<_, bf16>(&ctx, &out, window.clone()) == get::<_, bf16>(&small, &want, 0..piece),
            "{window:?}"
        );
        assert!([dgate, dup].concat() == get::<_, bf16>(&small, &dwant, 0..2 * piece), "d of {window:?}");
    }
}

#[test]
fn the_last_row_of_a_large_table_is_read_and_added_to() {
    let (ctx, rows, count) = (far(), 1_usize << 18, (1_usize << 18) + 1);
    assert!(rows * WIDTH >= 1 << 32 && count * WIDTH > 1 << 32);
    // The first and the last token are the table's last row; those between them that are looked at, rows of their own.
    let mut tokens = vec![7_u32; count];
    let last = rows as u32 - 1;
    (tokens[0], tokens[count - 1]) = (last, last);
    tokens[1..32].iter_mut().zip(1..).for_each(|(token, i)| *token = last - i);
    tokens[count - 32..count - 1].iter_mut().zip(101..).for_each(|(token, i)| *token = last - i);
    let tokens = upload(&ctx, &tokens);
    let (mut table, mut out) =
        (zeros(&ctx, DType::Bf16, rows * WIDTH), zeros(&ctx, DType::F32, count * WIDTH));
    let (mut dout, mut dtable) =
        (zeros(&ctx, DType::Bf16, count * WIDTH), zeros(&ctx, DType::F32, rows * WIDTH));
    put(&ctx, &mut table, (rows - 1) * WIDTH, &numbers::<bf16>(1, WIDTH));
    for (token, seed) in [(0, 2), (count - 1, 3)] {
        put(&ctx, &mut dout, token * WIDTH, &numbers::<bf16>(seed, WIDTH));
    }
    let tokens = tokens.view([count]);
    embedding::forward(&ctx, 0, tokens, table.view([rows, WIDTH]), out.view_mut([count, WIDTH])).unwrap();
    embedding::backward(&ctx, 0, tokens, dout.view([count, WIDTH]), dtable.view_mut([rows, WIDTH])).unwrap();
    let [row, first, second] = [1, 2, 3].map(|seed| numbers::<f32>(seed, WIDTH));
    // The columns of the blocks at the edges: 1024 and 128 of each.
    for columns in [0..256, WIDTH - 256..WIDTH] {
        let of = |row: usize| row * WIDTH + columns.start..row * WIDTH + columns.end;
        for token in [0, count - 1] {
            assert_eq!(get::<_, f32>(&ctx, &out, of(token)), row[columns.clone()], "token {token}");
        }
        let sums: Vec<f32> = columns.clone().map(|i| first[i] + second[i]).collect();
        assert_eq!(get::<_, f32>(&ctx, &dtable, of(rows - 1)), sums);
    }
}

#[test]
fn losses_of_the_last_row_of_many_logits_are_those_of_the_first() {
    const CLASSES: usize = 1 << 18;
    let losses = |ctx: &Context<Dev>, tokens: usize| {
        let (mut logits, mut labels) =
            (zeros(ctx, DType::F32, tokens * CLASSES), zeros(ctx, DType::I32, tokens));
        let mut narrow = zeros(ctx, DType::Bf16, tokens * CLASSES);
        let [mut cross_entropy, mut z_losses] = [(); 2].map(|()| zeros(ctx, DType::F32, tokens));
        for (token, seed) in [(0, 1), (tokens - 1, 2)] {
            put(ctx, &mut logits, token * CLASSES, &numbers::<f32>(seed, CLASSES));
            put(ctx, &mut labels, token, &[CLASSES as i32 - 1]);
        }
        let (shape, grid) =
            (CrossEntropyShape { tokens, vocab_size: CLASSES, hidden_size: 1 }, [tokens, CLASSES]);
        let scale = upload(ctx, &[1.0_f32]);
        let params = CrossEntropyParams { z_loss: 1e-4 };
        let [one, other] = [&mut cross_entropy, &mut z_losses].map(|losses| losses.view_mut([tokens]));
        let (scale, labels) = (Some(scale.view([1])), labels.view([tokens]));
        let dlogits = Some(narrow.view_mut(grid));
        ctx.device
            .softmax_cross_entropy_rows(
                shape,
                &params,
                scale,
                logits.view_mut(grid),
                dlogits,
                labels,
                one,
                other,
            )
            .unwrap();
        [0, tokens - 1].map(|token| {
            let of_token =
                [&cross_entropy, &z_losses].map(|losses| get::<_, f32>(ctx, losses, token..token + 1)[0]);
            (of_token, get::<_, bf16>(ctx, &narrow, token * CLASSES..(token + 1) * CLASSES))
        })
    };
    let tokens = (1 << 14) + 1;
    assert!(losses(&far(), tokens) == losses(&near(), 2));
}
