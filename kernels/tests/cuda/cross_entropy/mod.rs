//! Losses of rows of logits: one rank and the phases of several, against the definition in f64 and the CPU device.

mod runs;
mod whole;

use std::cell::OnceCell;

use half::bf16;
use tisserand_kernels::ops::cross_entropy::IGNORED;
use tisserand_kernels::testing::{assert_close, tolerance};
use tisserand_kernels::{Context, DType};

#[cfg(feature = "emulator")]
use crate::support::counting;
use crate::support::{Dev, cpu, for_each_setting, with_warps_of_64};
use runs::{Outputs, Phases, Rows, fused, phases, reference, shards};

use DType::F32;

fn assert_outputs(name: &str, rows: &Rows, got: &Outputs<f32>, want: &Outputs<f64>) {
    // Logits are near 16 at most; their exponentials have errors relative to themselves.
    let bound = tolerance(F32, rows.vocab_size);
    let z_scale = 1.0 + 40.0 * f64::from(rows.z_loss);
    for (got, want) in got.losses.iter().zip(&want.losses) {
        assert_close(&format!("losses {name}"), got, want, 16.0 * z_scale, bound);
    }
    if let Some(scale) = rows.loss_scale {
        let scale = f64::from(scale) * z_scale;
        assert_close(&format!("gradients {name}"), &got.gradients, &want.gradients, scale, bound);
    }
}

/// Around a quad, a batch of quads, and the threads of a block, which are 64 to 2048 classes; several blocks. Of rows
/// of 132 classes all are aligned in f32, and every other one in bf16.
fn cases() -> Vec<Rows> {
    let sizes =
        [(1, 1), (3, 2), (4, 7), (3, 63), (5, 64), (4, 131), (5, 132), (3, 255), (3, 1024), (3, 1025)];
    let sizes = sizes.into_iter().chain([(4, 2049)]);
    let sizes = sizes.flat_map(|size| [0, 1].map(|start| (size, start)));
    sizes.map(|((tokens, vocab_size), start)| Rows::new(tokens, vocab_size, start)).collect()
}

fn assert_fused(ctx: &Context<Dev>) {
    for rows in cases() {
        let (name, want) =
            (format!("{} of {} from {}", rows.tokens(), rows.vocab_size, rows.start), reference(&rows));
        let got = fused(ctx, &rows);
        assert_outputs(&name, &rows, &got, &want);
        let evaluated = fused(ctx, &Rows { loss_scale: None, ..rows });
        assert_eq!(evaluated.losses, got.losses, "evaluation {name}");
    }
}

#[test]
fn losses_and_gradients_equal_the_reference() {
    for_each_setting(assert_fused);
    with_warps_of_64(assert_fused);
}

fn assert_phases(ctx: &Context<Dev>, rows: &Rows, ranks: usize) {
    let name = format!("{} of {} from {} over {ranks}", rows.tokens(), rows.vocab_size, rows.start);
    let (got, other, want) = (phases(ctx, rows, ranks), phases(&cpu(), rows, ranks), reference(rows));
    assert_eq!(got.maxima, other.maxima, "maxima {name}");
    let targets = |phases: &Phases| {
        phases.terms.iter().map(|terms| terms[rows.tokens()..].to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(targets(&got), targets(&other), "logits of labels {name}");
    for (rank, (shard, outputs)) in shards(rows, ranks).iter().zip(&got.outputs).enumerate() {
        let classes = shard.first_class..shard.first_class + shard.classes;
        let of_shard = |row: &[f64]| row[classes.clone()].to_vec();
        let gradients = if classes.is_empty() {
            vec![]
        } else {
            want.gradients.chunks(rows.vocab_size).flat_map(of_shard).collect()
        };
        let want = Outputs { losses: want.losses.clone(), gradients };
        assert_outputs(&name, rows, outputs, &want);
        // Exponentials of tokens with a loss.
        for (t, _) in rows.labels.iter().enumerate().filter(|(_, label)| **label != IGNORED) {
            let row = t * shard.classes..(t + 1) * shard.classes;
            let [got, other] = [&got, &other].map(|phases| &phases.exponentials[rank][row.clone()]);
            assert_eq!(got, other, "exponentials {name}");
        }
    }
}

fn assert_phases_of_cases(ctx: &Context<Dev>) {
    for (rows, ranks) in cases().iter().flat_map(|rows| [1, 2, 3].map(|ranks| (rows, ranks))) {
        assert_phases(ctx, rows, ranks);
    }
}

#[test]
fn phases_of_ranks_equal_the_reference_and_have_the_exponentials_of_the_cpu() {
    for_each_setting(assert_phases_of_cases);
    with_warps_of_64(assert_phases_of_cases);
}

/// Every class is a label, the first and the last of each rank among them. The ranks have 8 and 5 classes, or 6, 6
/// and 1: with and without elements beyond the row in its last quad, which the next rank's first class must not be.
#[test]
fn each_label_belongs_to_one_rank() {
    for_each_setting(|ctx| {
        let rows = Rows { labels: (0..13).collect(), ..Rows::new(13, 13, 0) };
        for ranks in [2, 3] {
            assert_phases(ctx, &rows, ranks);
        }
    });
}

fn assert_rounded(ctx: &Context<Dev>) {
    let all = |rows: &Rows| {
        let of_ranks = [1, 3].into_iter().flat_map(|ranks| phases(ctx, rows, ranks).outputs);
        std::iter::once(fused(ctx, rows)).chain(of_ranks).collect::<Vec<_>>()
    };
    for rows in cases() {
        let wide = all(&rows);
        // Either of the two alone at an odd address, both, and none.
        for start in [0, 1] {
            let name = format!("{} of {} from {} to {start}", rows.tokens(), rows.vocab_size, rows.start);
            let narrow = Rows { dlogits_start: Some(start), ..rows.clone() };
            for (got, wide) in all(&narrow).iter().zip(&wide) {
                let rounded: Vec<f32> =
                    wide.gradients.iter().map(|value| bf16::from_f32(*value).to_f32()).collect();
                assert_eq!(got.gradients, rounded, "{name}");
                assert_eq!(got.losses, wide.losses, "{name}");
            }
        }
    }
}

#[test]
fn gradients_apart_from_the_logits_are_those_in_their_place_rounded() {
    for_each_setting(assert_rounded);
    with_warps_of_64(assert_rounded);
}

/// The order of sums is a function of the width alone.
#[test]
fn bits_depend_neither_on_the_address_nor_on_the_order_of_threads() {
    let run = |ctx: &Context<Dev>, start| {
        let rows = Rows { start, ..Rows::new(3, 2052, 0) };
        let outputs = fused(ctx, &rows);
        let of_ranks = phases(ctx, &rows, 2).outputs;
        let all = std::iter::once(outputs)
            .chain(of_ranks)
            .flat_map(|Outputs { losses: [a, b], gradients }| [a, b, gradients]);
        all.map(|values| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let want = OnceCell::new();
    for_each_setting(|ctx| {
        for start in [0, 1, 2, 3, 4] {
            let got = run(ctx, start);
            assert!(got == *want.get_or_init(|| run(ctx, 0)), "from {start}");
        }
    });
}

#[test]
fn large_and_infinite_logits_do_not_overflow() {
    let (infinity, mut masked) = (f64::INFINITY, vec![-f64::INFINITY; 4 * 131]);
    let vocab_size = 131;
    // One class each, at places of different threads and quads; the third row has two.
    for (t, class) in [(0, 0), (1, 130), (2, 3), (2, 77), (3, 64)] {
        masked[t * vocab_size + class] = 1.0e4;
    }
    let rows = Rows {
        logits: masked,
        labels: vec![0, 130, 77, 64],
        vocab_size,
        start: 0,
        z_loss: 0.0,
        loss_scale: Some(1.0),
        dlogits_start: None,
    };
    let check = |name: &str, outputs: &Outputs<f32>| {
        assert_eq!(outputs.losses[0], [0.0, 0.0, 2.0_f32.ln(), 0.0], "{name}");
        let of_third = &outputs.gradients[2 * vocab_size..3 * vocab_size];
        assert_eq!([of_third[3], of_third[77]], [0.5, -0.5], "{name}");
        assert!(outputs.gradients.iter().filter(|gradient| **gradient != 0.0).count() == 2, "{name}");
    };
    for_each_setting(|ctx| {
        check("fused", &fused(ctx, &rows));
        check("phases", &phases(ctx, &rows, 1).outputs[0]);
        // Nothing left to choose from, or an infinite choice: no number.
        for logit in [-infinity, infinity] {
            let mut rows = rows.clone();
            rows.logits[..vocab_size].fill(logit);
            let outputs = fused(ctx, &rows);
            assert!(outputs.losses[0][0].is_nan() && outputs.losses[0][1] == 0.0, "{logit}");
        }
    });
}

#[test]
fn what_is_not_a_number_and_labels_that_are_no_class_show_in_the_loss() {
    for_each_setting(|ctx| {
        for class in [0, 5, 130] {
            let mut rows = Rows::new(2, 131, 0);
            rows.logits[131 + class] = f64::NAN;
            for losses in [fused(ctx, &rows).losses, phases(ctx, &rows, 1).outputs.remove(0).losses] {
                assert!(losses[0][0].is_finite() && losses[0][1].is_nan(), "{losses:?}");
            }
        }
        for label in [131, -1, i32::MAX, i32::MIN] {
            let rows = Rows { labels: vec![label, 3], ..Rows::new(2, 131, 0) };
            let of_ranks = phases(ctx, &rows, 2).outputs.into_iter().map(|outputs| outputs.losses);
            for losses in of_ranks.chain([fused(ctx, &rows).losses]) {
                assert!(losses[0][0].is_nan() && losses[0][1].is_finite(), "{label}: {losses:?}");
            }
        }
    });
}

#[test]
fn gradients_are_normal_numbers_or_zero() {
    const LEAST: f32 = f32::MIN_POSITIVE;
    for_each_setting(|ctx| {
        let gradients = |logits: &[f64], z_loss, loss_scale| {
            let (logits, vocab_size, loss_scale) = (logits.to_vec(), logits.len(), Some(loss_scale));
            let rows = Rows {
                logits,
                labels: vec![0],
                vocab_size,
                start: 0,
                z_loss,
                loss_scale,
                dlogits_start: None,
            };
            fused(ctx, &rows).gradients
        };
        let of_few = gradients(&[0.0, -86.0, -60.0], 0.0, 1.0 / 2048.0);
        assert_eq!(of_few[1], 0.0, "e^-86 / 2048 is subnormal");
        assert!(of_few[2].is_normal() && of_few[2] > 0.0);
        // Of two equal logits the other one has half of the scale. The least normal number is normal.
        let of_equal = |loss_scale| gradients(&[0.0, 0.0], 0.0, loss_scale)[1];
        assert_eq!([of_equal(2.0 * LEAST), of_equal(LEAST)], [LEAST, 0.0]);
        // With a logsumexp of -1 the z-loss outweighs the cross-entropy: a gradient below zero that is no label's.
        let of_largest = |z_loss| gradients(&[-20.0, -1.0], z_loss, LEAST)[1];
        assert_eq!([of_largest(1.0), of_largest(0.75)], [-LEAST, 0.0]);
    });
}

/// Every quad of an aligned row, the last one too.
#[cfg(feature = "emulator")]
#[test]
fn aligned_rows_are_moved_by_whole_sectors() {
    counting(|ctx| {
        for (dlogits_start, gradient_bytes) in [(None, 4), (Some(0), 2)] {
            let rows = Rows { labels: vec![3, 5], dlogits_start, ..Rows::new(2, 4096, 0) };
            ctx.device.driver().take_counters();
            fused(ctx, &rows);
            let counters = ctx.device.driver().take_counters();
            // Two reads of the logits and a write of the gradients.
            let of_rows = 2 * 4096 * (2 * 4 + gradient_bytes) / 32;
            // Each warp of a row's 128 threads reads label, label's logit and scale; one thread writes two losses.
            let of_tokens = 2 * (3 * 128 / 32 + 2);
            assert_eq!(counters.global_sectors, of_rows + of_tokens, "{gradient_bytes} bytes");
            assert_eq!(counters.shared_wavefronts, counters.shared_wavefronts_at_best);
        }
    });
}
