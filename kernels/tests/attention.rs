//! Attention on the CPU device: against the reference, at odd lengths, windows and group sizes, for every
//! thread count.

use tisserand_kernels::ops::attention::{self, AttentionShape, reference};
use tisserand_kernels::testing::{
    assert_close, bits, download, normal_f64, poisoned, rms, tolerance, upload, upload_as,
};
use tisserand_kernels::{Block, Context, Cpu, DType};

fn context(threads: usize) -> Context<Cpu> {
    Context::new(Cpu::new(threads).unwrap(), 64 << 20).unwrap()
}

fn shape(num_heads: usize, num_kv_heads: usize, head_dim: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape { num_heads, num_kv_heads, head_dim, window, longest: usize::MAX }
}

/// Documents of one buffer and their elements, repeatable.
struct Case {
    shape: AttentionShape,
    cu_q: Vec<u32>,
    cu_k: Vec<u32>,
    /// q, k, v, dout.
    inputs: [Vec<f64>; 4],
}

impl Case {
    /// Documents of these (queries, keys); the bounds are padded with `padding` empty ones.
    fn new(shape: AttentionShape, documents: &[(u32, u32)], padding: usize) -> Self {
        let bounds = |len: fn(&(u32, u32)) -> u32| {
            let mut bounds = vec![0];
            bounds.extend(documents.iter().scan(0, |end, document| {
                *end += len(document);
                Some(*end)
            }));
            bounds.resize(bounds.len() + padding, bounds[documents.len()]);
            bounds
        };
        let (cu_q, cu_k) = (bounds(|document| document.0), bounds(|document| document.1));
        let q_len = *cu_q.last().unwrap() as usize * shape.num_heads * shape.head_dim;
        let k_len = *cu_k.last().unwrap() as usize * shape.num_kv_heads * shape.head_dim;
        let inputs = [normal_f64(1, q_len), normal_f64(2, k_len), normal_f64(3, k_len), normal_f64(4, q_len)];
        Case { shape, cu_q, cu_k, inputs }
    }

    fn tokens(&self) -> [usize; 2] {
        [&self.cu_q, &self.cu_k].map(|bounds| *bounds.last().unwrap() as usize)
    }

    /// Returns out, logsumexp, dq, dk, dv of the device.
    fn run(&self, ctx: &Context<Cpu>, dtype: DType) -> [Block<Cpu>; 5] {
        let shape = self.shape;
        let [tokens_q, tokens_k] = self.tokens();
        let q_grid = [tokens_q, shape.num_heads, shape.head_dim];
        let k_grid = [tokens_k, shape.num_kv_heads, shape.head_dim];
        let lse_grid = [shape.num_heads, tokens_q];
        let [q, k, v, dout] = self.inputs.each_ref().map(|input| upload_as(ctx, dtype, input));
        let (q, k, v, dout) = (q.view(q_grid), k.view(k_grid), v.view(k_grid), dout.view(q_grid));
        let (cu_q, cu_k) = (upload(ctx, &self.cu_q), upload(ctx, &self.cu_k));
        let (cu_q, cu_k) = (cu_q.view([self.cu_q.len()]), cu_k.view([self.cu_k.len()]));
        let (mut out, mut logsumexp) = (poisoned(ctx, dtype, q_grid), poisoned(ctx, DType::F32, lse_grid));
        let (out_view, lse_view) = (out.view_mut(q_grid), logsumexp.view_mut(lse_grid));
        attention::forward(ctx, shape, q, k, v, cu_q, cu_k, out_view, lse_view).unwrap();
        let [mut dq, mut dk, mut dv] = [q_grid, k_grid, k_grid].map(|grid| poisoned(ctx, dtype, grid));
        let lse_view = logsumexp.view(lse_grid);
        let (dq_view, dk_view) = (dq.view_mut(q_grid), dk.view_mut(k_grid));
        let dv_view = dv.view_mut(k_grid);
        attention::backward(ctx, shape, q, k, v, cu_q, cu_k, lse_view, dout, dq_view, dk_view, dv_view)
            .unwrap();
        [out, logsumexp, dq, dk, dv]
    }

    fn check(&self, ctx: &Context<Cpu>, dtype: DType) {
        let Case { shape, cu_q, cu_k, inputs: [q, k, v, dout] } = self;
        let (out, logsumexp) = reference::forward(*shape, q, k, v, cu_q, cu_k);
        let (dq, dk, dv) = reference::backward(*shape, q, k, v, cu_q, cu_k, &out, &logsumexp, dout);
        let want = [out, logsumexp, dq, dk, dv];
        let got = self.run(ctx, dtype);
        // Sums run over keys, over head_dim inside the exponent, and over the rows of a group.
        let terms = shape.head_dim + self.tokens()[1] + shape.group() * self.tokens()[0];
        let names = ["out", "logsumexp", "dq", "dk", "dv"];
        for ((name, got), want) in names.iter().zip(&got).zip(&want) {
            let name = format!("{name} {shape:?} {dtype} {cu_q:?} {cu_k:?}");
            let finite: Vec<f64> = want.iter().copied().filter(|want| want.is_finite()).collect();
            let tolerance = tolerance(got.dtype(), terms);
            // Gradients are differences of probabilities times terms of this size.
            let scale = rms(&finite).max(if name.starts_with("d") { 1.0 } else { 0.0 });
            assert_close(&name, &download(ctx, got), want, scale, tolerance);
        }
    }
}

#[test]
fn every_length_equals_the_reference() {
    let ctx = context(2);
    for length in [1, 2, 63, 64, 65, 127, 129, 260] {
        let case = Case::new(shape(3, 1, 16, None), &[(length, length)], 0);
        case.check(&ctx, DType::F32);
        case.check(&ctx, DType::Bf16);
    }
}

#[test]
fn every_head_dim_and_group_equals_the_reference() {
    let ctx = context(2);
    for head_dim in [2, 6, 16, 18, 34, 64, 80, 128, 256] {
        for (num_heads, num_kv_heads) in [(1, 1), (4, 2), (6, 2)] {
            let case = Case::new(shape(num_heads, num_kv_heads, head_dim, None), &[(37, 37), (5, 5)], 0);
            case.check(&ctx, DType::F32);
            case.check(&ctx, DType::Bf16);
        }
    }
}

#[test]
fn documents_windows_and_caches_equal_the_reference() {
    let ctx = context(3);
    let packed = [(5, 5), (0, 0), (131, 131), (1, 1), (64, 64)];
    let cached = [(1, 70), (3, 200), (33, 33), (1, 1), (140, 270), (0, 9)];
    for window in [None, Some(1), Some(7), Some(100), Some(1000)] {
        for (documents, padding) in [(&packed[..], 0), (&packed, 7), (&cached, 1)] {
            let case = Case::new(shape(4, 2, 16, window), documents, padding);
            case.check(&ctx, DType::F32);
            case.check(&ctx, DType::Bf16);
        }
    }
}

#[test]
fn a_query_without_keys_gives_zero_and_no_gradient() {
    let ctx = context(2);
    let case = Case::new(shape(2, 1, 16, None), &[(40, 5), (3, 0), (150, 2)], 0);
    case.check(&ctx, DType::F32);
    let [out, logsumexp, dq, ..] = case.run(&ctx, DType::F32).map(|block| download(&ctx, &block));
    assert!(out[..35 * 32].iter().chain(&dq[..35 * 32]).all(|&value| value == 0.0));
    assert!(logsumexp[..35].iter().all(|&value| value == f32::NEG_INFINITY));
}

#[test]
fn large_logits_do_not_overflow() {
    let ctx = context(2);
    let mut case = Case::new(shape(2, 2, 16, None), &[(70, 70)], 0);
    for value in case.inputs[..2].iter_mut().flatten() {
        *value *= 64.0;
    }
    let got = case.run(&ctx, DType::F32).map(|block| download(&ctx, &block));
    assert!(got.iter().flatten().all(|value| value.is_finite()));
    let [q, k, v, _] = &case.inputs;
    let (out, _) = reference::forward(case.shape, q, k, v, &case.cu_q, &case.cu_k);
    // Logits of size 16,000 leave an absolute error of about 1e-2 in the exponent.
    assert_close("out", &got[0], &out, 1.0, 0.05);
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let documents = [(300, 300), (1, 90), (17, 17), (140, 200)];
    for (window, dtype) in [(None, DType::F32), (Some(90), DType::F32), (None, DType::Bf16)] {
        let case = Case::new(shape(6, 2, 18, window), &documents, 2);
        let run = |threads| {
            let ctx = context(threads);
            case.run(&ctx, dtype).map(|block| bits(&ctx, &block))
        };
        let one = run(1);
        for threads in [2, 3, 8] {
            assert!(run(threads) == one, "{threads} threads, window {window:?}, {dtype}");
        }
    }
}

#[test]
fn a_document_has_the_same_bits_whatever_its_neighbours() {
    let ctx = context(2);
    let shape = shape(2, 1, 16, None);
    let pair = Case::new(shape, &[(37, 37), (50, 50)], 0);
    let mut alone = Case::new(shape, &[(50, 50)], 0);
    for (alone, (pair, row)) in alone.inputs.iter_mut().zip(pair.inputs.iter().zip([32, 16, 16, 32])) {
        *alone = pair[37 * row..].to_vec();
    }
    let [pair, alone] = [pair, alone].map(|case| case.run(&ctx, DType::F32).map(|block| bits(&ctx, &block)));
    for (output, row) in [(0, 32), (2, 32), (3, 16), (4, 16)] {
        assert_eq!(pair[output][37 * row..], alone[output]);
    }
}

#[test]
fn a_wrong_shape_or_dtype_is_refused_by_name() {
    let ctx = context(1);
    let f32s = poisoned(&ctx, DType::F32, [96]);
    let (bf16s, u32s) = (poisoned(&ctx, DType::Bf16, [96]), poisoned(&ctx, DType::U32, [4]));
    let (mut out, mut lse) = (poisoned(&ctx, DType::F32, [48]), poisoned(&ctx, DType::F32, [12]));
    let mut refuse = |shape, k: [usize; 3], v: &Block<Cpu>, cu_k, lse_grid: [usize; 2]| {
        let (q, k, v) = (f32s.range(0, [3, 4, 4]), f32s.range(0, k), v.range(0, k));
        let (cu_q, cu_k) = (u32s.range(0, [3]), u32s.range(0, [cu_k]));
        let (out, lse) = (out.view_mut([3, 4, 4]), lse.view_mut(lse_grid));
        attention::forward(&ctx, shape, q, k, v, cu_q, cu_k, out, lse).unwrap_err().to_string()
    };
    let good = shape(4, 2, 4, None);
    let message = refuse(shape(4, 3, 4, None), [3, 3, 4], &f32s, 3, [4, 3]);
    assert_eq!(message, "attention::forward: num_kv_heads = 3 does not divide num_heads = 4");
    let message = refuse(shape(4, 2, 258, None), [3, 2, 4], &f32s, 3, [4, 3]);
    assert_eq!(message, "attention::forward: head_dim = 258 is not an even number from 2 to 256");
    let message = refuse(shape(4, 2, 4, Some(0)), [3, 2, 4], &f32s, 3, [4, 3]);
    assert_eq!(message, "attention::forward: window = 0 hides every key; none means no window");
    let message = refuse(good, [3, 4, 4], &f32s, 3, [4, 3]);
    assert_eq!(message, "attention::forward: `k` has shape [3, 4, 4], expected [3, 2, 4]");
    let message = refuse(good, [3, 2, 4], &bf16s, 3, [4, 3]);
    assert_eq!(message, "attention::forward: `v` has dtype bf16, expected f32");
    let message = refuse(good, [3, 2, 4], &f32s, 4, [4, 3]);
    assert_eq!(message, "attention::forward: `cu_seqlens_k` has shape [4], expected [3]");
    let message = refuse(good, [3, 2, 4], &f32s, 3, [3, 4]);
    assert_eq!(message, "attention::forward: `logsumexp` has shape [3, 4], expected [4, 3]");
}
