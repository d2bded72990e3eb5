//! Elementwise ops on the CPU device: against the reference, at odd sizes, for every thread count.

use tisserand_kernels::ops::elementwise::{self, Combine, reference};
use tisserand_kernels::ops::{CHUNK, Write, grad_norm};
use tisserand_kernels::testing::{
    assert_close, bits, download, normal_f64, poisoned, rms, tolerance, upload, upload_as,
};
use tisserand_kernels::{Context, Cpu, DType};

const FLOATS: [DType; 2] = [DType::F32, DType::Bf16];

fn context(threads: usize) -> Context<Cpu> {
    Context::new(Cpu::new(threads).unwrap(), 64 << 20).unwrap()
}

#[test]
fn add_assign_rounds_the_exact_sum_once() {
    let ctx = context(2);
    for (len, dtype) in [1, 17, 1000, 40_003].into_iter().flat_map(|n| FLOATS.map(|d| (n, d))) {
        let (x, y) = (normal_f64(1, len), normal_f64(2, len));
        // Inputs are bf16 numbers, so their sum is exact in f64 and, but for the storage, in f32.
        let sums: Vec<f64> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
        let (x, mut y) = (upload_as(&ctx, dtype, &x), upload_as(&ctx, dtype, &y));
        elementwise::add_assign(&ctx, x.view([len]), y.view_mut([len])).unwrap();
        assert_eq!(bits(&ctx, &y), bits(&ctx, &upload_as(&ctx, dtype, &sums)), "{len} {dtype}");
    }
}

#[test]
fn cast_rounds_to_nearest_between_all_pairs() {
    let ctx = context(2);
    let values: Vec<f64> = normal_f64(1, 5003).iter().map(|x| f64::from((x * 1.2345) as f32)).collect();
    for (from, to) in FLOATS.into_iter().flat_map(|from| FLOATS.map(|to| (from, to))) {
        let src = upload_as(&ctx, from, &values);
        let mut dst = poisoned(&ctx, to, [values.len()]);
        elementwise::cast(&ctx, src.view([values.len()]), dst.view_mut([values.len()])).unwrap();
        let narrow = from == DType::Bf16 || to == DType::Bf16;
        let want = upload_as(&ctx, if narrow { DType::Bf16 } else { DType::F32 }, &values);
        assert_eq!(bits(&ctx, &dst), bits(&ctx, &want), "{from} to {to}");
    }
}

#[test]
fn fill_writes_every_element_and_no_other() {
    let ctx = context(2);
    for dtype in FLOATS {
        let mut block = upload_as(&ctx, dtype, &vec![7.0; 20_001]);
        elementwise::fill(&ctx, 0.1, block.range_mut(1, [3, 6666])).unwrap();
        let values = download(&ctx, &block);
        let tenth = download(&ctx, &upload_as(&ctx, dtype, &[0.1]))[0];
        assert!(values[1..19_999].iter().all(|v| *v == tenth), "{dtype}");
        assert_eq!([values[0], values[19_999], values[20_000]], [7.0; 3], "{dtype}");
    }
}

#[test]
fn column_sum_adds_to_what_is_there() {
    let ctx = context(2);
    let shapes = [(1, 1), (3, 17), (64, 5), (65, 129), (257, 1500)];
    for ((rows, width), dtype) in shapes.into_iter().flat_map(|s| FLOATS.map(|d| (s, d))) {
        let (x, start) = (normal_f64(1, rows * width), normal_f64(2, width));
        let want = reference::column_sum(&x, &start);
        let (x, mut sums) = (upload_as(&ctx, dtype, &x), upload_as(&ctx, DType::F32, &start));
        elementwise::column_sum(&ctx, x.view([rows, width]), sums.view_mut([width])).unwrap();
        let scale = (rows as f64).sqrt();
        let name = format!("{rows} x {width} {dtype}");
        assert_close(&name, &download(&ctx, &sums), &want, scale, tolerance(DType::F32, rows));
    }
    let (x, mut sums) = (upload_as(&ctx, DType::F32, &[]), upload_as(&ctx, DType::F32, &[1.0, 2.0]));
    elementwise::column_sum(&ctx, x.view([0, 2]), sums.view_mut([2])).unwrap();
    assert_eq!(download(&ctx, &sums), [1.0, 2.0]);
}

#[test]
fn sum_is_the_tree_of_the_sums_of_chunks() {
    let ctx = context(2);
    for len in [0, 1, 17, CHUNK, CHUNK + 1, 7 * CHUNK + 3, 100_003] {
        let values = normal_f64(1, len);
        let x = upload_as(&ctx, DType::F32, &values);
        let run = |write, start: f64, x| {
            let mut out = upload_as(&ctx, DType::F32, &[start]);
            elementwise::sum(&ctx, x, write, out.view_mut([1])).unwrap();
            download(&ctx, &out)[0]
        };
        let total = run(Write::Replace, f64::NAN, x.view([len]));
        let want = reference::sum(&values);
        let scale = rms(&values) * (len as f64).sqrt();
        assert_close(&format!("{len}"), &[total], &[want], scale, tolerance(DType::F32, len));
        let chunks: Vec<f32> = (0..len.div_ceil(CHUNK))
            .map(|c| run(Write::Replace, f64::NAN, x.range(c * CHUNK, [CHUNK.min(len - c * CHUNK)])))
            .collect();
        assert_eq!(total.to_bits(), grad_norm::reference::tree_sum(&chunks).to_bits(), "{len}");
        assert_eq!(run(Write::Add, 0.5, x.view([len])), 0.5 + total, "{len}");
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let run = |threads| {
        let ctx = context(threads);
        let x = upload_as(&ctx, DType::F32, &normal_f64(1, 331 * 129));
        let mut sums = upload_as(&ctx, DType::F32, &normal_f64(2, 129));
        let mut total = poisoned(&ctx, DType::F32, [1]);
        elementwise::column_sum(&ctx, x.view([331, 129]), sums.view_mut([129])).unwrap();
        elementwise::sum(&ctx, x.view([331 * 129]), Write::Replace, total.view_mut([1])).unwrap();
        (bits(&ctx, &sums), bits(&ctx, &total))
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert_eq!(run(threads), one, "{threads} threads");
    }
}

#[test]
fn a_wrong_shape_or_dtype_is_refused_by_name() {
    let ctx = context(1);
    let x = upload_as(&ctx, DType::F32, &[0.0; 6]);
    let mut y = poisoned(&ctx, DType::Bf16, [6]);
    let mut refused = |extents: &[usize]| {
        let y = y.view_mut([6]).reshape(tisserand_kernels::Shape::new(extents));
        elementwise::add_assign(&ctx, x.view([2, 3]), y).unwrap_err().to_string()
    };
    assert_eq!(refused(&[3, 2]), "elementwise::add_assign: `y` has shape [3, 2], expected [2, 3]");
    let mut labels = poisoned(&ctx, DType::I32, [6]);
    let message = elementwise::add_assign(&ctx, x.view([6]), labels.view_mut([6])).unwrap_err().to_string();
    assert_eq!(message, "elementwise::add_assign: `y` has dtype i32, expected f32 or bf16");
    let message = elementwise::column_sum(&ctx, x.view([2, 3]), y.view_mut([3, 2])).unwrap_err().to_string();
    assert_eq!(message, "elementwise::column_sum: `sums` has shape [3, 2], expected [3]");
    let message =
        elementwise::sum(&ctx, y.view([6]), Write::Add, poisoned(&ctx, DType::F32, [1]).view_mut([1]))
            .unwrap_err()
            .to_string();
    assert_eq!(message, "elementwise::sum: `x` has dtype bf16, expected f32");
}

#[test]
fn combine_is_the_tree_over_the_tensors() {
    let ctx = context(2);
    for (count, len) in [(1, 5), (2, 1), (3, 1000), (4, 40_003), (7, 513), (8, 1024), (3, 0)] {
        for (dtype, how) in FLOATS.into_iter().flat_map(|d| [Combine::Sum, Combine::Max].map(|how| (d, how)))
        {
            let values: Vec<Vec<f64>> = (0..count).map(|i| normal_f64(i as u64, len)).collect();
            let want = if len == 0 { Vec::new() } else { reference::combine(how, &values) };
            let blocks: Vec<_> = values.iter().map(|values| upload_as(&ctx, dtype, values)).collect();
            let views: Vec<_> = blocks.iter().map(|block| block.view([len])).collect();
            let results: Vec<Vec<u32>> = (0..count)
                .map(|own| {
                    let mut block = upload_as(&ctx, dtype, &values[own]);
                    let (before, after) = (&views[..own], &views[own + 1..]);
                    elementwise::combine(&ctx.device, how, before, block.view_mut([len]), after).unwrap();
                    let bound = if how == Combine::Max { 0.0 } else { tolerance(dtype, count) };
                    assert_close("combined", &download(&ctx, &block), &want, 1.0, bound);
                    bits(&ctx, &block)
                })
                .collect();
            assert!(results.iter().all(|result| *result == results[0]), "{count} {len} {dtype} {how:?}");
        }
    }
}

#[test]
fn combining_groups_first_gives_the_same_bits() {
    let ctx = context(1);
    let len = 777;
    let values: Vec<Vec<f64>> =
        (0..8).map(|i| normal_f64(i, len).iter().map(|x| x * 1.1_f64.powi(i as i32)).collect()).collect();
    let block = |i: usize| upload_as(&ctx, DType::F32, &values[i]);
    let sum = |blocks: Vec<tisserand_kernels::Block<Cpu>>| {
        let mut blocks = blocks.into_iter();
        let mut own = blocks.next().unwrap();
        let others: Vec<_> = blocks.collect();
        let after: Vec<_> = others.iter().map(|other| other.view([len])).collect();
        elementwise::combine(&ctx.device, Combine::Sum, &[], own.view_mut([len]), &after).unwrap();
        own
    };
    let whole = sum((0..8).map(block).collect());
    let pairs = (0..4).map(|i| sum(vec![block(2 * i), block(2 * i + 1)])).collect();
    let halves = (0..2).map(|i| sum((4 * i..4 * i + 4).map(block).collect())).collect();
    assert_eq!(bits(&ctx, &sum(pairs)), bits(&ctx, &whole));
    assert_eq!(bits(&ctx, &sum(halves)), bits(&ctx, &whole));
}

#[test]
fn combine_of_integers_wraps_and_nan_is_the_largest() {
    let ctx = context(1);
    let mut own = upload(&ctx, &[u32::MAX, 3]);
    let other = upload(&ctx, &[2_u32, 7]);
    elementwise::combine(&ctx.device, Combine::Sum, &[], own.view_mut([2]), &[other.view([2])]).unwrap();
    assert_eq!(own.view([2]).as_slice::<u32>(), [1, 10]);
    elementwise::combine(&ctx.device, Combine::Max, &[other.view([2])], own.view_mut([2]), &[]).unwrap();
    assert_eq!(own.view([2]).as_slice::<u32>(), [2, 10]);
    for position in 0..3 {
        let mut values = [[1.0_f32], [2.0], [3.0]];
        values[position][0] = f32::NAN;
        let [mut own, a, b] = values.map(|value| upload(&ctx, &value));
        let after = [a.view([1]), b.view([1])];
        elementwise::combine(&ctx.device, Combine::Max, &[], own.view_mut([1]), &after).unwrap();
        assert!(download(&ctx, &own)[0].is_nan(), "{position}");
    }
}
