//! Attention: against the reference, for every width of a head, for packed, padded, windowed and cached documents.

use std::cell::OnceCell;

use tisserand_kernels::ops::attention::{self, AttentionShape, reference};
use tisserand_kernels::testing::{
    assert_close, bits, download, normal_f64, poisoned, rms, tolerance, upload, upload_as,
};
use tisserand_kernels::{Block, Context, DType, Device};

#[cfg(feature = "emulator")]
use crate::support::counting;
use crate::support::{FLOATS, for_each_setting, in_one_setting};

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

    /// Returns out, logsumexp, dq, dk, dv of the device; q lies `start` elements behind an aligned address.
    fn run<D: Device>(&self, ctx: &Context<D>, dtype: DType, start: usize) -> [Block<D>; 5] {
        let shape = self.shape;
        let [tokens_q, tokens_k] = self.tokens();
        let q_grid = [tokens_q, shape.num_heads, shape.head_dim];
        let k_grid = [tokens_k, shape.num_kv_heads, shape.head_dim];
        let lse_grid = [shape.num_heads, tokens_q];
        let [q, k, v, dout] = &self.inputs;
        let q: Vec<f64> = std::iter::repeat_n(7.0, start).chain(q.iter().copied()).collect();
        let [q, k, v, dout] = [&q, k, v, dout].map(|input| upload_as(ctx, dtype, input));
        let (q, k, v, dout) = (q.range(start, q_grid), k.view(k_grid), v.view(k_grid), dout.view(q_grid));
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

    fn check<D: Device>(&self, ctx: &Context<D>, dtype: DType) {
        self.check_from(ctx, dtype, 0);
    }

    fn check_from<D: Device>(&self, ctx: &Context<D>, dtype: DType, start: usize) {
        let Case { shape, cu_q, cu_k, inputs: [q, k, v, dout] } = self;
        let (out, logsumexp) = reference::forward(*shape, q, k, v, cu_q, cu_k);
        let (dq, dk, dv) = reference::backward(*shape, q, k, v, cu_q, cu_k, &out, &logsumexp, dout);
        let want = [out, logsumexp, dq, dk, dv];
        let got = self.run(ctx, dtype, start);
        // Sums run over keys, over head_dim inside the exponent, and over the rows of a group.
        let terms = shape.head_dim + self.tokens()[1] + shape.group() * self.tokens()[0];
        let names = ["out", "logsumexp", "dq", "dk", "dv"];
        for ((name, got), want) in names.iter().zip(&got).zip(&want) {
            let name = format!("{name} {shape:?} {dtype} {cu_q:?} {cu_k:?}");
            let finite: Vec<f64> = want.iter().copied().filter(|want| want.is_finite()).collect();
            // Where results are rounded to bf16, so are P and dS before they enter a product.
            let operands = if got.dtype() == DType::Bf16 { DType::Bf16.epsilon() } else { 0.0 };
            let tolerance = tolerance(got.dtype(), terms) + operands;
            // Gradients are differences of probabilities times terms of this size.
            let scale = rms(&finite).max(if name.starts_with("d") { 1.0 } else { 0.0 });
            assert_close(&name, &download(ctx, got), want, scale, tolerance);
        }
    }
}

#[test]
fn every_length_equals_the_reference() {
    in_one_setting(|ctx| {
        for length in [1, 15, 17, 63, 64, 65, 129, 260] {
            Case::new(shape(1, 1, 64, None), &[(length, length)], 0).check(ctx, DType::Bf16);
        }
        for length in [1, 3, 4, 33] {
            Case::new(shape(2, 1, 16, None), &[(length, length)], 0).check(ctx, DType::F32);
        }
    });
}

#[test]
fn every_head_dim_and_group_equals_the_reference() {
    in_one_setting(|ctx| {
        for head_dim in [2, 6, 16, 18, 34, 64, 72, 80, 96, 120, 128, 136, 256] {
            for (num_heads, num_kv_heads) in [(1, 1), (4, 2), (3, 1)] {
                let case = Case::new(shape(num_heads, num_kv_heads, head_dim, None), &[(17, 17), (5, 5)], 0);
                case.check(ctx, DType::Bf16);
                if head_dim < 40 {
                    case.check(ctx, DType::F32);
                }
            }
        }
    });
}

#[test]
fn documents_windows_and_caches_equal_the_reference() {
    in_one_setting(|ctx| {
        for window in [None, Some(1), Some(7), Some(100), Some(1000)] {
            for (documents, padding) in [(&PACKED[..], 7), (&CACHED, 1)] {
                Case::new(shape(2, 1, 64, window), documents, padding).check(ctx, DType::Bf16);
            }
        }
    });
}

/// (queries, keys) of documents that share tiles, among them some without queries or without keys.
const PACKED: [(u32, u32); 5] = [(5, 5), (0, 0), (131, 131), (1, 1), (64, 64)];
const CACHED: [(u32, u32); 7] = [(1, 70), (3, 100), (33, 33), (1, 1), (140, 170), (0, 9), (20, 4)];

#[test]
fn every_setting_gives_the_same_bits() {
    let cases = [(64, Some(50)), (128, None), (256, None)]
        .map(|(head_dim, window)| Case::new(shape(2, 1, head_dim, window), &[(70, 70), (3, 30)], 2));
    let run = |ctx: &Context<_>| {
        cases.iter().map(|case| case.run(ctx, DType::Bf16, 0).map(|block| bits(ctx, &block))).collect()
    };
    let first: OnceCell<Vec<_>> = OnceCell::new();
    for_each_setting(|ctx| {
        cases.iter().for_each(|case| case.check(ctx, DType::Bf16));
        let got: Vec<_> = run(ctx);
        assert!(&got == first.get_or_init(|| got.clone()));
    });
}

#[test]
fn every_setting_gives_the_same_bits_without_tensor_cores() {
    let case = Case::new(shape(2, 1, 18, Some(5)), &[(9, 9), (3, 8)], 2);
    let first: OnceCell<Vec<_>> = OnceCell::new();
    for_each_setting(|ctx| {
        for dtype in FLOATS {
            case.check(ctx, dtype);
        }
        let got = FLOATS.map(|dtype| case.run(ctx, dtype, 0).map(|block| bits(ctx, &block))).to_vec();
        assert!(&got == first.get_or_init(|| got.clone()));
    });
}

#[test]
fn rows_at_odd_addresses_equal_the_reference() {
    let case = Case::new(shape(2, 1, 64, None), &[(20, 20)], 0);
    in_one_setting(|ctx| {
        for start in [1, 4] {
            case.check_from(ctx, DType::Bf16, start);
        }
        case.check_from(ctx, DType::Bf16, 8);
    });
}

#[test]
fn a_query_without_keys_gives_zero_and_no_gradient() {
    in_one_setting(|ctx| {
        for dtype in FLOATS {
            let case = Case::new(shape(2, 1, 16, None), &[(40, 5), (3, 0), (30, 2)], 0);
            case.check(ctx, dtype);
            let [out, logsumexp, dq, ..] = case.run(ctx, dtype, 0).map(|block| download(ctx, &block));
            assert!(out[..35 * 32].iter().chain(&dq[..35 * 32]).all(|&value| value == 0.0));
            assert!(logsumexp[..35].iter().all(|&value| value == f32::NEG_INFINITY));
            // Not one key at all.
            Case::new(shape(2, 1, 16, None), &[(3, 0)], 0).check(ctx, dtype);
        }
        // Whole tiles of tensor cores without a key, and without a query.
        for documents in [[(200, 5), (3, 0)], [(3, 0), (0, 0)], [(5, 200), (0, 90)]] {
            Case::new(shape(2, 1, 64, None), &documents, 0).check(ctx, DType::Bf16);
        }
    });
}

#[test]
fn large_logits_do_not_overflow() {
    in_one_setting(|ctx| {
        for dtype in FLOATS {
            let mut case = Case::new(shape(2, 2, 16, None), &[(70, 70)], 0);
            for value in case.inputs[..2].iter_mut().flatten() {
                *value *= 64.0;
            }
            let got = case.run(ctx, dtype, 0).map(|block| download(ctx, &block));
            assert!(got.iter().flatten().all(|value| value.is_finite()));
            let [q, k, v, _] = &case.inputs;
            let (out, _) = reference::forward(case.shape, q, k, v, &case.cu_q, &case.cu_k);
            // Logits of size 16,000 leave an absolute error of about 1e-2 in the exponent.
            assert_close("out", &got[0], &out, 1.0, 0.05);
        }
    });
}

#[test]
fn values_with_a_common_part_keep_small_gradients() {
    // All keys of a row share most of dout · v: delta takes it away, and what is left must not drown.
    let mut case = Case::new(shape(1, 1, 64, None), &[(150, 150)], 0);
    // bf16 between 16 and 32 are multiples of 1/8.
    case.inputs[2].iter_mut().for_each(|v| *v = 16.0 + (*v * 8.0).round().abs() / 8.0);
    in_one_setting(|ctx| case.check(ctx, DType::Bf16));
}

#[cfg(feature = "emulator")]
#[test]
fn accesses_are_coalesced_and_banks_do_not_conflict() {
    counting(|ctx| {
        for head_dim in [64, 128, 256] {
            let _ = Case::new(shape(1, 1, head_dim, None), &[(128, 128)], 0).run(ctx, DType::Bf16, 0);
        }
        let counters = ctx.device.driver().counters();
        assert_eq!(counters.shared_wavefronts, counters.shared_wavefronts_at_best, "{counters:?}");
        assert_eq!(counters.global_sectors, counters.global_sectors_at_best, "{counters:?}");
    });
}
